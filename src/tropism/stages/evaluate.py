"""Stage: models side by side on held-out prompts, each figure with its n and 95 % interval (over prompts).

The judge may see the reference answer; no model and no reward model does. A model named in `plain` is asked in raw text,
as it has never seen a chat template. Writes the answers, a checkpoint after each model, and then `evaluation.json`.

KL is the mean log-ratio of a model's own samples, so it stands only where they are samples, of the same tokens; where it
is left out, `left_out` says why. What is so by construction (a model against itself) is no measurement and is left out.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from sacrebleu.metrics.chrf import CHRF
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tropism.asking.search import drive
from tropism.engines.local import Local
from tropism.errors import TropismError
from tropism.models.folder import context_of, load_lm
from tropism.needs import Earlier, Needs, count, sampling
from tropism.protocols import Engine, EngineSpec, Format, Judge, Search
from tropism.stages._overlap import overlap
from tropism.stages._probe import kl_by_prompt
from tropism.stages._read import read
from tropism.stages._reward_figures import held_out_groups, reward_figures
from tropism.stages._text_metrics import TextMetric, measure
from tropism.store import files
from tropism.store.groups import read_groups, write_groups
from tropism.store.work import Work
from tropism.tensors import statistics
from tropism.tensors.encode import question
from tropism.tensors.statistics import SHARE, Figure, Range
from tropism.text.tokenizer import load_tokenizer
from tropism.train import parallel
from tropism.train.rollouts import judgments
from tropism.types import Completion, Group, Message, PolicyRef, SamplingParams, ScorerRef

__all__ = ["Evaluate"]

FILE = "evaluation.json"
SHOWN = 40  # prompts whose answers the report shows side by side
PERCENT: Range = (0.0, 100.0)
KINDS = ("greedy", "sampled")


@dataclass(frozen=True)
class Evaluate:
    """`models` by the names the report gives them; `over` is the one that the others are compared with.

    `judge` is the truth, `proxy` the reward model (to see how far it is from the truth). `completes` are raw-text
    prompts for the model `base`; `reward` is a reward stage, measured on its held-out groups against the judgments of
    `against`. `metrics` score the answers against the references, all prompts together: "bleu", "chrf", "rouge_l"; the
    figures are `bleu_greedy`, `bleu_sampled` and so on, with their `signatures`. A model named in `searches` draws its
    sampled answers by that search, with the proxy to choose by: the same model may stand there under two names.
    """

    models: Mapping[str, PolicyRef]
    prompts: Format
    judge: Judge | None = None
    proxy: Judge | None = None
    over: str = "sft"
    base: str = "base"
    plain: tuple[str, ...] = ("base",)
    completes: Format | None = None
    reward: ScorerRef | None = None
    against: str = "truth"
    metrics: tuple[TextMetric, ...] = ()
    searches: Mapping[str, Search] = field(default_factory=dict)
    sampling: SamplingParams = SamplingParams(n=4, max_tokens=48)
    engine: EngineSpec = Local()

    version: ClassVar[int] = 3
    makes: ClassVar[Literal["report"]] = "report"

    def __post_init__(self) -> None:
        if self.over not in self.models:
            raise TropismError(f"over = {self.over!r} is none of the models: choose one of {', '.join(self.models)}")
        if self.completes is not None and self.base not in self.models:
            raise TropismError(f"base = {self.base!r} is none of the models, so nothing can complete the raw text")
        if stray := next((name for name in self.searches if name not in self.models or name in self.plain), None):
            raise TropismError(f"searches.{stray} names none of the models that answer chats: name one of them")
        if self.searches and self.proxy is None:
            raise TropismError("searches choose by the proxy: give evaluate a `proxy`")
        if bad := next((name for name in self.models if not re.fullmatch(r"[\w-]+", name)), None):
            raise TropismError(f"models.{bad} cannot name a file: use letters, digits, _ and -")

    def needs(self, earlier: Earlier) -> Needs:
        shapes = [shape for ref in self.models.values() if (shape := earlier.model(ref))]
        largest = max(shapes, key=lambda shape: shape.parameters, default=None)
        each = (self.sampling.n + 1) * self.sampling.max_tokens
        tokens = len(self.models) * count(self.prompts.groups()) * each
        return sampling(largest, tokens=tokens, keys=("models",), held=3)

    def run(self, work: Work) -> None:
        asked = read(self.prompts, "prompts", work)
        if self.metrics and (alone := next((g.id for g in asked if g.target is None), None)):
            raise TropismError(f"metrics compare with a reference answer and group {alone} has none: leave metrics out")
        result: dict[str, Any] = {"over": self.over, "overlap": overlap(work, self, asked)}
        if self.reward:  # first, as it may find that `against` is wrong
            result["reward_model"] = reward_figures(held_out_groups(self.reward), self.against)
        answers = self._answers(asked, work)
        for name, found in answers.items():
            write_groups(found["sampled"], work.out / f"{name}.parquet")
        within = {label: _bounds(answers, label) for label in ("truth", "proxy")}
        ours, reference = answers[self.over]["sampled"], None
        result["models"] = {}
        for name, found in answers.items():
            figures = self._figures(name, found, ours, within)
            if not self._is_over(name):
                reference = reference or (load_lm(self.models[self.over]), load_tokenizer(self.models[self.over]))
                figures |= self._kl(name, found["sampled"], *reference)
            result["models"][name] = figures
        if self.completes is not None:
            result["base_completes"] = self._completes(work)
        result["answers"] = _side_by_side(answers)
        files.write_json(work.out / FILE, result)

    def _answers(self, asked: list[Group], work: Work) -> dict[str, dict[str, list[Group]]]:
        """By model and kind. A checkpoint after each model: sampling is what takes long, and figures may fail."""
        answers: dict[str, dict[str, list[Group]]] = {}

        def fill(folder: Path) -> None:
            for name, found in answers.items():
                for kind in KINDS:
                    write_groups(found[kind], folder / f"{name}.{kind}.parquet")

        done, saved = work.restore() or (0, Path())
        each = len(asked) * (self.sampling.n + 1)
        with work.progress("answering", len(self.models) * each) as bar:
            for number, (name, path) in enumerate(self.models.items(), 1):
                if number <= done:
                    answers[name] = {kind: list(read_groups(saved / f"{name}.{kind}.parquet")) for kind in KINDS}
                    bar.advance(each)
                    continue
                answers[name] = self._answer(name, path, asked, work)
                work.save(number, fill)
                tokens = sum(len(c.tokens or ()) for g in answers[name]["sampled"] for c in g.completions)
                bar.advance(each, rated=tokens)
        return answers

    def _answer(self, name: str, path: str, asked: list[Group], work: Work) -> dict[str, list[Group]]:
        """The groups with one greedy completion, and with sampled ones, both judged."""
        tokenizer = load_tokenizer(path)
        model = load_lm(path)
        engine = self.engine.open(model, tokenizer, name)
        asked = [dataclasses.replace(g, prompt=_plain(g)) if name in self.plain else g for g in asked]
        for group in asked:
            question(group, tokenizer, context_of(model), self.sampling.max_tokens)
        greedy = dataclasses.replace(self.sampling, n=1, temperature=0.0)
        sampled = dataclasses.replace(self.sampling, seed=self.sampling.seed + work.seed)
        found: dict[str, list[Group]] = {}
        for kind, params in zip(KINDS, (greedy, sampled)):
            if kind == "sampled" and name in self.searches:
                made = self._searched(self.searches[name], asked, engine, params)
            else:
                made = parallel.generate(engine, [g.prompt for g in asked], params)
            groups = [dataclasses.replace(g, completions=c, judgments=()) for g, c in zip(asked, made)]
            for label, judge in (("truth", self.judge), ("proxy", self.proxy)):
                if judge is not None and not (label == "proxy" and name in self.plain):
                    groups = [
                        dataclasses.replace(g, judgments=(*g.judgments, dataclasses.replace(j, judge=label)))
                        for g, j in zip(groups, judgments(judge, groups))
                    ]
            found[kind] = groups
        return found

    def _searched(
        self, search: Search, asked: list[Group], engine: Engine, params: SamplingParams
    ) -> list[tuple[Completion, ...]]:
        """For each prompt what `params.n` searches of their own end with."""
        assert self.proxy is not None
        each = [g for g in asked for _ in range(params.n)]
        found = drive(search, each, engine, self.proxy, dataclasses.replace(params, n=1))
        answers = iter(f.group.completions[0] for f in found)
        return [tuple(next(answers) for _ in range(params.n)) for _ in asked]

    def _is_over(self, name: str) -> bool:
        """Whether the model is the one that all are compared with, also under another name: it gives the same answers."""
        asked = [(self.models[n], n in self.plain, self.searches.get(n)) for n in (name, self.over)]
        return name == self.over or (asked[0] == asked[1] and name not in self.searches)

    def _figures(
        self, name: str, found: dict[str, list[Group]], ours: list[Group], within: Mapping[str, Range | None]
    ) -> dict[str, Any]:
        greedy, sampled = found["greedy"], found["sampled"]
        n, each = len(sampled), self.sampling.n
        figures: dict[str, Any] = {"n": n, "samples": each}
        if all(g.target is not None for g in greedy):
            exact = [float(np.mean([_exact(c.text, g.target) for c in g.completions])) for g in sampled]
            right = sum(_exact(g.completions[0].text, g.target) for g in greedy)
            figures |= {"exact_greedy": statistics.proportion(right, n), "exact_sampled": statistics.mean(exact, SHARE)}
            if "chrf" not in self.metrics:
                chrf = CHRF()
                figures["chrf"] = statistics.mean(
                    [chrf.sentence_score(g.completions[0].text.strip(), [g.target or ""]).score for g in greedy],
                    PERCENT,
                )
        figures |= self._texts(found)
        for label, key in (("truth", "quality"), ("proxy", "reward")):
            if (scores := _scores(sampled, label)) is not None:
                figures[key] = statistics.mean([float(np.mean(s)) for s in scores], within[label])
        theirs, mine = (None if self._is_over(name) else _scores(groups, "truth") for groups in (ours, sampled))
        if theirs is not None and mine is not None:
            won = [statistics.wins(a, b) for a, b in zip(mine, theirs)]
            figures[f"win_over_{self.over}"] = statistics.mean(won, SHARE)
        stops = [[c.finish_reason == "stop" for c in g.completions] for g in sampled]
        if all(c.tokens is not None for g in sampled for c in g.completions):
            lengths = [[len(c.tokens or ()) for c in g.completions] for g in sampled]
            longest = max(self.sampling.max_tokens, max(map(max, lengths)))  # a search may join several samples
            figures["tokens"] = statistics.mean([float(np.mean(x)) for x in lengths], (0.0, float(longest)))
        figures["stop_rate"] = statistics.mean([float(np.mean(x)) for x in stops], SHARE)
        return figures

    def _kl(
        self, name: str, sampled: list[Group], reference: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> dict[str, Any]:
        """The KL of a model's samples to the reference, or why there is none."""
        key = f"kl_to_{self.over}"
        if self.sampling.temperature == 0:
            return {"left_out": {key: "at temperature 0 nothing is sampled"}}
        if raw := [n for n in (name, self.over) if n in self.plain]:
            return {"left_out": {key: f"{raw[0]} is asked in raw text"}}
        if name in self.searches:
            return {"left_out": {key: "a search chose the answers, which leaves no probability"}}
        if load_tokenizer(self.models[name]).get_vocab() != tokenizer.get_vocab():
            return {"left_out": {key: f"its tokens are not those of {self.over}"}}
        if any(c.logprobs is None for g in sampled for c in g.completions):
            return {"left_out": {key: "some answers have no log-probabilities"}}
        nats = kl_by_prompt(sampled, reference, tokenizer, self.sampling)
        if not all(map(math.isfinite, nats)):
            return {"left_out": {key: f"some answers are impossible for {self.over} with this top_k and top_p"}}
        return {key: statistics.mean(nats)}

    def _texts(self, found: Mapping[str, list[Group]]) -> dict[str, Any]:
        """The `metrics` of greedy and of sampled answers, and how each was computed."""
        figures: dict[str, Any] = {}
        signatures: list[str] = []
        for metric in self.metrics:
            for kind, groups in found.items():
                answers, right = [[c.text for c in g.completions] for g in groups], [g.target or "" for g in groups]
                figures[f"{metric}_{kind}"], signature = measure(metric, answers, right)
            signatures.append(signature)
        return figures | ({"signatures": signatures} if signatures else {})

    def _completes(self, work: Work) -> Figure:
        """How often the base model, given raw text to go on with, goes on rightly (its first line)."""
        assert self.completes is not None
        groups = read(self.completes, "completes", work)
        path = self.models[self.base]
        engine = self.engine.open(load_lm(path), load_tokenizer(path), self.base)
        params = SamplingParams(temperature=0.0, max_tokens=self.sampling.max_tokens, stop=("\n",))
        made = parallel.generate(engine, [g.prompt for g in groups], params)
        return statistics.proportion(sum(_exact(c[0].text, g.target) for g, c in zip(groups, made)), len(groups))


