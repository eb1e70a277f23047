"""Load and save models. `AutoModel…from_pretrained` loads every folder that is saved here, tokenizer included.

A path may be the folder of an adapter (`models/adapters.py`). `load_*` return a new plain model, with the adapter
merged. `frozen_*` return a model that is not trained; its base is in memory only once, for all models that use it.

Dropout stays off everywhere (models are in eval mode, training included): a ratio pi/pi_old under dropout is noise.
"""

from __future__ import annotations

import contextlib
import copy
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from tropism.errors import TropismError
from tropism.models import adapters, strict
from tropism.models.architecture import placed
from tropism.models.halves import backbone, text_config, vocabulary_of
from tropism.models.scalar import language_class, scalar_class
from tropism.models.vocabulary import know
from tropism.outside import shortened
from tropism.store import files
from tropism.text.template import PAD
from tropism.text.tokenizer import load_tokenizer


def load_lm(path: str | Path, dtype: torch.dtype = torch.float32, scorer: bool = False) -> PreTrainedModel:
    """A causal LM from a folder or hub id, in eval mode on this machine's device; with `scorer` also one that has learned
    to score by its likelihoods."""
    return _load(path, dtype, scalar=False, scorer=scorer)


def load_scalar(path: str | Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model that gives one number for each token: a reward model or critic, as in `models/scalar.py`.

    From the folder of a causal LM it takes the backbone; the head starts at zero, so the first values are 0.
    """
    return _load(path, dtype, scalar=True)


def frozen_lm(path: str | Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A causal LM that is not trained."""
    check_taken(path)
    return _frozen_lm(path, dtype)


def frozen_scalar(path: str | Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A reward model that is not trained."""
    return _frozen(adapters.scalar_on(frozen_base(adapters.base_of(path), dtype)), path)


def frozen_scorer(path: str | Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A reward model that is not trained: a causal LM if its scores are likelihoods, otherwise a model with a head.

    Raises TropismError if the model was not trained to score.
    """
    headed = adapters.is_scalar(path) if adapters.is_adapter(path) else _is_scalar(config_of(path))
    model = frozen_scalar(path, dtype) if headed else _frozen_lm(path, dtype)
    learned = (
        model.get_submodule(adapters.HEAD).get_parameter("weight").any()
        if headed
        else hasattr(model.config, "score_unit")
    )
    if not learned:
        raise TropismError(f"{path} has not learned to score: name the result of a `reward` stage")
    return model


def frozen_base(path: str, dtype: torch.dtype) -> PreTrainedModel:
    """The whole model of a folder or hub id, in memory once: do not write to its weights, add adapters to a `twin`.

    It stays in memory as long as one of its twins does, and is read again if its files change.
    """
    files = sorted(Path(path).glob("*.safetensors"))
    key = (str(Path(path).resolve()) if files else path, dtype, tuple((f.name, f.stat().st_mtime_ns) for f in files))
    if (found := _BASES.get(key)) is None:
        model = _load(path, dtype, scalar=_is_scalar(config_of(path)), scorer=True)
        found = _BASES[key] = model.requires_grad_(False)
    return found


_BASES: weakref.WeakValueDictionary[tuple[Any, ...], PreTrainedModel] = weakref.WeakValueDictionary()


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: str = "float32") -> None:
    """Writes a Hugging Face folder: safetensors in `dtype`, config, tokenizer with its chat template. Of an adapted
    model only the adapter is written, always in float32."""
    with _quiet():
        if adapters.is_adapted(model):
            adapters.write(model, folder)
        else:
            tokenizer = _padded(model, tokenizer)
            kind = getattr(torch, dtype)
            cast = {id(t): t.to(kind) for t in model.parameters()}  # tied weights stay one
            state = {n: cast.get(id(t), t) for n, t in model.state_dict(keep_vars=True).items()}
            model.save_pretrained(folder, state_dict=state)
            config = copy.deepcopy(model.config)
            config.dtype = kind
            config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _padded(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, with a padding token if a score head needs one: transformers finds the last token of a row with
    it, so no answer may end with that token. The model's config gets its id."""
    if hasattr(model, adapters.HEAD) and tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.add_special_tokens({"pad_token": PAD})
        if len(tokenizer) > vocabulary_of(model):
            model.resize_token_embeddings(len(tokenizer))
    for config in (model.config, text_config(model)):
        if tokenizer.pad_token_id is not None:
            config.pad_token_id = tokenizer.pad_token_id
    return tokenizer


def merge(adapter: Path, out: Path) -> None:
    """Writes a base with its adapter merged as a plain model, completely or not at all."""
    if not adapters.is_adapter(adapter):
        raise TropismError(f"{adapter} is not an adapter, it has no adapter_config.json: give a folder that peft wrote")
    files.vacant(out)
    model = load_scalar(adapter) if adapters.is_scalar(adapter) else load_lm(adapter, scorer=True)
    tokenizer = load_tokenizer(adapter)
    with files.whole_folder(out) as folder:
        save(model, tokenizer, folder)


def context_of(model: PreTrainedModel) -> int:
    """The longest sequence that the model was made for, in tokens; a very large number if it has no limit."""
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions")
    found = [int(n) for name in names if (n := getattr(text_config(model), name, None))]
    for name, part in model.named_modules():  # some position tables begin after the padding id
        if (
            name.endswith("position_embeddings")
            and isinstance(part, torch.nn.Embedding)
            and part.padding_idx is not None
        ):
            found.append(part.num_embeddings - part.padding_idx - 1)
    return min(found, default=10**9)


def config_of(path: str | Path) -> Any:
    """The config of a model; for an adapter the config of its base."""
    try:
        return AutoConfig.from_pretrained(adapters.base_of(path), trust_remote_code=False)
    except (OSError, ValueError, StrictDataclassError) as error:  # the last: sizes that do not fit together
        first = shortened(str(error), 300)
        raise TropismError(f"no model is at {path} ({first}): give a Hugging Face folder or id") from None


def check_taken(path: str | Path, scalar: bool = False, scorer: bool = False) -> Any:
    """The config of a model that can be used as a language model, or with `scalar` as a reward model or critic; with
    `scorer` also a causal LM whose likelihoods are its scores.

    Raises TropismError if its config shows that it cannot.
    """
    config = config_of(path)
    language_class(config)
    headed = adapters.is_scalar(path) if adapters.is_adapter(path) else _is_scalar(config)
    if headed and not scalar:
        raise TropismError(f"{path} is a reward model, with a score head instead of an LM head: name a language model")
    unit = adapters.scores(path) if adapters.is_adapter(path) else hasattr(config, "score_unit")
    if unit and not headed and not scalar and not scorer:
        raise TropismError(f"{path} is a reward model, whose likelihoods are its scores: name a language model")
    if _is_scalar(config) and config.num_labels != 1:
        raise TropismError(f"{path} has {config.num_labels} labels, but a reward model or critic has one: name another")
    return config


def _load(path: str | Path, dtype: torch.dtype, scalar: bool, scorer: bool = False) -> PreTrainedModel:
    config = check_taken(path, scalar, scorer)
    kind, config = scalar_class(config) if scalar else language_class(config)
    options: dict[str, Any] = {"dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True}
    base = adapters.base_of(path)
    try:
        with _quiet():
            model, info = kind.from_pretrained(base, config=config, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise TropismError(f"no model can be loaded from {path} ({first}): give a Hugging Face folder or id") from None
    new_head = scalar and not _is_scalar(config_of(path))
    strict.check(model, info, base, new_head)
    strict.check_finite(model, path)
    if new_head:
        torch.nn.init.zeros_(model.get_submodule(adapters.HEAD).get_parameter("weight"))
    model = placed(adapters.merged(model, path) if adapters.is_adapter(path) else model)
    if scalar:
        return model
    backbone(model)  # raises if the model cannot continue a text
    if _has_tokenizer(path):
        know(model, load_tokenizer(path))
    return model


def _has_tokenizer(path: str | Path) -> bool:
    """A folder may have none; for a hub id this looks on the hub."""
    return not Path(path).is_dir() or any(Path(path).glob("*token*"))


def _frozen_lm(path: str | Path, dtype: torch.dtype) -> PreTrainedModel:
    return _frozen(adapters.twin(frozen_base(adapters.base_of(path), dtype)), path)


def _frozen(model: PreTrainedModel, path: str | Path) -> PreTrainedModel:
    if adapters.is_adapter(path):
        adapters.put_on(model, path)
    return model.requires_grad_(False)


def _is_scalar(config: Any) -> bool:
    return any("SequenceClassification" in name for name in config.architectures or ())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides transformers' progress bars and its notes about new heads."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
