"""What a stage says of itself before it runs, for `tropism plan`: what it takes, and what it leaves for later stages.

A stage has a method `needs(earlier) -> Needs` (`protocols.py:Planned`). `training` and `sampling` estimate the two common
kinds of work. Parameters are exact; tokens of a data set are counted on a sample; memory is that of float32 weights,
gradients, the two moments of Adam and the activations of one pass. Left out: what an adapter or recomputed layers save.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM

from tropism.models.folder import check_taken
from tropism.models.halves import vocabulary_of
from tropism.text.tokenizer import load_tokenizer
from tropism.types import Group

BYTES_PER_TOKEN = 2.5  # before a tokenizer has been trained
GROUP_TOKENS = 128  # of a group with its completions, before any has been sampled


@dataclass(frozen=True)
class Shape:
    """What the memory and time of a model follow from."""

    parameters: int
    vocabulary: int
    width: int
    layers: int


@dataclass(frozen=True)
class Needs:
    """The work of a stage, then what it leaves. Without a word it is a stage that uses no model, or one not known yet."""

    parameters: int = 0  # of the largest model at work
    updates: int = 0
    tokens: int = 0
    passes: float = 0.0  # forward passes of each token; a backward pass counts as two
    memory_bytes: int = 0
    keys: tuple[str, ...] = ()  # the fields to lower where memory is short

    model: Shape | None = None
    vocabulary: int = 0  # of a tokenizer
    groups: int = 0


@dataclass(frozen=True)
class Earlier:
    """What is known of the stages before, by id. A reference may also be a folder or a hub id, which is looked up."""

    stages: Mapping[str, Needs]

    def model(self, ref: str) -> Shape | None:
        """None if no stage before has said what model it leaves. Raises TropismError for a folder that is no model."""
        if ref in self.stages:
            return self.stages[ref].model
        config = check_taken(ref, scalar=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        text = config.get_text_config(decoder=True)
        return Shape(model.num_parameters(), vocabulary_of(model), text.hidden_size, text.num_hidden_layers)

    def vocabulary(self, ref: str) -> int:
        """Of a tokenizer, or of a model's; 0 if it is not known."""
        if ref in self.stages:
            found = self.stages[ref]
            return found.model.vocabulary if found.model else found.vocabulary
        return len(load_tokenizer(ref))

    def groups(self, refs: str | Sequence[str]) -> int:
        """How many groups these stages leave together, as far as is known."""
        known = (self.stages.get(ref, Needs()) for ref in ([refs] if isinstance(refs, str) else refs))
        return sum(needs.groups for needs in known)


def training(
    model: Shape | None,
    *,
    updates: int,
    tokens: int,
    at_once: int,
    pass_tokens: int,
    keys: tuple[str, ...] = ("pass_tokens",),
    trained: int = 1,
    frozen: int = 0,
    passes: float = 3.0,
) -> Needs:
    """`updates` of `at_once` tokens, `tokens` in all, at most `pass_tokens` in one forward pass (0: all of an update).

    `trained` and `frozen` count the models of this shape that are held: weights, gradients and two moments of each
    trained one, weights of the frozen ones, activations of one pass."""
    if model is None:
        return Needs()
    held = min(at_once, pass_tokens or at_once)
    activations = held * (model.layers * model.width * 4 * 24 + model.vocabulary * 4 * 3)
    memory_bytes = (16 * trained + 4 * frozen) * model.parameters + activations
    return Needs(model.parameters, updates, tokens, passes, memory_bytes, keys, model=model)


def sampling(model: Shape | None, *, tokens: int, keys: tuple[str, ...], held: int = 1, groups: int = 0) -> Needs:
    """`tokens` sampled with the weights of `held` models of this shape in memory; leaves so many `groups`."""
    if model is None:
        return Needs(groups=groups)
    return Needs(model.parameters, 0, tokens, 1.0, 4 * held * model.parameters, keys, groups=groups)


def count(groups: Iterable[Group]) -> int:
    """How many there are."""
    return sum(1 for _ in groups)


def mean_tokens(groups: Iterable[Group]) -> int:
    """Of a group with its completions, on a sample of 200; at least 1."""
    sizes = [
        sum(len(m.content.encode()) for m in g.prompt) + sum(len(c.text.encode()) for c in g.completions)
        for g in itertools.islice(iter(groups), 200)
    ]
    return max(1, round(sum(sizes) / max(len(sizes), 1) / BYTES_PER_TOKEN))
