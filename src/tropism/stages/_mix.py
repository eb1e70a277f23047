"""Pretraining in the updates of the `rl` stage: PPO-ptx of InstructGPT (arXiv 2203.02155), for every algorithm.

    gradient = gradient(loss of the algorithm)  +  coefficient * gradient(negative log-likelihood of documents)

Each of the two is divided once by its own count. The documents are cut into pieces and taken in their own order, whose
position is part of every checkpoint; each update takes new ones. Their likelihood is at temperature 1, whatever the
temperature of sampling. While the policy is not trained (`critic_warmup`) nothing is mixed in.

InstructGPT's coefficient of 27.8 depends on its way of summing and its batch sizes. Left out: mixing in demonstrations,
which would need a chat template.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tropism.algorithms.nll import NLL
from tropism.models.folder import context_of
from tropism.models.layout import layout
from tropism.protocols import Format
from tropism.stages._fit import Data
from tropism.stages._read import documents
from tropism.store.work import Work
from tropism.tensors.batch import Layout
from tropism.tensors.encode import chunks
from tropism.train import cost
from tropism.train.loop import Mixed
from tropism.train.order import Order
from tropism.types import Group

__all__ = ["Mix"]


@dataclass(frozen=True)
class Mix:
    """`data` has documents; each update takes about `tokens` tokens of them, in pieces of at most `row_tokens`."""

    data: Format
    coefficient: Annotated[float, Gt(0)] = 1.0
    tokens: Annotated[int, Ge(1)] = 2048
    row_tokens: Annotated[int, Ge(2)] = 256

    def read(self, work: Work) -> list[Group]:
        """The documents."""
        return documents(self.data, work)


class Mixing:
    """The documents of a Mix, taken one part after another. Checkpoints have the `position`."""

    def __init__(
        self, mix: Mix, read: list[Group], policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int
    ) -> None:
        length = min(mix.row_tokens, context_of(policy))
        self.mix, self.policy = mix, policy
        self.data = Data([piece for group in read for piece in chunks(group, tokenizer, length)], 0, tokens=mix.tokens)
        self.order = Order(len(self.data.trees), seed)

    def take(self, force: Layout) -> tuple[Mixed, int]:
        """The documents for the next update, and the tokens that go through the model for them (`train/cost.py`)."""
        trees = self.data.take(self.order)
        batch = layout(trees, self.policy, NLL.predicts, force)
        return Mixed(NLL(), batch, self.mix.coefficient), cost.updating(NLL()) * sum(t.size for t in trees)
