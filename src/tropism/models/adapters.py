"""LoRA adapters (arXiv 2106.09685) through `peft`: y = W x + (alpha / r) B A x, with W frozen and A, B trained.

Each role (policy, reference, critic, reward model) is a model object of its own, and all roles share the *same tensors*
of frozen weights: `twin` copies the module tree but not the weights. So no adapter has to be switched on before a call,
and a layer that is recomputed in the backward pass uses the same adapter as before. An adapted model is still a
`PreTrainedModel`; its folder has `peft`'s format, without the weights of the base.

One of the two matrices is 0 at the start, so a new adapter does not change y. Adapter weights are float32 whatever the
dtype of the base. Nothing here casts or writes to the base's weights, so a quantised base stays as it is.

`peft` is imported by the functions that use it, as a run without adapters does not need its 13 MiB.

Left out: adapters on embeddings and LM heads (they may be tied), and adapters on adapters (merge the first one).
"""

from __future__ import annotations

import copy
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME

from tropism.errors import TropismError
from tropism.models.halves import HEAD, backbone
from tropism.models.scalar import scalar_class

PLACE = "base.json"  # beside peft's files: values for which these have no key
NAME = "default"  # peft's name for the only adapter of a model
PREFIX = "base_model.model."  # of the names of weights in a peft folder
SCORE = ("score_scale", "score_zero", "score_unit")  # of a reward model's config: log-odds of a unit; nats a token

__all__ = ["Adapter"]


@dataclass(frozen=True)
class Adapter:
    """Rank `r` (0: no adapter), scale `alpha / r`, `targets`: names of linear layers (none: all of the backbone)."""

    r: Annotated[int, Ge(0)] = 0
    alpha: Annotated[float, Gt(0)] = 16.0
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.targets and not self.r:
            raise TropismError("adapter.targets without adapter.r adapts nothing: set adapter.r, such as 8")


def is_adapter(path: str | Path) -> bool:
    """Whether a folder has an adapter instead of a whole model."""
    return (Path(path) / ADAPTER_CONFIG_NAME).is_file()


def is_scalar(folder: str | Path) -> bool:
    """Whether the adapter in a folder belongs to a reward model or critic."""
    return _read(Path(folder) / ADAPTER_CONFIG_NAME).get("task_type") == "SEQ_CLS"


def scores(folder: str | Path) -> bool:
    """Whether an adapter's folder says in which unit its model scores: it is that of a reward model."""
    note = Path(folder) / PLACE
    return note.exists() and "score_unit" in _read(note)


def is_adapted(model: PreTrainedModel) -> bool:
    """Whether a model in memory has an adapter."""
    return bool(getattr(model, "peft_config", None))


def base_of(path: str | Path) -> str:
    """The base of an adapter's folder, or `path` itself if it is a whole model.

    `peft` needs an absolute path. The relative path from the folder to its base is saved too and tried first, so that a
    run folder may be moved.
    """
    if not is_adapter(path):
        return str(path)
    folder = Path(path)
    beside = folder / str(_read(folder / PLACE).get("base", "")) if (folder / PLACE).exists() else None
    if beside is not None and (beside / "config.json").exists():
        return str(beside.resolve())
    base = _read(folder / ADAPTER_CONFIG_NAME).get("base_model_name_or_path")
    if not base or is_adapter(base):
        raise TropismError(
            f"{folder / ADAPTER_CONFIG_NAME} names no whole model as its base: merge the adapter it builds on"
        )
    return str(base)


def twin(model: nn.Module) -> Any:
    """Another model object with the same weights: parameters and buffers are the same tensors, nothing else is shared.

    It keeps a reference to `model`, set without torch's own `__setattr__`, which would make it a submodule.
    """
    shared: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    made = copy.deepcopy(model, shared)
    made.__dict__["twin_of"] = model
    return made


def scalar_on(model: PreTrainedModel) -> PreTrainedModel:
    """A model that gives one number for each token. It shares the backbone of `model`; its head is its own.

    The head is a copy of the head of `model` if that has one, otherwise zero.
    """
    if hasattr(model, HEAD):
        made = twin(model)
        head = copy.deepcopy(model.get_submodule(HEAD))
    else:
        kind, config = scalar_class(copy.deepcopy(model.config))
        with torch.device("meta"):
            made = kind(config)
        setattr(made, made.base_model_prefix, twin(getattr(model, made.base_model_prefix)))
        head = made.get_submodule(HEAD).to_empty(device=model.device)
        nn.init.zeros_(head.weight)
        made.__dict__["twin_of"] = model
    setattr(made, HEAD, head)
    return made.eval()


def attach(model: PreTrainedModel, adapter: Adapter, seed: int) -> None:
    """Adds a new adapter, drawn from `seed`, to a model in place. The adapter and the head of a scalar model are
    trained.

    Raises TropismError if a target is not a linear layer of the backbone.
    """
    from peft import LoraConfig

    linear = {n: m for n, m in backbone(model).named_modules() if isinstance(m, (nn.Linear, Conv1D))}
    names = sorted({name.rpartition(".")[2] for name in linear})
    if unknown := [t for t in adapter.targets if t not in names]:
        raise TropismError(f"adapter.targets has {unknown[0]!r}, which the model does not: use {', '.join(names)}")
    config = LoraConfig(
        r=adapter.r,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type]  # peft only divides it
        target_modules=list(adapter.targets) or names,
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in linear.values()),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.add_adapter(config)
    head = model.get_submodule(HEAD).requires_grad_() if hasattr(model, HEAD) else nn.Module()
    for parameter in (*(p for p in model.parameters() if p.requires_grad), *head.parameters()):
        parameter.data = parameter.data.float()


