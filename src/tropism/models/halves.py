"""The two halves of a model: from tokens to last hidden states, and from those to logits.

The first half is a submodule of the model, its backbone. The second half is the model's own code (`forward`), run with
given states instead of the backbone. So it includes whatever a family does to its logits (a multiplier, a cap, a bias,
a transform), and only the states that are needed go through the head. The backbone is found by trying submodules and
comparing with a plain call of the model; a model that cannot be split in this way is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from tropism.errors import TropismError
from tropism.models.fused import fuse

HEAD = "score"  # of a model that gives one number for each token
FOUND = "_backbone"  # the attribute of a model with the name of its backbone


def text_config(model: PreTrainedModel) -> Any:
    """The config of the language model; a model for images and text has it inside its own config."""
    return model.config.get_text_config(decoder=True)


def vocabulary_of(model: PreTrainedModel) -> int:
    """The number of ids that the model has: the rows of its embeddings."""
    return model.get_input_embeddings().get_parameter("weight").shape[0]


def backbone(model: PreTrainedModel) -> Any:
    """The submodule that computes the model's last hidden states.

    Raises TropismError if there is none, or if the logits of a token depend on later tokens.
    """
    if hasattr(model, HEAD):
        return model.base_model
    if FOUND not in model.__dict__:
        model.__dict__[FOUND] = _search(model)
    return model.get_submodule(model.__dict__[FOUND])


def check_ids(model: PreTrainedModel, largest: int) -> None:
    """Raises TropismError if the model has no embedding for the largest id of some tokens."""
    if largest >= (rows := vocabulary_of(model)):
        raise TropismError(
            f"the text has the token {largest}, but {model.name_or_path or type(model).__name__} has {rows} tokens: "
            "use the tokenizer that belongs to the model, or resize the embeddings after adding tokens"
        )


def states_of(model: PreTrainedModel, tokens_BT: Tensor, **options: Any) -> Tensor:
    """(B, T, width) last hidden states."""
    part = backbone(model)
    fuse(part)
    return part(input_ids=tokens_BT, use_cache=False, **options).last_hidden_state


def logits(model: PreTrainedModel, states_MD: Tensor) -> Tensor:
    """(M, V) next-token logits, in float32, of last hidden states; -inf for ids that no text can have."""
    scores_MV = _own_way(model, backbone(model), states_MD)
    absent_V = model.__dict__.get("absent_V")
    return scores_MV if absent_V is None else scores_MV.masked_fill(absent_V.to(scores_MV.device), float("-inf"))


def _own_way(model: PreTrainedModel, part: nn.Module, states_MD: Tensor) -> Tensor:
    blank = torch.zeros(len(states_MD), 1, dtype=torch.long, device=states_MD.device)
    with _in_place_of(part, states_MD.to(model.dtype)[:, None]):
        return model(input_ids=blank, use_cache=False).logits[:, 0].float()


class _Given(BaseModelOutputWithPast):
    """Last hidden states, and None for all other attributes that a family's output may have."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


@contextlib.contextmanager
def _in_place_of(part: nn.Module, states: Tensor) -> Iterator[None]:
    before = part.__dict__.get("forward")
    part.forward = lambda *_args, **_options: _Given(last_hidden_state=states)
    try:
        yield
    finally:
        del part.forward
        if before is not None:
            part.forward = before


@torch.no_grad()
def _search(model: PreTrainedModel) -> str:
    """The name of the submodule whose states give the same logits as a plain call."""
    names = {id(part): name for name, part in model.named_modules()}
    parts = [_decoder(model), model.base_model, *(p for p in model.modules() if isinstance(p, PreTrainedModel))]
    parts = [p for p in parts if p is not model and id(p) in names]
    tokens = probe_tokens(model, 6)[None]
    expected = model(input_ids=tokens, use_cache=False).logits[0].float()
    for part in parts:
        try:
            states = part(input_ids=tokens, use_cache=False).last_hidden_state[0]
            found = _own_way(model, part, states)
        except Exception:  # a family's code may raise any error when it is used in an unexpected way
            continue
        if alike(found, expected):
            break
    else:
        raise TropismError(
            f"{type(model).__name__} does not compute its logits from one submodule's states: use a decoder-only model"
        )
    if not alike(model(input_ids=tokens[:, :3], use_cache=False).logits[0].float(), expected[:3]):
        raise TropismError(
            f"{type(model).__name__} looks at tokens that come later, so it cannot continue a text: use a causal "
            "language model (for an encoder set is_decoder = true in its config)"
        )
    return names[id(part)]


def _decoder(model: PreTrainedModel) -> Any:
    try:
        return model.get_decoder()
    except (AttributeError, NotImplementedError):
        return model.base_model


def probe_tokens(model: PreTrainedModel, count: int) -> Tensor:
    """Different ids from the middle of the vocabulary, where the tokens of plain text are."""
    size = vocabulary_of(model)
    return (torch.arange(count, device=model.device) * 3 + size // 2) % size


def alike(found: Tensor, expected: Tensor) -> bool:
    """Whether two results are equal except for rounding."""
    share = 1e-4 if expected.dtype == torch.float32 else 0.1
    spread = float(expected.float().std())
    return bool((found.float() - expected.float()).abs().max() <= share * spread + 1e-7)
