"""The class of a model that gives one number for each token. It is transformers' `…ForSequenceClassification` if that
has a head for every token (`score`). Otherwise a class is made from the family's causal LM, with the same backbone and
names.

Such a class also saves a Hugging Face folder, but `AutoModelForSequenceClassification` can load it only if transformers
has the class.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.models.auto.auto_factory import _get_model_class

from tropism.errors import TropismError
from tropism.models.halves import HEAD


def language_class(config: Any) -> tuple[Any, Any]:
    """The causal LM class for a config, and the config that the class takes: sometimes only the text part of it.

    Raises TropismError if the architecture is not a causal LM.
    """
    families = AutoModelForCausalLM._model_mapping
    if type(config) not in families:
        what = "an encoder-decoder model" if config.is_encoder_decoder else "not a causal language model"
        raise TropismError(
            f"{config.name_or_path or 'the model'} is {what} ({config.model_type}): use a decoder-only model"
        )
    made = _get_model_class(config, families)
    inner = config.sub_configs.get("text_config")
    return made, config.get_text_config() if inner is not None and made.config_class is inner else config


def scalar_class(config: Any) -> tuple[Any, Any]:
    """The class that gives one number for each token, and the config that it takes, with one label."""
    language, config = language_class(config)
    config.num_labels = 1
    known = AutoModelForSequenceClassification._model_mapping
    if type(config) in known and _reads_every_token(found := _get_model_class(config, known), config):
        return found, config
    return _like(language, config), config


_READS: dict[Any, bool] = {}
_MADE: dict[Any, Any] = {}


def _reads_every_token(kind: Any, config: Any) -> bool:
    if kind not in _READS:
        with torch.device("meta"):
            _READS[kind] = hasattr(kind(config), HEAD)
    return _READS[kind]


def _like(language: Any, config: Any) -> Any:
    """A class with the backbone of a causal LM and a score head."""
    if language in _MADE:
        return _MADE[language]
    family = [c for c in language.__mro__ if issubclass(c, PreTrainedModel) and c is not PreTrainedModel][-1]
    with torch.device("meta"):
        prefix = language.base_model_prefix if hasattr(language(config), language.base_model_prefix) else "model"

    def build(self: Any, config: Any) -> None:
        family.__init__(self, config)
        self.num_labels = config.num_labels
        setattr(self, prefix, getattr(language(config), prefix))
        self.score = nn.Linear(config.get_text_config(decoder=True).hidden_size, self.num_labels, bias=False)
        self.post_init()

    def embeddings(self: Any) -> nn.Module:
        part = getattr(self, prefix)
        return getattr(part, "decoder", part).get_input_embeddings()

    parts = {
        "__init__": build,
        "__module__": family.__module__,  # so that buffers are made again as in a class of transformers
        "get_input_embeddings": embeddings,
        "base_model_prefix": prefix,
        "_keys_to_ignore_on_load_unexpected": getattr(language, "_keys_to_ignore_on_load_unexpected", None),
    }
    name = language.__name__.split("For")[0].removesuffix("LMHeadModel").removesuffix("Decoder")
    _MADE[language] = type(f"{name}ForSequenceClassification", (GenericForSequenceClassification, family), parts)
    return _MADE[language]
