"""The nouns of tropism: every stage of alignment handles one `Group`, a prompt with K completions and judgments.

Text side only: frozen, JSON-serialisable, no torch. The tensor side is `tensors/batch.py`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

from annotated_types import Ge, Interval

if TYPE_CHECKING:  # the protocols name tensors and work; nothing here imports them at run time
    from torch import Tensor

    from tropism.store.run import Work
    from tropism.tensors.batch import Batch, Prediction, Ratio

Role = Literal["system", "user", "assistant", "tool", "text"]
FinishReason = Literal["stop", "length", "error"]


class TropismError(Exception):
    """A mistake a person can mend. The message is one sentence: what is wrong, where, and what to do."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. The role `text` is raw text that no chat template touches (the only message of its prompt)."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample `n` completions of a prompt.

    `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 keep the whole distribution. A sample is a function of the
    weights, the prompt's tokens, `seed` and its number among the n: not of what else is sampled beside it.
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
    output, another speaker's turn) and True where it was chosen; `logprobs` are nats under the distribution actually
    sampled from. All three are None for an answer that came as text. `tokenizer` is the `identity` of the one whose
    tokens they are ("" where nobody wrote it down).
    """

    text: str
    tokens: tuple[int, ...] | None = None
    sampled: tuple[bool, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    finish_reason: FinishReason = "stop"
    policy: str = ""
    tokenizer: str = ""


@dataclass(frozen=True, slots=True)
class Judgment:
    """What one judge said of the K completions: higher is better, None = abstained or unreadable (never 0, never a tie).
    A score that is NaN is None from here on.

    `scale` says whether only the order among these K means something (`ordinal`) or the scores themselves (`interval`);
    `shown` is the order in which the completions stood before the judge; `tokens` is what models read to say it.
    """

    judge: str
    scores: tuple[float | None, ...]
    scale: Literal["ordinal", "interval"] = "interval"
    rationale: str = ""
    shown: tuple[int, ...] | None = None
    tokens: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", tuple(None if s is None or s != s else s for s in self.scores))


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
        """The newest judgment by the judge whose name, without its @version, is `judge`; None if there is none."""
        for judgment in reversed(self.judgments):
            if judgment.judge.split("@")[0] == judge:
                return judgment
        return None


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a stage leaves behind for later stages: a folder or file that the ecosystem can read."""

    kind: Literal["tokenizer", "model", "groups", "report"]
    path: Path
    fingerprint: str
    stage: str


@dataclass(frozen=True, slots=True)
class Ref:
    """Marks a recipe field that names an earlier stage by id (or, for models, a folder or a hub id)."""

    kind: Literal["model", "groups", "tokenizer"]


ModelRef = Annotated[str, Ref("model")]
GroupsRef = Annotated[str, Ref("groups")]
TokenizerRef = Annotated[str, Ref("tokenizer")]


@runtime_checkable
class Format(Protocol):
    """A data format: reads files (or a hub data set, or nothing) and yields Groups."""

    def groups(self) -> Iterable[Group]: ...

    def files(self) -> Sequence[Path]:
        """The local files it reads, so that a changed file makes a new fingerprint."""
        ...


@runtime_checkable
class Engine(Protocol):
    """One way to get completions."""

    def generate(self, prompts: Sequence[Sequence[Message]], params: SamplingParams) -> list[tuple[Completion, ...]]:
        """For each prompt its `params.n` completions, in order."""
        ...

    def load(self, weights: Any, policy: str) -> None:
        """Take new weights; `policy` ("fingerprint@step") is written into the completions sampled from now on."""
        ...


@runtime_checkable
class Judge(Protocol):
    """A person, a reward model, a verifier and an LLM judge are the same thing."""

    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        """One judgment a group, as many scores as the group has completions."""
        ...


@runtime_checkable
class Algorithm(Protocol):
    """One paper: who gets how much (`credit`) and what is minimised (`loss`). Both are pure.

    `needs` names what a stage gives it first: Batch fields; `others`, all completions of a prompt side by side (two or
    more); `baseline_N`, what those of a prompt score on average; `mismatched`, another prompt's answer in each group.
    `predicts` names the parts of Prediction that the loss reads.
    """

    needs: ClassVar[tuple[str, ...]]
    predicts: ClassVar[tuple[str, ...]]

    def credit(self, batch: Batch) -> Batch: ...

    def loss(self, batch: Batch, prediction: Prediction) -> tuple[Ratio, dict[str, Ratio]]: ...


@runtime_checkable
class Adaptive(Protocol):
    """An algorithm with a controller: its state is in its own fields, so a checkpoint of the fields holds it."""

    def adapt(self, kl: float, completions: int) -> Algorithm:
        """The algorithm of the next round, after `completions` completions measured `kl` nats each."""
        ...


@runtime_checkable
class Selective(Protocol):
    """An algorithm that some groups teach nothing: the rl stage samples others in their place."""

    def teaches(self, batch: Batch) -> Tensor:
        """(G,) True = a group whose rewards, as shaped, can change the policy."""
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """A search asks for `params.n` completions of `prompt`, and is sent the tuple of them.

    A sample is a function of the prompt and the seed: to ask the same prompt again takes another seed.
    """

    prompt: tuple[Message, ...]
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class Rate:
    """A search asks what the judge says of a group, and is sent the Judgment."""

    group: Group


@runtime_checkable
class Search(Protocol):
    """One way to find a better completion at inference time; it needs no training.

    It knows no engine and no judge: it asks, and whoever drives it answers many searches at once.
    """

    def search(self, group: Group, params: SamplingParams) -> Generator[Sample | Rate, Any, Completion]:
        """A generator that yields what it asks for and returns the completion it chose for `group.prompt`.

        `params` say how to sample; how many is the search's own matter.
        """
        ...


@runtime_checkable
class Stage(Protocol):
    """One step of a recipe: a frozen dataclass whose fields are its recipe entry."""

    version: ClassVar[int]
    makes: ClassVar[Literal["tokenizer", "model", "groups", "report"]]

    def run(self, work: Work) -> None: ...


def to_json(value: Any) -> Any:
    """A dataclass of this module, or a tuple or mapping of them, as plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def group_from_json(data: Mapping[str, Any] | str) -> Group:
    """The inverse of `to_json` for a Group."""
    raw: Mapping[str, Any] = json.loads(data) if isinstance(data, str) else data

    def tupled(record: Mapping[str, Any], make: Callable[..., Any]) -> Any:
        return make(**{k: tuple(v) if isinstance(v, list) else v for k, v in record.items()})

    return Group(
        id=raw["id"],
        prompt=tuple(Message(**m) for m in raw["prompt"]),
        completions=tuple(tupled(c, Completion) for c in raw.get("completions", ())),
        judgments=tuple(tupled(j, Judgment) for j in raw.get("judgments", ())),
        target=raw.get("target"),
        meta=dict(raw.get("meta", {})),
    )
