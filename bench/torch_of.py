"""Torch as each side of a benchmark has it, when both take turns in one process: on a CPU ours has deterministic kernels
(`models/architecture.py:device`), and a peer has torch's defaults."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch

from tropism.models.architecture import device


@contextlib.contextmanager
def torch_of(side: Literal["ours", "peer"]) -> Iterator[None]:
    """For a turn of this side; afterwards torch is as it was before."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    if side == "ours":
        device()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