def _exact(text: str, target: str | None) -> bool:
    return target is not None and text.strip() == target.strip()


def _plain(group: Group) -> tuple[Message, ...]:
    """The question as a document would begin."""
    return (Message("text", "\n".join(m.content for m in group.prompt) + "\n"),)


def _bounds(answers: Mapping[str, Mapping[str, list[Group]]], label: str) -> Range | None:
    """Of a judge, as far as all that it said of any model tells."""
    judged = [g.judgment(label) for found in answers.values() for groups in found.values() for g in groups]
    return statistics.bounds([s for j in judged if j for s in j.scores if s is not None])


def _scores(groups: Sequence[Group], judge: str) -> list[list[float]] | None:
    """Per group the scores given; None if the judge did not look or could not tell for some group."""
    found = [[s for s in j.scores if s is not None] if (j := g.judgment(judge)) else [] for g in groups]
    return found if all(found) else None


def _side_by_side(answers: Mapping[str, Mapping[str, list[Group]]]) -> list[dict[str, Any]]:
    """For the first prompts: the question, the reference, and each model's greedy and first sampled answer."""
    first = next(iter(answers.values()))["greedy"]
    rows = []
    for i, group in enumerate(first[:SHOWN]):
        row: dict[str, Any] = {"id": group.id, "target": group.target, "models": {}}
        for name, found in answers.items():
            greedy, sampled = found["greedy"][i], found["sampled"][i]
            row["models"][name] = {
                "prompt": [m.content for m in greedy.prompt],
                "greedy": greedy.completions[0].text,
                "sampled": sampled.completions[0].text,
                "quality": _first(greedy, "truth"),
                "reward": _first(greedy, "proxy"),
            }
        rows.append(row)
    return rows


def _first(group: Group, judge: str) -> float | None:
    found = group.judgment(judge)
    return found.scores[0] if found else None
