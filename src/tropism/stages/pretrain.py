"""Stage: trains a base model on raw text. It learns to continue documents, not to answer."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Interval

from tropism.algorithms.nll import NLL
from tropism.errors import TropismError
from tropism.models.architecture import Architecture, create
from tropism.models.folder import context_of, save
from tropism.models.weights import Weights
from tropism.needs import Earlier, Needs, Shape, training
from tropism.protocols import Format
from tropism.stages._fit import PASS_TOKENS, Data, fit, measure
from tropism.stages._overlap import learns
from tropism.stages._read import documents, held_out
from tropism.store.work import Work
from tropism.tensors.encode import chunks
from tropism.text.tokenizer import load_tokenizer
from tropism.train.loop import Learner
from tropism.train.optim import Optim
from tropism.types import PolicyRef, TokenizerRef

__all__ = ["Pretrain"]


@dataclass(frozen=True)
class Pretrain(Weights):
    """A new model on `tokenizer`, or `init` trained further; exactly one of the two is given.

    Documents longer than `row_tokens` are cut into pieces of that length; each token is trained once in every pass.
    """

    data: Format
    tokenizer: TokenizerRef | None = None
    model: Architecture = Architecture()
    init: PolicyRef | None = None
    steps: Annotated[int, Ge(1)] = 2000
    tokens_per_step: Annotated[int, Ge(1)] = 1024
    row_tokens: Annotated[int, Ge(2)] = 256
    held_out: Annotated[float, Interval(ge=0, le=0.5)] = 0.01
    pass_tokens: Annotated[int, Ge(0)] = PASS_TOKENS  # in one forward pass: lower it if memory is short
    optim: Optim = field(default_factory=lambda: Optim(lr=5e-3, weight_decay=0.01))

    version: ClassVar[int] = 2
    makes: ClassVar[Literal["base"]] = "base"

    def __post_init__(self) -> None:
        if (self.tokenizer is None) == (self.init is None):
            raise TropismError("pretrain needs either `tokenizer` (a new model) or `init` (a model to train further)")
        if self.adapter.r and not self.init:
            raise TropismError("pretrain.adapter needs `init`: a new model has no weights to freeze")

    def needs(self, earlier: Earlier) -> Needs:
        if self.init:
            shape = earlier.model(self.init)
        else:
            size, made = earlier.vocabulary(self.tokenizer or ""), self.model
            shape = Shape(made.parameters(size), size, made.width, made.layers) if size else None
        return training(
            shape,
            updates=self.steps,
            tokens=self.steps * self.tokens_per_step,
            at_once=self.tokens_per_step,
            pass_tokens=self.pass_tokens,
            group=self.row_tokens,
            keys=("model.width", "tokens_per_step"),
        )

    def run(self, work: Work) -> None:
        train, test = held_out(documents(self.data, work), self.held_out)
        learns(work, train)
        tokenizer = load_tokenizer(self.init or self.tokenizer or "")
        seed = work.seed
        model = self.train_lm(self.init, seed) if self.init else self.ready(create(self.model, tokenizer, seed))
        length = min(self.row_tokens, context_of(model))
        trees = [piece for group in train for piece in chunks(group, tokenizer, length)]
        learner = Learner({"policy": model}, self.optim, self.steps, pass_tokens=self.pass_tokens, layout=self.layout)
        fit(work, learner, NLL(), Data(trees, self.steps, tokens=self.tokens_per_step))
        work.facts |= {
            "parameters": model.num_parameters(),
            "tokens": self.steps * self.tokens_per_step,
            "documents": len(train),
            "tokens_in_data": sum(t.size for t in trees),
        }
        if test:
            text = "".join(c.text for g in test for c in g.completions).encode()
            loss = measure({"policy": model}, NLL(), [p for g in test for p in chunks(g, tokenizer, length)])["loss"]
            work.facts |= {
                "held_out_loss": round(loss.value, 4),
                "bits_per_byte": round(float(loss.total) / 0.6931471805599453 / len(text), 4),
                "gzip_bits_per_byte": round(8 * len(gzip.compress(text, 9, mtime=0)) / len(text), 4),
                "held_out_bytes": len(text),
            }
        save(model, tokenizer, work.out, self.save_dtype)
