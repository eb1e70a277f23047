"""The gradients of fused operations against autograd's of torch's own operations, in double precision."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tropism.tensors import fused

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


def same_gradients(ours: Callable[..., Tensor], torchs: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Of the sum of the result times random numbers, by each input."""
    singles = [x.clone().requires_grad_() for x in inputs]
    doubles = [x.double().requires_grad_() for x in inputs]
    made, expected = ours(*singles), torchs(*doubles)
    torch.testing.assert_close(made.double(), expected, atol=2e-6, rtol=2e-6)
    slope = torch.randn_like(made)
    found = torch.autograd.grad(made, singles, slope)
    wanted = torch.autograd.grad(expected, doubles, slope.double())
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one.double(), other, atol=1e-5 * float(other.abs().max()), rtol=1e-5)


@pytest.mark.parametrize("plus", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 64), (3, 130, 192), (300, 128)])
def test_rms(shape: tuple[int, ...], plus: float) -> None:
    torch.manual_seed(0)
    norm = lambda x, w: F.rms_norm(x, w.shape, w + plus, 1e-3)  # noqa: E731
    same_gradients(lambda x, w: fused.rms(x, w, 1e-3, plus), norm, torch.randn(shape) * 2, torch.randn(shape[-1]))


@pytest.mark.parametrize("shape", [(7,), (3, 40, 352), (2, 5)])
def test_gated(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    same_gradients(fused.gated, lambda g, u: F.silu(g) * u, torch.randn(shape) * 4, torch.randn(shape))


def test_gated_where_the_gate_is_shut_or_wide_open() -> None:
    gate = torch.tensor([-1e20, -200.0, -60.0, 60.0, 200.0, 1e20]).requires_grad_()
    fused.gated(gate, torch.ones(6)).sum().backward()
    assert gate.grad is not None
    torch.testing.assert_close(gate.grad, torch.tensor([0.0, 0, 0, 1, 1, 1]), atol=1e-15, rtol=1e-6)


@pytest.mark.parametrize("turned", [8, 6])
@pytest.mark.parametrize("angles", [4, 12])
def test_turned(angles: int, turned: int) -> None:
    """Twelve rows, of which the fifth begins again if there are four angles; cos and sin differ in their halves."""
    torch.manual_seed(0)
    cos, sin, half = torch.randn(angles, turned), torch.randn(angles, turned), turned // 2

    def by_torch(x: Tensor) -> Tensor:
        c, s = (t.double().repeat(12 // angles, 1)[:, None] for t in (cos, sin))
        head, rest = x[..., :turned], x[..., turned:]
        return torch.cat((head * c + torch.cat((-head[..., half:], head[..., :half]), -1) * s, rest), -1)

    same_gradients(lambda x: fused.turned(x, cos, sin), by_torch, torch.randn(12, 3, 8))
    wide = torch.randn(12, 5, 8)
    torch.testing.assert_close(fused.turned(wide[:, 1:4], cos, sin), by_torch(wide[:, 1:4].double()).float())


def test_inputs_that_are_not_contiguous() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 9).t()
    same_gradients(lambda x, w: fused.rms(x, w, 1e-6), lambda x, w: F.rms_norm(x, w.shape, w, 1e-6), x, torch.randn(6))
    same_gradients(fused.gated, lambda g, u: F.silu(g) * u, x, x.clone())