def start_from(model: PreTrainedModel, folder: str | Path) -> None:
    """Gives an adapted model the weights of a folder's adapter, the score head included.

    Raises TropismError unless rank, scale and targets are the same: otherwise the weights would not fit.
    """
    mine, theirs = _meaning(model.peft_config[NAME]), _meaning(_config(folder))
    if differ := [key for key in mine if mine[key] != theirs[key]]:
        said = [", ".join(f"{key} = {of[key]}" for key in differ) for of in (theirs, mine)]
        raise TropismError(
            f"{folder} is an adapter with {said[0]}, but the stage sets {said[1]}: set the same, or use the "
            "folder that `tropism merge` makes of it"
        )
    _fill(model, folder)


def put_on(model: PreTrainedModel, folder: str | Path) -> None:
    """Adds the adapter of a folder to a model in place, frozen."""
    config = _config(folder)
    config.modules_to_save = None  # the head is loaded here, not by peft
    model.add_adapter(config)
    _fill(model, folder)
    model.requires_grad_(False)


def merged(model: PreTrainedModel, folder: str | Path) -> PreTrainedModel:
    """Adds the adapter of a folder to the model's weights, in place; any kind of adapter that peft can merge."""
    from peft import PeftModel

    config = _config(folder)
    config.task_type = None  # an adapter of a causal LM may be used with a scalar model
    if not hasattr(model, HEAD):
        config.modules_to_save = None
    try:
        with warnings.catch_warnings():  # peft still uses old names of transformers
            warnings.simplefilter("ignore", FutureWarning)
            plain: Any = PeftModel.from_pretrained(model, str(folder), config=config).merge_and_unload()  # type: ignore
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _unreadable(folder, error) from None
    plain._hf_peft_config_loaded = False
    _recall(plain, folder)
    return plain.requires_grad_()


def write(model: PreTrainedModel, folder: Path) -> None:
    """Writes a `peft` folder: adapter_config.json, adapter_model.safetensors with the score head, the path to the
    base."""
    from peft import get_peft_model_state_dict

    config: Any = copy.copy(model.peft_config[NAME])
    name, scalar = str(model.name_or_path), hasattr(model, HEAD)
    base, local = Path(name), Path(name).is_dir()
    config.base_model_name_or_path = str(base.resolve()) if local else name
    config.task_type = "SEQ_CLS" if scalar else "CAUSAL_LM"
    config.modules_to_save = [HEAD] if scalar else None
    config.inference_mode = True
    state = get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)  # type: ignore[arg-type]
    state = {n: t for n, t in state.items() if not n.startswith(HEAD)}
    if scalar:
        state |= {f"{HEAD}.{n}": t for n, t in model.get_submodule(HEAD).state_dict().items()}
    tensors = {PREFIX + n: t.detach().cpu().contiguous() for n, t in sorted(state.items())}
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    save_file(tensors, folder / ADAPTER_SAFE_WEIGHTS_NAME, {"format": "pt"})
    note: dict[str, Any] = {"base": os.path.relpath(base.resolve(), folder.resolve())} if local else {}
    note |= {key: value for key in SCORE if (value := getattr(model.config, key, None)) is not None}
    (folder / PLACE).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")


def trained_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights for a checkpoint: adapter and head if the model has an adapter, otherwise all."""
    state = model.state_dict()
    if not is_adapted(model):
        return state
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: tensor for name, tensor in state.items() if name in trained}


def load_trained(model: PreTrainedModel, state: dict[str, Tensor]) -> None:
    """The inverse of `trained_state`. Raises TropismError if the saved weights do not fit."""
    if state.keys() != trained_state(model).keys():
        raise TropismError("the checkpoint is of a model with another adapter: remove it, or use that adapter again")
    model.load_state_dict(state, strict=not is_adapted(model))


def _meaning(config: Any) -> dict[str, Any]:
    """The settings that must be equal for an adapter's weights to fit."""
    keys = ("peft_type", "r", "lora_alpha", "target_modules", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern")
    found = {key: getattr(config, key, None) for key in keys}
    targets = found["target_modules"]
    return found | {"target_modules": sorted(targets) if isinstance(targets, (list, set)) else targets}


def _fill(model: PreTrainedModel, folder: str | Path) -> None:
    from peft import set_peft_model_state_dict

    try:
        state = load_file(Path(folder) / ADAPTER_SAFE_WEIGHTS_NAME)
        state = {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
        head = {name: state.pop(name) for name in list(state) if name.startswith(f"{HEAD}.")}
        found = set_peft_model_state_dict(model, state, NAME)
        if left := [*found.unexpected_keys, *(n for n in found.missing_keys if ".lora_" in n)]:
            raise ValueError(f"{left[0]} is in the folder or in the model and not in both")
        if head and hasattr(model, HEAD):
            model.load_state_dict(head, strict=False)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _unreadable(folder, error) from None
    _recall(model, folder)


def _recall(model: PreTrainedModel, folder: str | Path) -> None:
    """Restores the settings of this adapter that the base's config does not have."""
    note = Path(folder) / PLACE
    found = _read(note) if note.exists() else {}
    for key in SCORE:
        if key in found:
            setattr(model.config, key, found[key])


def _config(folder: str | Path) -> Any:
    from peft import PeftConfig

    try:
        return PeftConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _unreadable(folder, error) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path.parent, error) from None


def _unreadable(folder: str | Path, error: Exception) -> TropismError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return TropismError(f"no adapter can be read from {folder} ({first}): give a folder that peft wrote")
