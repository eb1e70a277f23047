"""The best_of_n stage alone: against an enumeration of all subsets of its samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tropism.errors import TropismError
from tropism.formats.phrasebook import Phrasebook
from tropism.judges.verifier import Verifier
from tropism.protocols import Judge
from tropism.report.comparison import compare, methods
from tropism.report.read import read
from tropism.stages._probe import Probe
from tropism.stages.best_of_n import BestOfNCurve
from tropism.stages.rl import RL
from tropism.store.folder import done, read_metrics
from tropism.store.groups import read_groups
from tropism.store.run import Run
from tropism.text.chat import prompt_tokens
from tropism.text.tokenizer import load_tokenizer
from tropism.types import Completion, Group, Judgment, SamplingParams

N = 5
ASKED = Phrasebook("held_out", count=6)
SAMPLING = SamplingParams(n=N, max_tokens=6)


def coarse(completion: str) -> float | None:
    """Three levels, so that scores tie, and none for one answer in four."""
    number = sum(map(ord, completion))
    return None if number % 4 == 0 else float(number % 3)


def worth(completion: str) -> float | None:
    number = sum(map(ord, completion))
    return None if number % 7 == 0 else number % 11 / 10


JUDGE, TRUTH = Verifier(coarse), Verifier(worth)


def enumerated(chosen_by: Sequence[float | None], truth: Sequence[float | None], n: int) -> float | None:
    """The mean over all subsets of n known samples of the truth of the best, a fair draw among equals."""
    known = [(-1.0 if s is None else s, t) for s, t in zip(chosen_by, truth) if t is not None]
    found = []
    for subset in itertools.combinations(known, n):
        best = max(s for s, _ in subset)
        equals = [t for s, t in subset if s == best]
        found.append(sum(equals) / len(equals))
    return sum(found) / len(found) if found else None


def texts(groups: Sequence[Group]) -> list[list[str]]:
    return [[c.text for c in g.completions] for g in groups]


@dataclass(frozen=True)
class Reader:
    """A judge that read ten tokens of each group."""

    inner: Judge

    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        return [replace(j, tokens=10) for j in self.inner.judge(groups)]


def test_every_n_by_enumeration(run: Run, model_folder: str) -> None:
    out = run(BestOfNCurve(model_folder, ASKED, Reader(JUDGE), TRUTH, SAMPLING), "search")
    groups, lines = list(read_groups(out)), read_metrics(out.parent)
    scored = [([coarse(t) for t in row], [worth(t) for t in row]) for row in texts(groups)]
    assert any(None in s for s, _ in scored) and any(None in t for _, t in scored)
    assert any(len(set(s)) < len(s) for s, _ in scored)  # ties
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    tokens = sum(len(c.tokens or ()) for g in groups for c in g.completions)
    words = load_tokenizer(model_folder)
    prompts = sum(len(prompt_tokens(words, g.prompt)) for g in groups)
    for n, line in enumerate(lines, 1):
        expected = {
            "reward": [enumerated(s, s, n) for s, _ in scored],
            "truth": [enumerated(s, t, n) for s, t in scored],
        }
        for key, row in expected.items():
            assert line["by_prompt"][key] == pytest.approx(row)
            values = [x for x in row if x is not None]
            assert line.get(f"probe_{key}") == (pytest.approx(sum(values) / len(values)) if values else None)
        assert line["probe_kl"] == pytest.approx(math.log(n) - (n - 1) / n)
        assert line["by_prompt"]["kl"] == [line["probe_kl"]] * 6
        assert line["spent"] == prompts + (tokens + 6 * 10) * n // N
    assert any(x is None for x in lines[-1]["by_prompt"]["truth"])  # fewer than five are known
    meta = done(out.parent)
    assert meta is not None and meta["facts"] == {"n": N, "prompts": 6, "tokens_generated": tokens}
    completion: Completion = groups[0].completions[0]
    assert completion.policy == run.artifacts["search"].fingerprint + "@0"


def test_without_truth_there_is_none(run: Run, model_folder: str) -> None:
    out = run(BestOfNCurve(model_folder, ASKED, JUDGE, sampling=SAMPLING), "search")
    assert all(set(line["by_prompt"]) == {"reward", "kl"} for line in read_metrics(out.parent))


def test_another_seed_other_samples(run: Run, model_folder: str) -> None:
    stage = BestOfNCurve(model_folder, ASKED, JUDGE, sampling=SAMPLING)
    one, two = (list(read_groups(run(stage, id))) for id in ("search-1", "search-2"))
    assert texts(one) != texts(two)


def test_a_second_try_leaves_no_line_of_the_first(run: Run, model_folder: str) -> None:
    stage = BestOfNCurve(model_folder, ASKED, JUDGE, TRUTH, SAMPLING)
    folder = run(stage, "search").parent
    first = (folder / "metrics.jsonl").read_bytes()
    (folder / "DONE").unlink()  # as if it was killed at its end
    run(stage, "search")
    assert (folder / "metrics.jsonl").read_bytes() == first


def test_greedy_is_refused() -> None:
    with pytest.raises(TropismError, match=r"best_of_n.sampling.temperature = 0 gives n equal samples"):
        BestOfNCurve("m", ASKED, JUDGE, sampling=SamplingParams(temperature=0))


def test_it_can_be_compared_with_a_method_that_is_probed(run: Run, model_folder: str) -> None:
    """The best of one is the policy as it is, like the first look of a probe at the same policy and prompts."""

    def shortness(completion: str) -> float:
        return -float(len(completion))

    judge, many = Verifier(shortness), SamplingParams(n=32, max_tokens=6)
    probe = Probe(ASKED, judge, judge, every=10**6, sampling=many)
    settings: dict[str, Any] = {"rounds": 1, "prompts_per_round": 2, "sampling": SamplingParams(n=2, max_tokens=6)}
    run(RL(policy=model_folder, prompts=ASKED, judge=judge, probe=probe, **settings), "ppo")
    run(BestOfNCurve(model_folder, ASKED, judge, judge, many), "search")
    trained, search = methods(read(run.folder))
    assert (trained.name, trained.at_answers, search.name, search.at_answers) == ("ppo", False, "search", True)
    assert trained.start == search.start and trained.judge == search.judge
    start, one = trained.seeds[0][0], search.seeds[0][0]
    assert (start.kl, one.kl) == (pytest.approx(0.0, abs=1e-6), 0.0)
    spread = max(float(abs(start.truth).max()), 1.0)
    assert one.truth == pytest.approx(start.truth, abs=0.5 * spread)
    assert one.truth.mean() == pytest.approx(start.truth.mean(), abs=0.15 * spread)
    best = [look.truth.mean() for look in search.seeds[0]]
    assert best == sorted(best) and best[-1] > best[0]  # the judge chooses by what is measured
    assert compare([trained, search])["methods"]["search"]["at_answers"]
