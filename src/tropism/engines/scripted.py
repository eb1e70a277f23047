"""An engine that answers from a table: for tests and for trying a judge without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tropism.errors import TropismError
from tropism.types import Completion, Message, SamplingParams

__all__ = ["Scripted"]


@dataclass(frozen=True)
class Scripted:
    """`answers` maps a prompt's last message to the texts of its samples, which are used in turn."""

    answers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    logprobs: ClassVar[bool] = False

    def open(self, model: Any, tokenizer: Any, policy: str) -> Scripted:
        """Returns itself: it needs no model."""
        return self

    def generate(
        self, prompts: Sequence[Sequence[Message]], params: SamplingParams, prefixes: Sequence[Sequence[int]] = ()
    ) -> list[tuple[Completion, ...]]:
        if any(prefixes):
            raise TropismError("a script has only whole answers and cannot continue a prefix: use another engine")
        return [self._answer(prompt[-1].content, params.n) for prompt in prompts]

    def load(self, weights: Any, policy: str) -> None:
        """Does nothing: a script has no weights."""

    def tell(self, note: Callable[[str], None]) -> None:
        """Does nothing: there is nothing to tell."""

    def _answer(self, question: str, n: int) -> tuple[Completion, ...]:
        if not (texts := self.answers.get(question)):
            raise TropismError(f"the script has no answer to {question!r}: add it to `answers`")
        return tuple(Completion(texts[k % len(texts)], policy="scripted@0") for k in range(n))
