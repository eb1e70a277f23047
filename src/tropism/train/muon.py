"""Muon: the update of a weight matrix has all its singular values brought near 1; everything else takes AdamW.

    M ← mu M + g        O = orthogonal(g + mu M)        W ← (1 − lr wd) W − lr 0.2 √max(rows, columns) O

With O = U Vᵀ (of the singular value decomposition U S Vᵀ) no direction of the gradient drowns in the larger ones, so a
model learns in fewer updates. Five Newton–Schulz steps come near it: the singular values end between 0.7 and 1.2. The
factor 0.2 √max gives an update the size that AdamW's usually has, so that one learning rate serves both.

Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; the factor: arXiv 2502.16982.
`torch.optim.Muon` computes in bfloat16, which few laptops have in hardware, and one matrix at a time; here it is the
weights' own type, and matrices of one shape go together. A test holds the two side by side.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
STEPS = 5
A, B, C = 3.4445, -4.7750, 2.0315  # the steepest quintic at 0 that stays near 1


class Muon(torch.optim.AdamW):
    """AdamW, except for the parameter groups with `muon` set, whose parameters are matrices."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        turned = [p for group in self.param_groups if group.get("muon") for p in self._turn(group)]
        gradients = [p.grad for p in turned]
        for parameter in turned:
            parameter.grad = None  # AdamW passes over it
        found = super().step(closure)
        for parameter, gradient in zip(turned, gradients):
            parameter.grad = gradient
        return found

    def _turn(self, group: dict[str, Any]) -> list[nn.Parameter]:
        parameters = [p for p in group["params"] if p.grad is not None]
        shapes = {p.shape: [q for q in parameters if q.shape == p.shape] for p in parameters}
        for shape, alike in shapes.items():
            step = group["lr"] * 0.2 * math.sqrt(max(shape))
            for parameter, update in zip(alike, orthogonal(torch.stack([self._momentum(p) for p in alike]))):
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=step)
        return parameters

    def _momentum(self, parameter: nn.Parameter) -> Tensor:
        """The gradient a step ahead (Nesterov)."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state |= {"step": torch.zeros(()), "momentum": torch.zeros_like(parameter)}  # AdamW's loading reads "step"
        state["momentum"].mul_(MOMENTUM).add_(parameter.grad)
        return parameter.grad + MOMENTUM * state["momentum"]


def orthogonal(x_NRC: Tensor) -> Tensor:
    """(N, R, C), N matrices: about U Vᵀ of each. A matrix of zeros stays one."""
    tall = x_NRC.shape[1] > x_NRC.shape[2]
    x = x_NRC.mT if tall else x_NRC
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x.mT if tall else x
