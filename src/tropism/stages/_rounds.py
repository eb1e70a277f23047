"""The state between rounds of the `rl` stage: everything that a round reads besides the models, for checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel

from tropism.stages._mix import Mixing
from tropism.tensors.batch import Layout
from tropism.tensors.tree import Tree
from tropism.train import cost
from tropism.train.loop import Mixed
from tropism.train.order import Order
from tropism.train.shaping import Moments
from tropism.types import Group

COUNTS = ("round", "completions", "generated", "trained", "spent", "mixed")


@dataclass
class State:
    """`save` and `load` are for checkpoints."""

    algorithm: Any
    order: Order
    tokenizer: Any
    reference: PreTrainedModel | None
    mixing: Mixing | None = None
    round: int = 0
    completions: int = 0
    generated: int = 0  # tokens
    trained: int = 0  # tokens, prompts included
    spent: int = 0  # tokens through models, train/cost.py
    mixed: int = 0  # those of `spent` for documents that are mixed in
    seen: Moments = Moments()  # of all scores so far
    looks: dict[str, Any] = field(default_factory=dict)  # what they have shown: stages/_watched.py

    def count(self, groups: Sequence[Group], trees: Sequence[Tree]) -> None:
        """Adds the tokens and scores of samples."""
        self.completions += sum(len(g.completions) for g in groups)
        self.generated += sum(len(c.tokens or ()) for g in groups for c in g.completions)
        self.spent += sum(cost.sampling(len(t.prompt), g.completions, g.judgments[-1]) for g, t in zip(groups, trees))
        self.seen = self.seen.add(s for t in trees for s in t.reward or ())

    def save(self) -> dict[str, Any]:
        fields = {f.name: getattr(self.algorithm, f.name) for f in dataclasses.fields(self.algorithm)}
        counts = {name: getattr(self, name) for name in COUNTS}
        seen = dataclasses.asdict(self.seen)
        positions = {
            "position": self.order.position,
            "mixed_position": self.mixing.order.position if self.mixing else 0,
        }
        return {**counts, **positions, "algorithm": fields, "seen": seen, "looks": self.looks}

    def load(self, saved: dict[str, Any]) -> None:
        for name in COUNTS:
            setattr(self, name, saved.get(name, 0))
        self.order.position, self.seen, self.looks = saved["position"], Moments(**saved["seen"]), saved.get("looks", {})
        if self.mixing:
            self.mixing.order.position = saved["mixed_position"]
        self.algorithm = dataclasses.replace(self.algorithm, **saved["algorithm"])

    def mix(self, layout: Layout) -> Mixed | None:
        """The documents that the next update mixes in, with their tokens counted; None if there are none to mix."""
        if self.mixing is None:
            return None
        mixed, spent = self.mixing.take(layout)
        self.spent, self.mixed = self.spent + spent, self.mixed + spent
        return mixed
