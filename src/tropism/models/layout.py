"""Makes a Batch of trees and chooses its layout, for every stage and judge, and how a model goes through it.

Padded rows repeat the prompt for each answer. Shared rows have each prompt once, followed by its K answers; attention
runs on their blocks (`models/trees.py`), or under a dense mask (`models/masks.py`), whose cost is the square of the row
length. Where attention is compiled "auto" takes shared rows on blocks if there is anything to share: they have fewer tokens
and fewer pairs, and were fastest from 60 tokens on. With torch's attention it takes what costs least, in multiply-adds of
matrix products:

    tokens x parameters a token goes through + layers x (heads x head size x pairs + CALL x blocks)

A pair is a query and a key. It counts as OWN in a causal square, as ACROSS where each query has the same keys, as DENSE
under a mask, where each query has all keys of its row, and a query in two blocks costs MERGE more. These are times of 48
random shapes on three models, relative to those of matrix products (docs/log.md). The choice depends only on shapes and the
model, never on a time that is measured, so that a run can be repeated; `bench/update.py` compares it with times. Left out:
the LM head, which has the same tokens everywhere, and that a token uses only a few experts of a mixture.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.heterogeneity.configuration_utils import AmbiguousGlobalPerLayerAttributeError

from tropism.errors import TropismError
from tropism.models.halves import backbone, text_config
from tropism.models.masks import states_under_mask, takes_trees
from tropism.models.trees import is_compiled, states_on_blocks, takes_blocks
from tropism.tensors.batch import Batch, Layout
from tropism.tensors.blocks import blocks
from tropism.tensors.collate import collate, shape
from tropism.tensors.tree import Tree

ROW_TOKENS = 128  # short rows: a dense mask costs their square, and a CPU gains nothing from long ones
AT_ONCE = 2304  # tokens of several groups in a pass on a CPU: an update of some 2,048 is one, more is not faster
OWN, ACROSS, DENSE = 2.8, 1.7, 1.5
MERGE = 256.0  # adding up the two parts of a query
CALL = 1 << 21  # a block, besides its pairs


def layout(
    trees: Sequence[Tree],
    model: PreTrainedModel,
    predicts: Sequence[str] = ("logprobs_BT",),
    force: Layout = "auto",
    most: int = 0,
) -> Batch:
    """A Batch on the model's device, in the layout `force`; with "auto" in the cheapest one that the model can use. A
    group of more than `most` tokens (0: no limit) gets several rows, so that it can be computed in parts."""
    twins = set(predicts) <= {"scores_N", "scores_BT"}
    able = takes_trees(model)
    if force == "shared" and not able:
        raise TropismError(f'{type(model).__name__} takes no rows that completions share: use layout = "auto"')
    alone = all(len(tree.completions) == 1 for tree in trees)
    if force == "auto" and (not able or (alone and is_compiled(model))):
        force = "padded"
    if force != "padded":
        shared = collate(trees, ROW_TOKENS, True, twins, most)
        if force == "shared" or is_compiled(model) or min(_costs(model, shared)) <= _padded(model, trees, twins):
            return shared.to(model.device)
    return collate(trees, shared=False, twins=twins).to(model.device)


def pass_size(tokens: int, device: str, group: int = 0) -> int:
    """The most tokens of a forward pass of an update with `pass_tokens` = `tokens` (0: no limit), if the largest group
    has `group`. On a CPU groups go through models together up to AT_ONCE tokens, and only a group larger than `tokens`
    is computed in parts."""
    together = min(tokens, AT_ONCE) if device == "cpu" else tokens
    return max(together, min(group, tokens))


def cheapest(model: PreTrainedModel, batch: Batch) -> Callable[[PreTrainedModel, Batch], Tensor]:
    """What computes the states of shared rows with less work."""
    if is_compiled(model):
        return states_on_blocks
    dense, on_blocks = _costs(model, batch)
    return states_on_blocks if on_blocks < dense else states_under_mask


def cost(model: PreTrainedModel, tokens: int, pairs: float, calls: int = 0) -> float:
    """The multiply-adds of a pass over so many tokens, weighted pairs of a query and a key, and blocks."""
    config = text_config(model)
    try:
        size = getattr(config, "head_dim", None)
    except AmbiguousGlobalPerLayerAttributeError:  # layers differ: about the width of the model
        size = None
    attention = config.num_attention_heads * size if size else config.hidden_size
    return tokens * _linear(model) + config.num_hidden_layers * (attention * pairs + CALL * calls)


def _costs(model: PreTrainedModel, batch: Batch) -> tuple[float, float]:
    """Of shared rows under a dense mask, and on blocks."""
    rows, width = batch.tokens_BT.shape
    dense = cost(model, rows * width, DENSE * rows * width**2)
    if not takes_blocks(model):
        return dense, math.inf
    plan = blocks(batch)
    pairs = OWN * sum(b.count * b.queries * (b.queries + 1) // 2 for b in plan.own)
    pairs += sum(b.count * b.queries * (ACROSS * b.keys + MERGE) for b in plan.cross)
    return dense, cost(model, len(plan.kept_M), pairs, len(plan.own) + len(plan.cross))


def _padded(model: PreTrainedModel, trees: Sequence[Tree], twins: bool) -> float:
    rows, width = shape(trees, ROW_TOKENS, False, twins)
    return cost(model, rows * width, OWN * rows * width * (width + 1) / 2)


def _linear(model: PreTrainedModel) -> int:
    """The number of weights that every token goes through, counted once for a model, after its adapter was added."""
    if model not in _LINEAR:
        _LINEAR[model] = sum(
            parameter.numel()
            for module in backbone(model).modules()
            if not isinstance(module, nn.Embedding)
            for parameter in module.parameters(recurse=False)
        )
    return _LINEAR[model]


_LINEAR: weakref.WeakKeyDictionary[PreTrainedModel, int] = weakref.WeakKeyDictionary()
