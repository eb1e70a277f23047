"""A new causal LM: its architecture in a recipe, its random weights, its device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
)

from tropism.errors import TropismError

__all__ = ["Architecture"]


@dataclass(frozen=True)
class Architecture:
    """A new causal LM. `feed_forward` 0 is 8/3 of the width, rounded up to 32; `context` in tokens."""

    kind: Literal["llama", "qwen3"] = "llama"
    width: Annotated[int, Ge(1)] = 128
    layers: Annotated[int, Ge(1)] = 3
    heads: Annotated[int, Ge(1)] = 4
    feed_forward: Annotated[int, Ge(0)] = 0
    context: Annotated[int, Ge(1)] = 1024

    def __post_init__(self) -> None:
        if self.heads and self.width % self.heads:
            raise TropismError(
                f"model.width = {self.width} is not a multiple of model.heads = {self.heads}: change one"
            )

    def config(self, vocabulary: int) -> LlamaConfig | Qwen3Config:
        inner = self.feed_forward or -(-self.width * 8 // 3 // 32) * 32
        shape = {
            "vocab_size": vocabulary,
            "hidden_size": self.width,
            "intermediate_size": inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "head_dim": self.width // self.heads,
            "max_position_embeddings": self.context,
            "tie_word_embeddings": True,
        }
        return LlamaConfig(**shape) if self.kind == "llama" else Qwen3Config(**shape)

    def parameters(self, vocabulary: int) -> int:
        """How many parameters the model has, without making it."""
        config = self.config(vocabulary)
        block = 4 * self.width**2 + 3 * self.width * config.intermediate_size + 2 * self.width
        if self.kind == "qwen3":
            block += 2 * (self.width // self.heads)
        return vocabulary * self.width + self.layers * block + self.width


def device() -> torch.device:
    """The GPU if there is one, else the CPU with deterministic kernels only: there a run can be repeated bit for
    bit."""
    torch.use_deterministic_algorithms(not torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore  # a debugging aid that costs a pass over each tensor
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def create(architecture: Architecture, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """A causal LM with random weights drawn from `seed`."""
    config = architecture.config(len(tokenizer))
    _point_at(config, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    return placed(model)


def placed(model: Any) -> PreTrainedModel:
    return model.eval().to(device())


def _point_at(config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    config.bos_token_id = tokenizer.bos_token_id
    config.eos_token_id = tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
