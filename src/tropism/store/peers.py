"""The processes that run one recipe together. This class is a process on its own; `train/parallel.py` knows the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Peers:
    """One of the processes leads: only it writes to the run folder, asks people and talks to them."""

    leads: bool = True

    def once(self, make: Callable[[], T]) -> T:
        """What `make` gives in the leading process, which alone calls it. All have come this far when it returns.

        What `make` does must not wait for the other processes: they are here.
        """
        return make()
