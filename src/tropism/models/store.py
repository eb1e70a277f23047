"""Create, load and save models. Whatever is saved here, `AutoModel…from_pretrained` loads, tokenizer included.

Dropout stays off everywhere (models are in eval mode, training included): a ratio pi/pi_old under dropout is noise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
)
from transformers.utils import logging as transformers_logging

from tropism.types import TropismError


@dataclass(frozen=True)
class Architecture:
    """A new causal LM. `feed_forward` 0 is 8/3 of the width, rounded up to 32; `context` in tokens."""

    kind: Literal["llama", "qwen3"] = "llama"
    width: int = 128
    layers: int = 3
    heads: int = 4
    feed_forward: int = 0
    context: int = 1024

    def __post_init__(self) -> None:
        if self.width % self.heads:
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
    """The GPU if there is one. On a CPU, deterministic kernels only: a run repeats bit for bit."""
    torch.use_deterministic_algorithms(not torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore  # a debugging aid that costs a pass over each tensor
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def create(architecture: Architecture, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """A causal LM with random weights drawn from `seed`."""
    config = architecture.config(len(tokenizer))
    _point_at(config, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    return _placed(model)


def load_lm(path: str | Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A causal LM from a folder or hub id, in eval mode on this machine's device."""
    return _load(AutoModelForCausalLM, path, dtype)


def load_scalar(path: str | Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model with one number for every token: a reward model or critic, `AutoModelForSequenceClassification`.

    From a causal LM's folder its backbone is taken and the head starts at zero, so that its first values are 0.
    """
    config = config_of(path)
    fresh = not any("SequenceClassification" in name for name in config.architectures or ())
    if not fresh and config.num_labels != 1:
        raise TropismError(f"{path} classifies into {config.num_labels} labels: a reward model or critic has one label")
    model = _load(AutoModelForSequenceClassification, path, dtype, num_labels=1)
    if fresh:
        torch.nn.init.zeros_(model.get_submodule("score").get_parameter("weight"))
    return model


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """A Hugging Face folder: safetensors, config, tokenizer with its chat template."""
    with _quiet():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def context_of(model: PreTrainedModel) -> int:
    """The longest sequence the model was made for, in tokens."""
    return int(getattr(model.config, "max_position_embeddings", 0) or 10**9)


def _load(kind: Any, path: str | Path, dtype: torch.dtype, **options: Any) -> PreTrainedModel:
    try:
        with _quiet():
            model = kind.from_pretrained(str(path), dtype=dtype, attn_implementation="sdpa", **options)
    except (OSError, ValueError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise TropismError(f"no model can be loaded from {path} ({first}): give a Hugging Face folder or id") from None
    return _placed(model)


def config_of(path: str | Path) -> Any:
    try:
        return AutoConfig.from_pretrained(str(path))
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise TropismError(f"no model is at {path} ({first}): give a Hugging Face folder or id") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers' bars and notes about new heads off the screen."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _placed(model: Any) -> PreTrainedModel:
    return model.eval().to(device())


def _point_at(config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    config.bos_token_id = tokenizer.bos_token_id
    config.eos_token_id = tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
