"""Pretraining in the updates of the `rl` stage: PPO-ptx of InstructGPT (arXiv 2203.02155), for every algorithm.

    gradient = gradient(loss of the algorithm)  +  coefficient * gradient(negative log-likelihood of documents)

Each of the two is divided by its own count, once. The documents are cut into pieces and taken in an order of their own,
whose position is part of every checkpoint; each update takes new ones. Their likelihood is that of the model itself, at
temperature 1, whatever the policy is sampled at. While the policy rests (`critic_warmup`) nothing is mixed in.

InstructGPT's coefficient of 27.8 belongs to its own sums and batch sizes. Left out: demonstrations to mix in, which would
bring a template with them.
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
    """Documents in the `data`, of which each update takes about `tokens`, in pieces of at most `row_tokens`."""

    data: Format
    coefficient: Annotated[float, Gt(0)] = 1.0
    tokens: Annotated[int, Ge(1)] = 2048
    row_tokens: Annotated[int, Ge(2)] = 256

    def read(self, work: Work) -> list[Group]:
        """The documents."""
        return documents(self.data, work)


class Mixing:
    """The documents of a Mix on their way into updates. `position` is what a checkpoint holds."""

    def __init__(
        self, mix: Mix, read: list[Group], policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int
    ) -> None:
        length = min(mix.row_tokens, context_of(policy))
        self.mix, self.policy = mix, policy
        self.data = Data([piece for group in read for piece in chunks(group, tokenizer, length)], 0, tokens=mix.tokens)
        self.order = Order(len(self.data.trees), seed)

    def take(self, force: Layout) -> tuple[Mixed, int]:
        """What the next update mixes in, and the tokens that go through the model for it (`train/cost.py`)."""
        trees = self.data.take(self.order)
        batch = layout(trees, self.policy, NLL.predicts, force)
        return Mixed(NLL(), batch, self.mix.coefficient), cost.updating(NLL()) * sum(t.size for t in trees)
