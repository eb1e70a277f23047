"""The processes that run one recipe together. The class here is for a single process; `train/parallel.py` has the
other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Peers:
    """One process leads: only this one writes to the run folder and communicates with people."""

    leads: bool = True

    def once(self, make: Callable[[], T]) -> T:
        """The result of `make`, which only the leading process calls. It returns when all processes have called `once`.

        `make` must not wait for the other processes: they are waiting here.
        """
        return make()
