"""The protocols: what an engine, a judge, an algorithm, a stage must be able to do. Data types are in `types.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from tropism.types import (
    About,
    Completion,
    Drawn,
    Evaluation,
    Group,
    Judgment,
    Makes,
    Message,
    Rate,
    Sample,
    SamplingParams,
)

if TYPE_CHECKING:  # the protocols name tensors and work; nothing here imports them at run time
    from torch import Tensor

    from tropism.asking.requests import Request
    from tropism.needs import Earlier, Needs
    from tropism.statistics import Figure
    from tropism.store.work import Work
    from tropism.tensors.batch import Batch, Prediction
    from tropism.tensors.ratio import Ratio


@runtime_checkable
class Format(Protocol):
    """A data format: reads files (or a hub data set, or nothing) and yields Groups. With a method `size` it says how many
    before it is read, or None."""

    def groups(self) -> Iterable[Group]: ...

    def files(self) -> Sequence[Path]:
        """The local files it reads: the fingerprint depends on their content."""
        ...


@runtime_checkable
class Marked(Protocol):
    """A format that reads something else than files."""

    def content_mark(self) -> str:
        """What it reads now, in a few characters: another content makes a new fingerprint."""
        ...


@runtime_checkable
class Writes(Protocol):
    """A format that also writes: `tropism convert` calls it with every group."""

    def records(
        self, group: Group, judge: str, pairs: Literal["all", "best_worst"], left_out: Counter[str]
    ) -> Iterable[Mapping[str, Any]]:
        """The records of a group, with the scores of `judge` ("" for the only one) and, where a record is a pair, all
        pairs or the best and the worst. What the shape cannot hold is counted in `left_out`, by the reason."""
        ...


@runtime_checkable
class EngineSpec(Protocol):
    """One way to get completions, as a recipe describes it: a frozen dataclass, from which `open` makes an Engine.

    `logprobs` says whether completions have tokens and log-probabilities, equal to those that the trainer computes. One
    with `own_model = True` needs no model, and may be opened with None.
    """

    logprobs: ClassVar[bool]

    def open(self, model: Any, tokenizer: Any, policy: str) -> Engine:
        """An engine that samples from `model`, a PreTrainedModel; `policy` ("fingerprint@step") is written into the
        completions."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Gives completions."""

    def generate(
        self, prompts: Sequence[Sequence[Message]], params: SamplingParams, prefixes: Sequence[Sequence[int]] = ()
    ) -> list[tuple[Completion, ...]]:
        """`params.n` completions for each prompt, in order. `prefixes` has for each prompt the tokens that its answers
        begin with, () for none (`Sample.prefix`). Raises TropismError if it cannot continue from given tokens."""
        ...

    def load(self, weights: Any, policy: str) -> None:
        """Takes new weights; None means the current ones of the model it was opened on. `policy` is their name."""
        ...

    def tell(self, note: Callable[[str], None]) -> None:
        """Calls `note` with whatever a person should know about its way of sampling here, such as that it is slow."""
        ...


@runtime_checkable
class Judge(Protocol):
    """A person, a reward model, a verifier and an LLM judge are the same thing."""

    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        """One judgment for each group, with one score for each completion of the group."""
        ...


@runtime_checkable
class Patient(Protocol):
    """A judge whose answers take hours or days, as people's do: the label stage alone waits for it."""

    per_group: int  # answers wanted of each group

    def answers(self, groups: Sequence[Group], run: Path, stage: str) -> list[tuple[Judgment, ...]]:
        """Of each group all that was said, and last what it comes to. Puts the groups where they are judged, beside the
        run folder `run` unless it is told otherwise. Raises `errors.py:Waiting` as long as answers are missing."""
        ...


@runtime_checkable
class Asking(Protocol):
    """A judge that asks a model. The label stage keeps its requests, and fails when too many replies cannot be read."""

    name: str
    max_unparsed: float  # the largest share

    def asked(self, groups: Sequence[Group]) -> tuple[list[Judgment], list[Request]]:
        """The judgments, and what was asked for them; the requests of a group stand together, in the groups' order."""
        ...


