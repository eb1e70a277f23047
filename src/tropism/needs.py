"""What a stage will need and make, before it runs, for `tropism plan`.

A stage has a method `needs(earlier) -> Needs` (`protocols.py:Planned`). `training` and `sampling` estimate the two
common kinds of work. Parameters are exact; tokens of a data set are estimated from a sample; memory is for float32
weights, gradients, the two moments of Adam and the activations of one pass. Left out: what adapters or checkpointing
save.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tropism.models.folder import check_taken
from tropism.models.halves import vocabulary_of
from tropism.models.layout import pass_size
from tropism.text.tokenizer import load_tokenizer
from tropism.types import Group

BYTES_PER_TOKEN = 2.5  # before a tokenizer has been trained
GROUP_TOKENS = 128  # in a group with its completions, before any has been sampled


@dataclass(frozen=True)
class Shape:
    """The sizes of a model that determine its memory and time."""

    parameters: int
    vocabulary: int
    width: int
    layers: int


@dataclass(frozen=True)
class Needs:
    """The work of a stage, then what it makes. The defaults are for a stage without a model, or with one not known
    yet."""

    parameters: int = 0  # of the largest model that is used
    updates: int = 0
    tokens: int = 0
    passes: float = 0.0  # forward passes of each token; a backward pass counts as two
    memory_bytes: int = 0
    keys: tuple[str, ...] = ()  # the fields to lower if memory is short

    model: Shape | None = None
    vocabulary: int = 0  # of a tokenizer
    groups: int = 0
    judgments: int = 0  # that people are asked for


@dataclass(frozen=True)
class Earlier:
    """What is known about earlier stages, by id. A reference may also be a folder or a hub id, which is then read."""

    stages: Mapping[str, Needs]

    def model(self, ref: str) -> Shape | None:
        """None if the earlier stage did not say which model it makes. Raises TropismError for a folder without a
        model."""
        if ref in self.stages:
            return self.stages[ref].model
        config = check_taken(ref, scalar=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        text = config.get_text_config(decoder=True)
        return Shape(model.num_parameters(), vocabulary_of(model), text.hidden_size, text.num_hidden_layers)

    def vocabulary(self, ref: str) -> int:
        """The size of the vocabulary of a tokenizer or model; 0 if it is not known."""
        if ref in self.stages:
            found = self.stages[ref]
            return found.model.vocabulary if found.model else found.vocabulary
        return len(load_tokenizer(ref))

    def groups(self, refs: str | Sequence[str]) -> int:
        """The number of groups that these stages make together; unknown ones count as 0."""
        known = (self.stages.get(ref, Needs()) for ref in ([refs] if isinstance(refs, str) else refs))
        return sum(needs.groups for needs in known)


def training(
    model: Shape | None,
    *,
    updates: int,
    tokens: int,
    at_once: int,
    pass_tokens: int,
    group: int = 0,
    keys: tuple[str, ...] = ("pass_tokens",),
    trained: int = 1,
    frozen: int = 0,
    passes: float = 3.0,
) -> Needs:
    """The needs of `updates` updates of `at_once` tokens, `tokens` in all, at most `pass_tokens` in one forward pass
    (0: all of an update) and `group` in a group (0: less than go through a model together).

    `trained` and `frozen` count the models of this shape in memory: weights, gradients and two moments of each trained
    one, weights of the frozen ones, activations of one pass."""
    if model is None:
        return Needs()
    most = pass_size(pass_tokens, "cuda" if torch.cuda.is_available() else "cpu", group)
    held = min(at_once, most) if most else at_once
    activations = held * (model.layers * model.width * 4 * 24 + model.vocabulary * 4 * 3)
    memory_bytes = (16 * trained + 4 * frozen) * model.parameters + activations
    return Needs(model.parameters, updates, tokens, passes, memory_bytes, keys, model=model)


def sampling(model: Shape | None, *, tokens: int, keys: tuple[str, ...], held: int = 1, groups: int = 0) -> Needs:
    """The needs of sampling `tokens` tokens with `held` models of this shape in memory, which makes `groups` groups."""
    if model is None:
        return Needs(groups=groups)
    return Needs(model.parameters, 0, tokens, 1.0, 4 * held * model.parameters, keys, groups=groups)


def count(source: Any) -> int:
    """The number of groups of a format; of one that knows its `size` without reading (about, if it is a mixture), that."""
    size = getattr(source, "size", None)
    known = size() if size else None
    return sum(1 for _ in source.groups()) if known is None else known


def mean_tokens(groups: Iterable[Group]) -> int:
    """The mean number of tokens of a group with its completions, on a sample of 200; at least 1."""
    sizes = [
        sum(len(m.content.encode()) for m in g.prompt) + sum(len(c.text.encode()) for c in g.completions)
        for g in itertools.islice(iter(groups), 200)
    ]
    return max(1, round(sum(sizes) / max(len(sizes), 1) / BYTES_PER_TOKEN))
