"""What teaches nothing leaves an update before the forward pass.

A completion whose advantages are all exactly 0 adds nothing to the gradient, but it is counted in the divisor of the loss.
So it loses its tokens here, groups without a token that is left leave, and its part of the count is added back. The metrics
of the update are those of the others. It concerns algorithms that say which completions are idle (`protocols.py:Sparing`).
"""

from __future__ import annotations

import torch

from tropism.protocols import Algorithm, Sparing
from tropism.tensors.batch import Batch, Prediction
from tropism.tensors.ratio import Ratio
from tropism.tensors.rows import passes, take_rows


def spared(algorithm: Algorithm, batch: Batch) -> tuple[Batch, list[Ratio]]:
    """What has to be computed of a batch, and the loss of the rest: a total of 0 and its count.

    If nothing has to be computed it is the whole batch, so that an update without a gradient is one with a gradient of 0.
    """
    if not isinstance(algorithm, Sparing):
        return batch, []
    idle_BT = batch.loss_mask_BT & algorithm.idle(batch)[batch.completion_BT.clamp(min=0)]
    left = batch.replace(loss_mask_BT=batch.loss_mask_BT & ~idle_BT)
    rows = [row for unit in passes(batch, 1) if left.loss_mask_BT[unit].any() for row in unit]
    if not rows or (len(rows) == len(idle_BT) and not idle_BT.any()):
        return batch, []
    rest, nothing_BT = batch.replace(loss_mask_BT=idle_BT), torch.zeros(idle_BT.shape, device=idle_BT.device)
    loss, _ = algorithm.loss(rest, Prediction(nothing_BT, nothing_BT, entropy_bonus_BT=nothing_BT))
    return take_rows(left, rows), [loss]
