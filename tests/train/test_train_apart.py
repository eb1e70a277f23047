"""A group that is larger than a pass is computed in parts (that its gradient is the same: tests/invariants)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_train_loop import FLAT, descent
from transformers import PreTrainedModel

from tropism.algorithms.dpo import DPO
from tropism.algorithms.nll import NLL
from tropism.needs import Shape, training
from tropism.tensors.collate import collate
from tropism.tensors.rows import passes
from tropism.tensors.tree import Tree
from tropism.train.loop import Learner

ANSWERS = tuple(tuple(range(20 + 7 * k, 26 + 7 * k)) for k in range(5))  # of 6 tokens
BIG = Tree("big", tuple(range(10, 14)), ANSWERS, ((True,) * 6,) * 5, (True,) * 5, rank=(2, 1, 3, 5, 4))
SMALL = Tree("small", (9, 8), ((7, 6),), ((True,) * 2,), (True,), rank=(1,))


def test_a_large_tree_gets_several_rows_that_stand_together() -> None:
    batch = collate([BIG, SMALL], most=16)
    assert batch.tokens_BT.shape == (4, 16)  # the small group; two answers with their prompt, twice; and the fifth
    assert batch.completion_BT.amax(1).tolist() == [5, 1, 3, 4]
    assert batch.tokens_BT[3].tolist() == [*range(10, 14), *ANSWERS[4], 0, 0, 0, 0, 0, 0]
    assert passes(batch, 1) == [[0], [1, 2, 3]]
    assert batch.tokens_BT.flatten()[batch.last_N].tolist() == [25, 32, 39, 46, 53, 6]


@pytest.mark.parametrize("shared", [True, False])
def test_no_graph_is_larger_than_a_pass(make_model: Callable[..., PreTrainedModel], shared: bool) -> None:
    model = make_model()
    batch = collate([BIG], shared=shared, most=16)
    batch = batch.replace(ref_logprobs_BT=torch.full(batch.tokens_BT.shape, -5.0))
    seen: list[tuple[bool, int]] = []

    def hook(_: object, __: object, out: torch.Tensor) -> None:
        seen.append((torch.is_grad_enabled(), out[..., 0].numel()))

    learner = descent(Learner({"policy": model}, FLAT, 10, pass_tokens=20))
    model.get_input_embeddings().register_forward_hook(hook)
    metrics = learner.update(DPO(), batch)
    graphs = [n for graph, n in seen if graph]
    assert len(graphs) == 3 and max(graphs) <= 20  # two answers, two, and one
    assert metrics["policy_gradient_norm"].value > 0


def test_on_a_cpu_groups_fill_a_pass_only_up_to_a_size(
    make_model: Callable[..., PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven small groups, three to a pass; and a larger one, which is not computed in parts. A plan expects as much."""
    model = make_model()
    trees = [Tree(str(i), (9, 8), ((7, 6 + i, 5),), ((True,) * 3,), (True,)) for i in range(7)]
    big = Tree("big", BIG.prompt, ANSWERS, BIG.trained, BIG.ended)
    monkeypatch.setattr("tropism.models.layout.AT_ONCE", 15)
    for given, sizes in ((trees, [15, 15, 5]), ([big], [34]), (trees, [35])):
        seen: list[tuple[bool, int]] = []

        def hook(_: object, __: object, out: torch.Tensor) -> None:
            seen.append((torch.is_grad_enabled(), out[..., 0].numel()))

        most = 1000 if sizes != [35] else 0  # 0: the user wants one pass
        hooked = model.get_input_embeddings().register_forward_hook(hook)
        descent(Learner({"policy": model}, FLAT, 10, pass_tokens=most)).update(NLL(), collate(given))
        hooked.remove()
        assert [n for graph, n in seen if graph] == sizes
        work = {"updates": 1, "tokens": 99, "at_once": sum(sizes), "pass_tokens": most, "group": given[0].size}
        held = training(Shape(0, vocabulary=0, width=1, layers=1), **work).memory_bytes / (24 * 4)
        assert held == max(sizes)
