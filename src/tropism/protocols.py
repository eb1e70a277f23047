"""The behaviours: what an engine, a judge, an algorithm, a stage must be able to do. The nouns are in `types.py`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

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
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tropism.needs import Earlier, Needs
    from tropism.statistics import Figure
    from tropism.store.work import Work
    from tropism.tensors.batch import Batch, Prediction
    from tropism.tensors.ratio import Ratio


@runtime_checkable
class Format(Protocol):
    """A data format: reads files (or a hub data set, or nothing) and yields Groups."""

    def groups(self) -> Iterable[Group]: ...

    def files(self) -> Sequence[Path]:
        """The local files it reads, so that a changed file makes a new fingerprint."""
        ...


@runtime_checkable
class EngineSpec(Protocol):
    """One way to get completions, as a recipe says it: a frozen dataclass, which `open` makes an Engine of.

    `logprobs` says whether the completions come with their tokens and log-probabilities, which are those of the trainer.
    """

    logprobs: ClassVar[bool]

    def open(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, policy: str) -> Engine:
        """The engine on `model`; `policy` ("fingerprint@step") is written into the completions."""
        ...


@runtime_checkable
class Engine(Protocol):
    """What gives completions, once it is open."""

    def generate(
        self, prompts: Sequence[Sequence[Message]], params: SamplingParams, prefixes: Sequence[Sequence[int]] = ()
    ) -> list[tuple[Completion, ...]]:
        """For each prompt its `params.n` completions, in order. `prefixes` has the tokens that each prompt's answers begin
        with, () for none (`Sample.prefix`). Raises TropismError where it cannot go on from tokens."""
        ...

    def load(self, weights: Any, policy: str) -> None:
        """Take new weights, those of the model it was opened on if `weights` is None. `policy` names them from now on."""
        ...

    def tell(self, note: Callable[[str], None]) -> None:
        """Say what a person should know of how it samples here, such as that it is slow, if there is anything."""
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
    more); `baseline_N`, what those of a prompt score on average; `mismatched`, another prompt's answer in each group;
    `teacher`, a model beside the policy for `divergence` (`Distilling`).
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
class Exploring(Protocol):
    """An algorithm that may reward entropy: where `entropy` is above 0 its loss also reads `entropy_bonus_BT`."""

    @property
    def entropy(self) -> float: ...


@runtime_checkable
class Selective(Protocol):
    """An algorithm that learns nothing from some groups: the rl stage samples other groups in their place."""

    def teaches(self, batch: Batch) -> Tensor:
        """(G,) True = a group whose rewards, as shaped, can change the policy."""
        ...


@runtime_checkable
class Distilling(Protocol):
    """An algorithm that compares the policy's next-token distributions with a teacher's: it `predicts` `divergence_BT`.

    It is given one chunk of tokens after another, so that the logits of a whole batch never exist.
    """

    def divergence(self, policy_MV: Tensor, teacher_MV: Tensor) -> Tensor:
        """(M,) nats, of M pairs of distributions given as logits; the teacher's have no gradient."""
        ...


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
class Measure(Protocol):
    """A figure of an evaluated model: what it is called, which way is better, and how it is computed."""

    about: ClassVar[About]

    def measure(self, found: Evaluation, drawn: Drawn) -> Mapping[str, Figure | str]:
        """By model the figure of its greedy or sampled answers, with its 95 % interval, or a sentence why it has none. A
        model that the figure says nothing of is left out."""
        ...


@runtime_checkable
class Stage(Protocol):
    """One step of a recipe: a frozen dataclass whose fields are its recipe entry."""

    version: ClassVar[int]
    makes: ClassVar[Makes]

    def run(self, work: Work) -> None: ...


@runtime_checkable
class Planned(Protocol):
    """A stage that says before it runs what it takes and leaves; `tropism plan` calls another's needs unknown."""

    def needs(self, earlier: Earlier) -> Needs:
        """`earlier` knows what the stages before it leave."""
        ...
