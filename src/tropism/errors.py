"""The one error that a person can mend, alone, so that nothing imports types for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the protocols name tensors and work; nothing here imports them at run time
    pass


class TropismError(Exception):
    """A mistake a person can mend. The message is one sentence: what is wrong, where, and what to do."""
