"""The order of the data: a new shuffle for every pass, and a position that is one number in a checkpoint."""

from __future__ import annotations

import numpy as np


class Order:
    """Indices 0 … n-1, shuffled again for each pass from (seed, pass). `position` counts all indices taken so far."""

    def __init__(self, n: int, seed: int, position: int = 0) -> None:
        self.n, self.seed, self.position = n, seed, position
        self._pass, self._shuffled = -1, np.zeros(0, dtype=np.int64)

    def take(self, count: int) -> list[int]:
        """The next `count` indices; a pass ends only when every index has been taken."""
        taken = []
        for _ in range(count):
            number, place = divmod(self.position, self.n)
            if number != self._pass:
                self._pass, self._shuffled = (
                    number,
                    np.random.default_rng([self.seed, number]).permutation(self.n),
                )
            taken.append(int(self._shuffled[place]))
            self.position += 1
        return taken
