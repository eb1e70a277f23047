"""The data types of tropism. Every stage of alignment works on a `Group`: a prompt with K completions and judgments.

Here is the text side only: frozen, JSON-serialisable, no torch. The tensor side is `tensors/batch.py`.
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
    """One turn. The role `text` is raw text, without a chat template; such a message is the only one of its prompt."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample `n` completions of a prompt.

    `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 keep the whole distribution. A sample depends only on the
    weights, the prompt's tokens, the prefix, `seed` and its number among the n, not on other prompts in the same call.
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

    `tokens` include the stop token if it was produced. `sampled` is True where the policy chose the token, False where
    the token was given (tool output, another speaker's turn, a prefix). `logprobs` are nats under the distribution that
    was sampled from, 0 for given tokens. All three are None for an answer that came as text. `tokenizer` is the
    `identity` of the tokenizer that made the tokens, "" if it is not known. `cost` is the USD of its request at the prices
    given, also where the reply came from a cache; None without prices.
    """

    text: str
    tokens: tuple[int, ...] | None = None
    sampled: tuple[bool, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    finish_reason: FinishReason = "stop"
    policy: str = ""
    tokenizer: str = ""
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A reward inside an answer, for its text from character 1 to character `end`, both included."""

    end: int
    reward: float


@dataclass(frozen=True, slots=True)
class Judgment:
    """One judge's scores for K completions: higher is better, None = abstained or unreadable (never 0, never a tie).
    A score of NaN becomes None.

    `scale`: `ordinal` if only the order of these K scores has a meaning, `interval` if their sizes have one too.
    `shown` is the order in which the judge saw the completions; `tokens` counts the tokens that models read to judge.
    `steps` are rewards inside each completion, in addition to its score and in the same units; None if it has none.
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
        """The index of the completion with the highest score, the first of equal ones; None if none has a score."""
        scored = [(score, -k) for k, score in enumerate(self.scores) if score is not None]
        return -max(scored)[1] if scored else None

    def refuse_infinite(self, group: str) -> None:
        """Raises TropismError if a score is infinite: it would make every mean and every update infinite or NaN."""
        for number, score in enumerate(self.scores, 1):
            if score is not None and math.isinf(score):
                raise TropismError(
                    f"the judge {self.judge} gave {score} to completion {number} of the group {group}: fix it, or "
                    "return None where it has no score"
                )

    def refuse_odd_steps(self, group: Group) -> None:
        """Raises TropismError unless each completion has an entry, with ends inside its text and finite rewards."""
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

    `meta` has source, licence, split, tags and, for a document, its subject (`store/contents.py`)."""

    id: str
    prompt: tuple[Message, ...]
    completions: tuple[Completion, ...] = ()
    judgments: tuple[Judgment, ...] = ()
    target: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def judgment(self, judge: str) -> Judgment | None:
        """The newest judgment by `judge` (a name without @version); None if there is none."""
        return next((j for j in reversed(self.judgments) if j.name == judge), None)

    def judged(self, judge: str) -> Judgment:
        """The newest judgment by `judge`, checked: each completion has a finite score or None. Raises TropismError."""
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
        """The group with only its completion k, and in each judgment only the score of that completion."""
        judgments = tuple(
            dataclasses.replace(j, scores=(j.scores[k],), shown=None, steps=j.steps and (j.steps[k],))
            for j in self.judgments
        )
        return dataclasses.replace(self, completions=(self.completions[k],), judgments=judgments)


Makes = Literal["tokenizer", "base", "policy", "scorer", "model", "groups", "report"]
"""What a stage makes. There are three sorts of models: `base` was trained on raw text only, `policy` answers prompts,
`scorer` is a reward model. `model` is for a stage from outside the package that cannot say which of the three."""

MODELS: tuple[Makes, ...] = ("base", "policy", "scorer", "model")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The answers of several models to the same prompts: the input of a measure.

    `answers[name]["greedy"]` are groups with one greedy completion, `["sampled"]` groups with samples. Both carry
    judgments by "truth" and "proxy" if the evaluation has these judges. `models` maps names to folders or hub ids; the
    others are compared with the model `over`. The models in `plain` got their prompts as raw text. The samples of the
    models in `searched` were chosen by a search.
    """

    answers: Mapping[str, Mapping[Drawn, Sequence[Group]]]
    models: Mapping[str, str]
    over: str
    sampling: SamplingParams
    plain: Sequence[str] = ()
    searched: Collection[str] = ()

    def others(self) -> list[str]:
        """All models but `over`, also without its other names (the same folder, raw text and search: equal answers)."""
        over = (self.models[self.over], self.over in self.plain, self.over in self.searched)
        same = {n for n in self.models if n not in self.searched and (self.models[n], n in self.plain, False) == over}
        return [n for n in self.models if n != self.over and n not in same]


@dataclass(frozen=True, slots=True)
class About:
    """The description of a figure, and which evaluations compute it.

    `name` is its key in evaluation.json and `title` its heading; `{over}` in them stands for the model that others are
    compared with. The `unit` "share" is shown in percent. `better` is the better direction, "" if neither is. `of` says
    which answers are measured: with both there are two figures, whose names and titles end in "greedy" and "sampled".
    `target`: it needs the reference answer of every prompt. `usual`: every evaluation computes it; otherwise only if
    `metrics` names it. `cite`: how it is computed, as papers cite it. `order` is its place among the figures.
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
        """Its entry in `evaluation.json`."""
        title = f"{self.title}, {drawn}" if len(self.of) > 1 else self.title
        return {"title": title, "unit": self.unit, "better": self.better}


@dataclass(frozen=True, slots=True)
class Artifact:
    """The result of a stage, for later stages: a folder or file in a format that other tools can read."""

    makes: Makes
    path: Path
    fingerprint: str
    stage: str


@dataclass(frozen=True, slots=True)
class Ref:
    """Marks a recipe field that names an earlier stage by id; where a model is wanted, also a folder or a hub id."""

    what: str  # as it is called in messages
    takes: tuple[Makes, ...]


ModelRef = Annotated[str, Ref("a model", MODELS)]
PolicyRef = Annotated[str, Ref("a base model or a policy", ("base", "policy", "model"))]
ScorerRef = Annotated[str, Ref("a reward model", ("scorer", "model"))]
GroupsRef = Annotated[str, Ref("groups", ("groups",))]
TokenizerRef = Annotated[str, Ref("a tokenizer or a model", ("tokenizer", *MODELS))]


@dataclass(frozen=True, slots=True)
class Sample:
    """A search yields this to ask for `params.n` completions of `prompt`; it is sent a tuple of them.

    Each answer begins with the tokens `prefix`, such as the first half of an earlier answer's. Completions are
    whole answers: text and tokens include the prefix, with `sampled` False and log-probabilities of 0 there.
    `params.max_tokens` counts the new tokens only.

    The same prompt, prefix and seed give the same samples again: for different samples use another seed.
    """

    prompt: tuple[Message, ...]
    params: SamplingParams
    prefix: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Rate:
    """A search yields this to ask for the judge's scores of a group; it is sent the Judgment."""

    group: Group
