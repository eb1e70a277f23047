"""Products of large matrices and gated MLPs against torch's own operations in double precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tropism.tensors import matrices, native

pytestmark = pytest.mark.skipif(not native.has("multiply"), reason="there is no C compiler, or no AVX-512")
SHAPES = [(1, 5, 7), (13, 33, 31), (300, 64, 96), (37, 1100, 40), (100, 200, 1400)]  # rows, width, inner width


def by_torch(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


def given(rows: int, width: int, inner: int) -> list[Tensor]:
    torch.manual_seed(0)
    gate, up = (torch.randn(inner, width) * width**-0.5 for _ in range(2))
    return [torch.randn(rows, width), gate, up, torch.randn(width, inner) * inner**-0.5]


def close(found: Tensor, expected: Tensor) -> None:
    expected = expected.detach()
    torch.testing.assert_close(found.detach().double(), expected, atol=3e-6 * float(expected.abs().max()), rtol=1e-5)


def test_a_product_worked_by_hand() -> None:
    a, b = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.tensor([[1.0, 0.0], [10.0, -1.0]])
    out = torch.full((3, 2), 100.0)
    assert matrices.multiply(a, b, out, add=True).tolist() == [[121, 98], [143, 96], [165, 94]]
    assert matrices.multiply(a, b, out).tolist() == [[21, -2], [43, -4], [65, -6]]


@pytest.mark.parametrize("turned", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (12, 32, 512), (13, 33, 513), (200, 40, 1000), (25, 300, 5)])
def test_products_of_all_shapes(shape: tuple[int, int, int], turned: tuple[bool, bool]) -> None:
    torch.manual_seed(0)
    rows, columns, depth = shape
    a = torch.randn(depth, rows).t() if turned[0] else torch.randn(rows, depth)
    b = torch.randn(columns, depth).t() if turned[1] else torch.randn(depth, columns)
    wide = torch.full((rows, columns + 3), 7.0)
    close(matrices.multiply(a, b, wide[:, :columns]), a.double() @ b.double())
    assert (wide[:, columns:] == 7).all()
    close(matrices.multiply(a, b, torch.ones(rows, columns), add=True), a.double() @ b.double() + 1)


def test_an_operand_whose_numbers_lie_apart() -> None:
    a, b = torch.randn(5, 8)[:, ::2], torch.randn(4, 6)
    close(matrices.multiply(a, b, torch.empty(5, 6)), a.double() @ b.double())


@pytest.mark.parametrize("shape", SHAPES)
def test_mlp_and_its_gradients(shape: tuple[int, int, int]) -> None:
    singles = [x.requires_grad_() for x in given(*shape)]
    doubles = [x.detach().double().requires_grad_() for x in singles]
    made, expected = matrices.mlp(*singles), by_torch(*doubles)
    close(made, expected)
    slope = torch.randn_like(made)
    found = torch.autograd.grad(made, singles, slope)
    for one, other in zip(found, torch.autograd.grad(expected, doubles, slope.double())):
        close(one, other)
    with torch.no_grad():
        assert torch.equal(matrices.mlp(*singles), made)


def test_mlp_worked_by_hand() -> None:
    """silu(0) = 0, and silu(40) is 40 in float32."""
    x, gate = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[20.0, 10.0]])
    up, down = torch.tensor([[3.0, -1.0]]), torch.tensor([[1.0], [0.5]])
    assert matrices.mlp(x, gate, up, down).tolist() == [[40, 20], [0, 0]]


def test_linear_layers_of_one_input_and_their_gradients() -> None:
    torch.manual_seed(0)
    x, weights = torch.randn(4, 33, 20), [torch.randn(n, 20) for n in (7, 40)]
    singles = [part.requires_grad_() for part in (x, *weights)]
    doubles = [part.detach().double().requires_grad_() for part in singles]
    made, expected = matrices.linears(*singles), [F.linear(doubles[0], w) for w in doubles[1:]]
    slopes = [torch.randn_like(part) for part in made]
    found = torch.autograd.grad(made, singles, slopes)
    wanted = torch.autograd.grad(expected, doubles, [slope.double() for slope in slopes])
    for one, other in zip((*made, *found), (*expected, *wanted)):
        close(one, other)
    with torch.no_grad():
        assert all(map(torch.equal, matrices.linears(*singles), made))


def test_a_row_depends_neither_on_other_rows_nor_on_threads() -> None:
    x, *weights = given(700, 64, 96)
    before, number = matrices.mlp(x, *weights), torch.get_num_threads()
    assert torch.equal(matrices.mlp(x[33:64], *weights), before[33:64])
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        given_now = [part.clone().requires_grad_() for part in (x, *weights)]
        found.append(torch.autograd.grad(matrices.mlp(*given_now).square().sum(), given_now))
    torch.set_num_threads(number)
    assert all(map(torch.equal, *found))


def test_frozen_weights_get_no_gradient() -> None:
    x, gate, up, down = given(20, 8, 12)
    x.requires_grad_()
    matrices.mlp(x, gate, up.requires_grad_(), down).sum().backward()
    assert x.grad is not None and up.grad is not None and gate.grad is None and down.grad is None


@pytest.mark.parametrize(
    "change",
    [
        lambda x, w: (x[:-1], w),
        lambda x, w: (x.double(), w),
        lambda x, w: (x, w.bfloat16()),
        lambda x, w: (x, w.t()),
    ],
)
def test_what_goes_another_way(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    x, weight = torch.zeros(matrices.LEAST, 4), torch.zeros(6, 4)
    assert matrices.usable(x, weight)
    assert not matrices.usable(*change(x, weight))
    with torch.autocast("cpu", torch.bfloat16):
        assert not matrices.usable(x, weight)