@runtime_checkable
class Algorithm(Protocol):
    """One paper: the credit of each token (`credit`) and the loss that is minimised (`loss`). Both are pure functions.

    `needs` names what a stage has to supply: fields of Batch; `others`, all completions of a prompt together (two or
    more); `baseline_N`, the mean score of a prompt's completions; `mismatched`, the answer to another prompt in each
    group; `teacher`, a second model for `divergence` (`Distilling`).
    `predicts` names the fields of Prediction that the loss reads.
    """

    needs: ClassVar[tuple[str, ...]]
    predicts: ClassVar[tuple[str, ...]]

    def credit(self, batch: Batch) -> Batch: ...

    def loss(self, batch: Batch, prediction: Prediction) -> tuple[Ratio, dict[str, Ratio]]: ...


@runtime_checkable
class Adaptive(Protocol):
    """An algorithm with a controller. The controller's state is in the algorithm's fields, so checkpoints have it."""

    def adapt(self, kl: float, completions: int) -> Algorithm:
        """The algorithm for the next round, after a round of `completions` completions with a mean KL of `kl` nats."""
        ...


@runtime_checkable
class Constrained(Protocol):
    """An algorithm that keeps the scores of a second judge, the costs, under a limit. Its state is in its fields."""

    def charged(self, reward: Judgment, cost: Judgment) -> Judgment:
        """What a round trains on, made of what the two judges said of a group."""
        ...

    def tightened(self, cost: float) -> Algorithm:
        """The algorithm for the next round, after one whose completions cost `cost` on average."""
        ...


@runtime_checkable
class Exploring(Protocol):
    """An algorithm that can reward entropy: if `entropy` is above 0, its loss also reads `entropy_bonus_BT`."""

    @property
    def entropy(self) -> float: ...


@runtime_checkable
class Selective(Protocol):
    """An algorithm that learns nothing from some groups. The rl stage samples other groups instead of these."""

    def teaches(self, batch: Batch) -> Tensor:
        """(G,) True = the rewards of the group, after shaping, can change the policy."""
        ...


@runtime_checkable
class Penalised(Protocol):
    """An algorithm that `needs` a reference for its KL penalty, and none if that is 0."""

    @property
    def refers(self) -> bool: ...


@runtime_checkable
class Sparing(Protocol):
    """An algorithm whose loss on some completions has no gradient, so that an update need not compute them."""

    def idle(self, batch: Batch) -> Tensor:
        """(N,) True = after `credit`, the loss of the completion's tokens is 0, whatever is predicted for them."""
        ...


@runtime_checkable
class Distilling(Protocol):
    """An algorithm that compares the policy's next-token distributions with a teacher's: it `predicts` `divergence_BT`.

    It gets the tokens in chunks, so that the logits of a whole batch are never in memory at once.
    """

    def divergence(self, policy_MV: Tensor, teacher_MV: Tensor) -> Tensor:
        """(M,) nats for M pairs of distributions, given as logits; the teacher's logits have no gradient."""
        ...


@runtime_checkable
class Search(Protocol):
    """One way to find a better completion at inference time, without training.

    It calls no engine and no judge itself: it yields requests, and the caller answers those of many searches at once.
    """

    def search(self, group: Group, params: SamplingParams) -> Generator[Sample | Rate, Any, Completion]:
        """A generator that yields requests and returns the completion that it chose for `group.prompt`.

        `params` say how to sample; the search itself decides how many samples it takes.
        """
        ...


@runtime_checkable
class Measure(Protocol):
    """A figure of an evaluated model: its name, which direction is better, and how it is computed."""

    about: ClassVar[About]

    def measure(self, found: Evaluation, drawn: Drawn) -> Mapping[str, Figure | str]:
        """For each model the figure of its greedy or sampled answers with a 95 % interval, or a sentence that says why
        there is none. Models that the figure does not apply to are left out."""
        ...


@runtime_checkable
class Stage(Protocol):
    """One step of a recipe: a frozen dataclass whose fields are its recipe entry."""

    version: ClassVar[int]
    makes: ClassVar[Makes]

    def run(self, work: Work) -> None: ...


@runtime_checkable
class Planned(Protocol):
    """A stage that can say before it runs what it will need and make. For others `tropism plan` shows "unknown"."""

    def needs(self, earlier: Earlier) -> Needs:
        """`earlier` knows what the stages before this one will make."""
        ...
