"""Keeps totals and counts together and divides them once: never average averages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ratio:
    """A sum and its divisor; they are divided once, after everything (micro-batches, processes) has been added up."""

    total: Tensor
    count: Tensor

    def __add__(self, other: Ratio) -> Ratio:
        return Ratio(self.total + other.total, self.count + other.count)

    def detach(self) -> Ratio:
        return Ratio(self.total.detach(), self.count.detach())

    @property
    def value(self) -> float:
        """total / count; NaN if nothing was counted."""
        count = float(self.count)
        return float(self.total.detach()) / count if count else float("nan")


def total(ratios: Iterable[dict[str, Ratio]]) -> dict[str, Ratio]:
    """Adds up metrics of the same names."""
    out: dict[str, Ratio] = {}
    for item in ratios:
        for name, ratio in item.items():
            out[name] = out[name] + ratio if name in out else ratio
    return out
