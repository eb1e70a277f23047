"""`flex_attention` against our own operation: the same keys, and no tile more than is needed."""

from __future__ import annotations

import random
import shutil

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention

from tropism.tensors import attention, flex
from tropism.tensors.blocks import Blocks, blocks
from tropism.tensors.collate import collate
from tropism.tensors.index import tree_mask
from tropism.tensors.tree import Tree

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without")  # a CPU has no kernel to compile


def plan_of(seed: int, most: int) -> tuple[Blocks, Tensor]:
    """Some groups of up to `most` tokens each in prompts and answers, and (M, M) which keys each token sees."""
    rng = random.Random(seed)
    trees = []
    for _ in range(rng.randint(1, 6)):
        answers = tuple((7,) * rng.randint(1, most) for _ in range(rng.randint(1, 5)))
        trees.append(
            Tree(
                "",
                (7,) * rng.randint(1, most),
                answers,
                tuple((True,) * len(a) for a in answers),
                (True,) * len(answers),
            )
        )
    batch = collate(trees, 30)
    plan = blocks(batch)
    return plan, torch.block_diag(*tree_mask(batch)[:, 0].long())[plan.kept_M][:, plan.kept_M].bool()


@pytest.mark.parametrize("window", [0, 9, 10_000])
@pytest.mark.parametrize("seed", range(6))
def test_tiles_and_mask_are_those_of_the_tree(seed: int, window: int) -> None:
    plan, sees_MM = plan_of(seed, 300)
    if window:
        sees_MM &= plan.position_M[:, None] - plan.position_M < window
    mask, position_M = flex._plan(plan.units, torch.device("cpu"), window)
    assert torch.equal(position_M, plan.position_M)
    size = len(position_M)
    query, key = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    assert torch.equal(mask.mask_mod(query, query, query, key), sees_MM)
    padded = torch.nn.functional.pad(sees_MM, (0, -size % flex.TILE, 0, -size % flex.TILE))
    rows = len(padded) // flex.TILE
    count_RC = padded.view(rows, flex.TILE, rows, flex.TILE).sum((1, 3))
    real_RC = torch.tensor([min(flex.TILE, size - row * flex.TILE) for row in range(rows)])[:, None] * flex.TILE
    some_RC, full_RC = (
        sum_of(counts, columns)
        for counts, columns in (
            (mask.kv_num_blocks, mask.kv_indices),
            (mask.full_kv_num_blocks, mask.full_kv_indices),
        )
    )
    assert not (some_RC & full_RC).any() and not (full_RC & (count_RC < real_RC)).any()
    if window in (0, 10_000):
        assert torch.equal(some_RC | full_RC, count_RC > 0)  # and none that nobody sees
    else:
        assert not ((count_RC > 0) & ~some_RC).any() and not full_RC.any()


def sum_of(counts: Tensor | None, columns: Tensor | None) -> Tensor:
    """(R, C) True at the tiles that are listed."""
    assert counts is not None and columns is not None
    found_RC = torch.zeros(columns.shape[2:], dtype=torch.bool)
    for row, (count, listed) in enumerate(zip(counts[0, 0].tolist(), columns[0, 0].tolist())):
        found_RC[row, listed[:count]] = True
    return found_RC


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.parametrize("options", ["", "window", "softcap", "slopes", "sinks", "window softcap slopes sinks"])
def test_results_and_gradients_are_those_of_our_operation(options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)  # it refuses gradients on a CPU
    plan, _ = plan_of(7, 60)
    torch.manual_seed(0)
    tokens = len(plan.kept_M)
    given = [torch.randn(tokens, heads, size, requires_grad=True) for heads, size in ((6, 16), (2, 16), (2, 16))]
    sinks = torch.randn(6, requires_grad=True)
    more = {
        "window": 12 if "window" in options else 0,
        "softcap": 1.5 if "softcap" in options else 0.0,
        "slopes_H": torch.rand(6) if "slopes" in options else None,
        "sinks_H": sinks if "sinks" in options else None,
    }
    wanted = [*given, *([sinks] if "sinks" in options else [])]
    weight = torch.randn(tokens, 6, 16)
    outs = [way.attention(*given, plan.units, 0.25, **more) for way in (attention, flex)]
    slopes = [torch.autograd.grad((out * weight).sum(), wanted) for out in outs]
    assert float((outs[0] - outs[1]).detach().abs().max()) < 2e-6
    for ours, other in zip(*slopes):
        assert float((ours - other).abs().max()) < 5e-6 * float(ours.abs().max())
