"""The compiled operations against torch's in double precision, and what happens without a compiler."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tropism.tensors import fused, native
from tropism.tensors.native import PAGE

compiled = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@compiled
@pytest.mark.parametrize("plus", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(3, 7), (70, 192), (2, 3, 64)])
def test_rms(shape: tuple[int, ...], plus: float) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(shape) * 3, torch.randn(shape[-1])
    expected = F.rms_norm(x.double(), weight.shape, weight.double() + plus, 1e-6)
    torch.testing.assert_close(fused.rms(x, weight, 1e-6, plus).double(), expected, atol=2e-6, rtol=1e-6)


@compiled
def test_gated_at_all_sizes_of_numbers() -> None:
    gate = torch.cat([torch.linspace(-120, 120, 30_001), torch.tensor([-1e20, 1e20, 0.0])])
    up = torch.linspace(-2, 2, len(gate))
    expected = F.silu(gate.double()) * up.double()
    torch.testing.assert_close(fused.gated(gate, up).double(), expected, atol=1e-12, rtol=1e-6)


@compiled
@pytest.mark.parametrize("turned", [8, 6])
def test_turned_by_hand(turned: int) -> None:
    torch.manual_seed(0)
    x, half = torch.randn(5, 9, 8)[:, 2:6], turned // 2  # rows that begin apart
    angle = torch.rand(5, 1, half)
    made = fused.turned(x, torch.cat((angle.cos(), angle.cos()), -1), angle.sin())
    plane = torch.view_as_complex(torch.stack((x[..., :half], x[..., half:turned]), -1)) * torch.polar(
        torch.ones(1), angle
    )
    torch.testing.assert_close(made, torch.cat((plane.real, plane.imag, x[..., turned:]), -1))


@compiled
def test_sample_takes_the_first_token_that_passes_the_number() -> None:
    x = torch.tensor([[0.1, 0.2, 0.0, 0.7, 0.0]]).log().expand(8, 5)
    numbers = [0.0, 0.05, 0.11, 0.29, 0.31, 0.999, 1 - 2**-53, 0.5]
    tokens, logp = native.sample(x, np.array(numbers))
    assert tokens == [0, 0, 1, 1, 3, 3, 3, 3]
    assert logp == pytest.approx([math.log([0.1, 0.2, 0, 0.7][t]) for t in tokens], abs=1e-6)


@compiled
def test_sample_of_many_tokens() -> None:
    torch.manual_seed(0)
    x, numbers = torch.randn(40, 5003) * 4, torch.rand(40, dtype=torch.float64)
    exact = x.double().log_softmax(-1)
    tokens, logp = native.sample(x, numbers.numpy())
    passed = exact.exp().cumsum(-1)
    at = torch.tensor(tokens)[:, None]
    before = passed.gather(-1, at)[:, 0] - exact.gather(-1, at)[:, 0].exp()
    assert bool((before <= numbers + 1e-6).all() and (passed.gather(-1, at)[:, 0] >= numbers - 1e-6).all())
    torch.testing.assert_close(torch.tensor(logp).double(), exact.gather(-1, at)[:, 0], atol=2e-6, rtol=1e-6)


@compiled
@pytest.mark.parametrize(
    ("window", "cap", "sinks"), [(None, None, False), (20, None, False), (None, 3.0, False), (5, None, True)]
)
@pytest.mark.parametrize(("kv_heads", "size"), [(1, 16), (2, 32), (6, 64), (3, 128), (2, 24)])
def test_attention_to_pages(kv_heads: int, size: int, window: int | None, cap: float | None, sinks: bool) -> None:
    """Rows that see some pages of two pools, each from its beginning, against attention to the same keys in one piece."""
    torch.manual_seed(0)
    rng, heads, rows = np.random.default_rng(0), 6, 7
    pools = [torch.randn(2, 20, kv_heads, PAGE, size) for _ in "so"]
    number, shared = rng.integers(1, 6, rows), []
    start = np.zeros(rows + 1, dtype=np.int64)
    np.cumsum(number, out=start[1:])
    page, seen = rng.integers(0, 20, start[-1]), rng.integers(1, PAGE + 1, start[-1])
    shared = rng.integers(0, number)
    q = torch.randn(rows, heads, size)
    sink = torch.randn(heads) if sinks else None
    lists = [native.address(array) for array in (start, page, seen, shared)]
    places = [t.data_ptr() for pool in (pools[1], pools[0]) for t in pool]
    given = native.Rows(
        rows, heads, kv_heads, size, size, q.stride(0), window or 0, 0.3, cap or 0, *places,
        None if sink is None else sink.data_ptr(), *lists,
    )  # fmt: skip
    made = native.attend(given, q, size)
    for r in range(rows):
        parts = [pools[int(i - start[r] >= shared[r])][:, page[i], :, : seen[i]] for i in range(start[r], start[r + 1])]
        keys, values = torch.cat(parts, 2).double().repeat_interleave(heads // kv_heads, 1)
        torch.testing.assert_close(
            made[r].double(), _attention(q[r], keys, values, window, cap, sink), atol=2e-6, rtol=1e-5
        )


def _attention(
    q_HS: Tensor, k_HTS: Tensor, v_HTS: Tensor, window: int | None, cap: float | None, sink: Tensor | None
) -> Tensor:
    scores = torch.einsum("hs,hts->ht", q_HS.double(), k_HTS) * 0.3
    scores = scores if cap is None else cap * (scores / cap).tanh()
    scores = scores if window is None else scores[:, -window:]
    if sink is not None:
        scores = torch.cat((scores, sink.double()[:, None]), 1)
    weights = scores.softmax(-1)[:, : scores.shape[1] - (sink is not None)]
    return torch.einsum("ht,hts->hs", weights, v_HTS[:, -weights.shape[1] :])


@compiled
def test_the_number_of_threads_changes_no_bit() -> None:
    torch.manual_seed(0)
    x, before = torch.randn(400, 300), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append((fused.rms(x, x[0], 1e-6), native.sample(x, np.full(400, 0.3))))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, found[0][0]) and drawn == found[0][1] for one, drawn in found)


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_torch_is_used(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", compiler)
    assert native.library.__wrapped__() is None


@compiled
def test_the_library_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.library.__wrapped__() is not None
    (made,) = tmp_path.rglob("*.so")
    written = made.stat().st_mtime_ns
    assert native.library.__wrapped__() is not None
    assert [*tmp_path.rglob("*.so")] == [made] and made.stat().st_mtime_ns == written
    assert [*made.parent.iterdir()] == [made]


def test_only_float32_on_a_cpu() -> None:
    assert not native.ready(torch.zeros(1, dtype=torch.bfloat16))
    assert not native.ready(torch.zeros(1, device="meta"))
