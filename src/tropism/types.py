"""The nouns of tropism: every stage of alignment handles one `Group`, a prompt with K completions and judgments.

Text side only: frozen, JSON-serialisable, no torch. The tensor side is `tensors/batch.py`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval

from tropism.errors import TropismError

__all__ = [
    "About",
    "Artifact",
    "Completion",
    "Evaluation",
    "Group",
    "Judgment",
    "Message",
    "Rate",
    "Sample",
    "SamplingParams",
    "Step",
]

Role = Literal["system", "user", "assistant", "tool", "text"]
FinishReason = Literal["stop", "length", "error"]
Drawn = Literal["greedy", "sampled"]  # how an answer was chosen


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. The role `text` is raw text that no chat template touches (the only message of its prompt)."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample `n` completions of a prompt.

    `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 keep the whole distribution. A sample is a function of the
    weights, the prompt's tokens, the prefix, `seed` and its number among the n: not of what else is sampled beside it.
    """

    n: Annotated[int, Ge(1)] = 1
    max_tokens: Annotated[int, Ge(1)] = 128
    temperature: Annotated[float, Ge(0)] = 1.0
    top_k: Annotated[int, Ge(0)] = 0
    top_p: Annotated[float, Interval(gt=0, le=1)] = 1.0
    seed: Annotated[int, Interval()] = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer.

    `tokens` include the stop token if it was produced; `sampled` is False where a token was forced on the policy (tool
    output, another speaker's turn, a prefix) and True where it was chosen; `logprobs` are nats under the distribution
    actually sampled from, 0 where nothing was. All three are None for an answer that came as text. `tokenizer` is the
    `identity` of the one whose tokens they are ("" where nobody wrote it down).
    """

    text: str
    tokens: tuple[int, ...] | None = None
    sampled: tuple[bool, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    finish_reason: FinishReason = "stop"
    policy: str = ""
    tokenizer: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """A reward inside an answer: for its text up to and with character number `end`, the first being number 1."""

    end: int
    reward: float


@dataclass(frozen=True, slots=True)
class Judgment:
    """What one judge said of the K completions: higher is better, None = abstained or unreadable (never 0, never a tie).
    A score that is NaN is None from here on.

    `scale` says whether only the order among these K means something (`ordinal`) or the scores themselves (`interval`);
    `shown` is the order in which the completions stood before the judge; `tokens` is what models read to say it.
    `steps` are rewards inside each completion, beside its score and in the same units; None for one that has none.
    """

    judge: str
    scores: tuple[float | None, ...]
    scale: Literal["ordinal", "interval"] = "interval"
    rationale: str = ""
    shown: tuple[int, ...] | None = None
    tokens: int = 0
    steps: tuple[tuple[Step, ...] | None, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", tuple(None if s is None or s != s else s for s in self.scores))

    @property
    def name(self) -> str:
        """The judge without its @version."""
        return self.judge.partition("@")[0]

    @property
    def best(self) -> int | None:
        """The number, from 0, of the completion scored highest, the first of equals; None if none is scored."""
        scored = [(score, -k) for k, score in enumerate(self.scores) if score is not None]
        return -max(scored)[1] if scored else None

    def refuse_infinite(self, group: str) -> None:
        """Raises TropismError if a score is infinite, which no mean and no update survives."""
        for number, score in enumerate(self.scores, 1):
            if score is not None and math.isinf(score):
                raise TropismError(
                    f"the judge {self.judge} gave {score} to completion {number} of the group {group}: mend it, or let "
                    "it say None where it cannot tell"
                )

    def refuse_odd_steps(self, group: Group) -> None:
        """Raises TropismError unless there are steps for every completion, inside its text and with finite rewards."""
        if self.steps is None:
            return
        if len(self.steps) != len(group.completions):
            raise TropismError(
                f"the judge {self.judge} gave steps for {len(self.steps)} of {len(group.completions)} completions of the "
                f"group {group.id}: give one entry for each, None where there are none"
            )
        for number, (steps, completion) in enumerate(zip(self.steps, group.completions), 1):
            odd = [s for s in steps or () if not 1 <= s.end <= len(completion.text) or not math.isfinite(s.reward)]
            if odd:
                raise TropismError(
                    f"the judge {self.judge} gave {odd[0]} to completion {number} of the group {group.id}, which has "
                    f"{len(completion.text)} characters: give an end from 1 to that and a finite reward"
                )


@dataclass(frozen=True, slots=True)
class Group:
    """One prompt, K completions, any number of judgments on them.

    `meta` says source, licence, split, tags, and of a document what it is about (`store/contents.py`)."""

    id: str
    prompt: tuple[Message, ...]
    completions: tuple[Completion, ...] = ()
    judgments: tuple[Judgment, ...] = ()
    target: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def judgment(self, judge: str) -> Judgment | None:
        """The newest judgment by `judge`, a name without its @version; None if there is none."""
        return next((j for j in reversed(self.judgments) if j.name == judge), None)

    def judged(self, judge: str) -> Judgment:
        """The newest judgment by `judge`, with one finite score or None for each completion. Raises TropismError."""
        found = self.judgment(judge)
        if found is None:
            known = ", ".join(sorted({j.name for j in self.judgments})) or "none"
            raise TropismError(f"group {self.id} has no judgment by {judge!r} (it has: {known}): name one of those")
        if len(found.scores) != len(self.completions):
            raise TropismError(
                f"group {self.id}: {found.judge} gave {len(found.scores)} scores for {len(self.completions)} "
                "completions: run the label stage again"
            )
        found.refuse_infinite(self.id)
        return found

    def only(self, k: int) -> Group:
        """The group with its completion number k, and of each judgment the score of that one."""
        judgments = tuple(
            dataclasses.replace(j, scores=(j.scores[k],), shown=None, steps=j.steps and (j.steps[k],))
            for j in self.judgments
        )
        return dataclasses.replace(self, completions=(self.completions[k],), judgments=judgments)


Makes = Literal["tokenizer", "base", "policy", "scorer", "model", "groups", "report"]
"""What a stage makes. Of models: one that has only read raw text, one that answers, one that scores (a reward model); the
plain `model` is for a stage from outside the package that cannot say which."""

MODELS: tuple[Makes, ...] = ("base", "policy", "scorer", "model")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What several models said to the same prompts: what a measure measures.

    `answers[name]["greedy"]` are the groups with one greedy completion, `["sampled"]` those with samples, both judged by
    "truth" and "proxy" as far as the evaluation has them. `models` are folders or hub ids by name; `over` is the one that
    the others are compared with, `plain` were asked in raw text, and the samples of those `searched` a search chose.
    """

    answers: Mapping[str, Mapping[Drawn, Sequence[Group]]]
    models: Mapping[str, str]
    over: str
    sampling: SamplingParams
    plain: Sequence[str] = ()
    searched: Collection[str] = ()

    def others(self) -> list[str]:
        """The models but `over`, also under another name: the same model, asked in the same way, says the same."""
        over = (self.models[self.over], self.over in self.plain, self.over in self.searched)
        same = {n for n in self.models if n not in self.searched and (self.models[n], n in self.plain, False) == over}
        return [n for n in self.models if n != self.over and n not in same]


@dataclass(frozen=True, slots=True)
class About:
    """What a reader is told of a figure, and when an evaluation has it.

    `name` is its key in evaluation.json and `title` its heading; `{over}` in them stands for the model that others are
    compared with. The `unit` "share" is written in percent. `better` says which way is better, "" if neither. `of` says
    which answers are measured: with both there are two figures, whose names and titles end in "greedy" and "sampled".
    `target`: it needs the reference answer of every prompt. `usual`: every evaluation has it, not only one whose `metrics`
    name it. `cite` says how it is computed, as papers cite it. `order` is its place among the others.
    """

    name: str
    title: str
    unit: str = ""
    better: Literal["higher", "lower", ""] = ""
    of: tuple[Drawn, ...] = ("sampled",)
    target: bool = False
    usual: bool = True
    cite: str = ""
    order: Annotated[int, Interval()] = 1000

    def key(self, drawn: Drawn, over: str) -> str:
        """Its name among the figures of a model."""
        return (f"{self.name}_{drawn}" if len(self.of) > 1 else self.name).replace("{over}", over)

    def shown(self, drawn: Drawn) -> dict[str, str]:
        """What `evaluation.json` says of it."""
        title = f"{self.title}, {drawn}" if len(self.of) > 1 else self.title
        return {"title": title, "unit": self.unit, "better": self.better}


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a stage leaves behind for later stages: a folder or file that the ecosystem can read."""

    makes: Makes
    path: Path
    fingerprint: str
    stage: str


@dataclass(frozen=True, slots=True)
class Ref:
    """Marks a recipe field that names an earlier stage by id, or, where it takes a model, a folder or a hub id."""

    what: str  # in a sentence
    takes: tuple[Makes, ...]


ModelRef = Annotated[str, Ref("a model", MODELS)]
PolicyRef = Annotated[str, Ref("a base model or a policy", ("base", "policy", "model"))]
ScorerRef = Annotated[str, Ref("a reward model", ("scorer", "model"))]
GroupsRef = Annotated[str, Ref("groups", ("groups",))]
TokenizerRef = Annotated[str, Ref("a tokenizer or a model", ("tokenizer", *MODELS))]


@dataclass(frozen=True, slots=True)
class Sample:
    """A search asks for `params.n` completions of `prompt`, and is sent the tuple of them.

    `prefix` is tokens that each answer begins with, such as the first half of an earlier `Completion.tokens`. What comes
    back is whole answers: their text and tokens have the prefix in them, with `sampled` False and log-probabilities of 0
    there. `params.max_tokens` counts the new tokens only.

    A sample is a function of the prompt, the prefix and the seed: to ask the same again takes another seed.
    """

    prompt: tuple[Message, ...]
    params: SamplingParams
    prefix: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Rate:
    """A search asks what the judge says of a group, and is sent the Judgment."""

    group: Group
