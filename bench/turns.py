"""A trainer of TRL and ours step in turns in one process.

A turn is a step of TRL with torch's defaults (`torch_of.py`), then one of ours; the first turn is a warm-up. `ratio` is the
median of the turns' ratios, `low` and `high` are the extremes. It is a file of its own, as a process that has only our side
(`memory.py`) does not need transformers' trainer.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch_of import torch_of
from transformers import PreTrainedModel
from transformers.trainer_callback import PrinterCallback, TrainerCallback


class Turns(TrainerCallback):
    """Makes our step after each of TRL's, and notes the seconds and parts of both, without the warm-up."""

    def __init__(self, step: Callable[[], dict[str, float]]) -> None:
        self.step, self.turns, self.began = step, 0, 0.0
        self.theirs: list[float] = []
        self.parts: list[dict[str, float]] = []

    def train(self, trainer: Any) -> None:
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(self)
        with torch_of("peer"):
            trainer.train()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        seconds = time.perf_counter() - self.began
        with torch_of("ours"):
            parts = self.step()
        if self.turns:
            self.theirs.append(seconds)
            self.parts.append(parts)
        self.turns += 1
        self.began = time.perf_counter()

    def row(self, model: PreTrainedModel, shape: Sequence[int]) -> dict[str, Any]:
        """The figures of a shape; each of `parts` has the seconds of our whole step in `whole`."""
        ours = [parts["whole"] for parts in self.parts]
        ratios = [t / o for t, o in zip(self.theirs, ours)]
        return {
            "model": model.num_parameters(),
            "shape": list(shape),
            "ours_s": statistics.median(ours),
            "trl_s": statistics.median(self.theirs),
            "ratio": statistics.median(ratios),
            "low": min(ratios),
            "high": max(ratios),
            "parts": {name: statistics.median(p[name] for p in self.parts) for name in self.parts[0]},
            "threads": torch.get_num_threads(),
        }
