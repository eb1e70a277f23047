"""A sequence of tokens, as the engine keeps it: what is known of it, and where its keys and values are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Allowed = Callable[[Sequence[int]], Sequence[int] | None]  # the ids that may follow some tokens; None: all


@dataclass(eq=False, slots=True)
class Sequenced:
    """A leaf of the tree of sequences. Engines and their users share it as a handle; its fields are the engine's.

    The keys and values of the first `held` tokens are stored: the first `before` in shared pages, of which it sees the
    first `seen[i]` tokens of page `shared[i]`, the others in pages of its own. If the logits after the last token are
    known, `scored` has those of a pass, (R, V), and the number of its row. The random numbers of its samples depend on
    `key` and `number`, and on how many tokens follow the first `origin` ones. `place` belongs to the ways without pages.
    """

    tokens: list[int]
    key: tuple[int, ...] = ()
    number: int = 0
    origin: int = 0
    held: int = 0
    before: int = 0
    shared: list[int] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)
    own: list[int] = field(default_factory=list)
    scored: tuple[Tensor, int] | None = None
    allowed: Allowed | None = None
    forked: bool = False
    freed: bool = False
    place: Any = None

    @property
    def pending(self) -> int:
        """The number of tokens whose keys and values are not stored."""
        return len(self.tokens) - self.held
