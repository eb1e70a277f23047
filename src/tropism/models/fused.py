"""Layers of unmodified models that compute with the operations of `tensors/fused.py`: RMS norms, gated MLPs with SiLU, and
rotary positions in the half-split form.

    fuse(part)     once for each module of a model; what cannot be fused stays as it is

A class is tried once with its own `forward` on a few numbers, and left alone if the result differs. Then its `forward` is
replaced by one that does the same, and computes differently for modules that `fuse` has marked; these hand everything
unusual (another precision, other arguments) to the old one. Positions are turned by a function of the family's file, which
is replaced in the same way and is fast inside fused attention only. Models that others made of the same classes compute
as before. No module refers to itself, so a model is freed as soon as nobody uses it.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from tropism.tensors import fused, matrices, native

TURN = "apply_rotary_pos_emb"  # the name of the function in the files of all families
MARK = "_tropism_fused"  # the attribute of a fused module: what `forward` has to know of it
_fused_parts: weakref.WeakSet[nn.Module] = weakref.WeakSet()
_norms: dict[type, float | None] = {}  # what is added to the weight
_mlps: dict[tuple[type, type], bool] = {}
_turns: dict[str, bool] = {}  # of a module of Python
_replaced: set[type] = set()
_inside: ContextVar[bool] = ContextVar("inside fused attention", default=False)
Plain = Callable[..., Any]  # the `forward` of a class


def fuse(part: nn.Module) -> None:
    """Lets the modules of `part` compute with fused operations, where they can be used and give the same."""
    if part in _fused_parts or native.library() is None:
        return
    _fused_parts.add(part)
    for module in part.modules():
        if not is_fused(module) and (found := _found(module)):
            way, known = found
            _replace(type(module), way)
            module.__dict__[MARK] = known


def is_fused(module: nn.Module) -> bool:
    """Whether `fuse` has marked a module."""
    return MARK in module.__dict__


def is_changed(module: nn.Module) -> bool:
    """Whether a call of a module does something else than its class says."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def _found(module: nn.Module) -> tuple[Callable[..., Any], Any] | None:
    """How a module computes with fused operations, and what has to be known of it."""
    name = type(module).__name__
    try:
        with torch.no_grad():
            if name.endswith("RMSNorm") and (plus := _plus(module)) is not None:
                return _norm, (_eps(module), plus)
            if name.endswith("MLP") and _is_gated(module):
                return _mlp, True
            if name.endswith("Attention") and _turns_halves(type(module).__module__):
                return _attention, True
    except (AttributeError, TypeError, RuntimeError, ValueError):  # another release or family may have other names
        return None
    return None


def _replace(kind: type, way: Callable[..., Any]) -> None:
    if kind in _replaced:
        return
    _replaced.add(kind)
    plain: Plain = kind.forward  # type: ignore[attr-defined]

    @functools.wraps(plain)
    def forward(self: nn.Module, *given: Any, **named: Any) -> Any:
        return way(plain, self, *given, **named) if MARK in self.__dict__ else plain(self, *given, **named)

    kind.forward = forward  # type: ignore[attr-defined]


def _norm(plain: Plain, module: Any, x: Tensor, *more: Any, **named: Any) -> Any:
    if more or named or not _usable(x, module.weight):
        return plain(module, x, *more, **named)
    return fused.rms(x, module.weight, *module.__dict__[MARK])


def _mlp(plain: Plain, module: Any, x: Tensor, *more: Any, **named: Any) -> Any:
    if more or named:
        return plain(module, x, *more, **named)
    parts = module.gate_proj, module.up_proj, module.down_proj
    if all(map(_is_product, parts)) and matrices.usable(x, *(part.weight for part in parts)):
        return matrices.mlp(x, *(part.weight for part in parts))
    gate, up = module.gate_proj(x), module.up_proj(x)
    return module.down_proj(fused.gated(gate, up) if _usable(gate, up) else module.act_fn(gate) * up)


def _is_product(module: Any) -> bool:
    """Whether a linear layer does nothing but multiply, and nobody watches it."""
    return type(module) is nn.Linear and module.bias is None and not is_changed(module)


def _attention(plain: Plain, module: Any, *given: Any, **named: Any) -> Any:
    token = _inside.set(True)
    try:
        with _projected(module, given[0] if given else named.get("hidden_states")):
            return plain(module, *given, **named)
    finally:
        _inside.reset(token)


@contextlib.contextmanager
def _projected(module: Any, x: Any) -> Iterator[None]:
    """While an attention layer computes, its linear layers are compiled products; those of `x` are one operation."""
    parts = {name: module._modules.get(name) for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
    weights = [part.weight for part in parts.values() if part is not None and _is_product(part)]
    if not isinstance(x, Tensor) or len(weights) < len(parts) or not matrices.usable(x, *weights):
        yield
        return
    made: dict[str, Tensor] = {}

    def project(name: str, y: Tensor) -> Tensor:
        if y is not x or name == "o_proj":
            return matrices.linears(y, parts[name].weight)[0]
        if name not in made:
            made.update(zip(parts, matrices.linears(x, *weights[:3])))
        return made.pop(name)

    module.__dict__.update({name: functools.partial(project, name) for name in parts})
    try:
        yield
    finally:
        for name in parts:
            del module.__dict__[name]


def _turned(
    before: Callable[..., Any], q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *more: Any, **named: Any
) -> Any:
    """`apply_rotary_pos_emb` of a family: queries (B, heads, T, size), keys, cos and sin (B or 1, T, size)."""
    shape = (q.shape[0], q.shape[2], q.shape[3])
    plain = not (more or named) and q.dim() == k.dim() == 4 and cos.dim() == 3 and _usable(q, k, cos, sin)
    if not (_inside.get() and plain and cos.shape == sin.shape and cos.shape in (shape, (1, *shape[1:]))):
        return before(q, k, cos, sin, *more, **named)
    return tuple(_each_turned(x, cos, sin) for x in (q, k))


def _each_turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    x_BTHS = x.transpose(1, 2)
    return fused.turned(x_BTHS.flatten(0, 1), cos, sin).view_as(x_BTHS).transpose(1, 2)


def _usable(*tensors: Tensor) -> bool:
    return all(map(native.ready, tensors))


def _eps(module: Any) -> float:
    return float(module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps)


def _plus(module: Any) -> float | None:
    """What the class of a norm adds to its weight; None if it does something else."""
    if [name for name, _ in module.named_parameters()] != ["weight"] or not _usable(module.weight):
        return None
    if type(module) not in _norms:
        x, eps = _numbers(5, len(module.weight)), _eps(module)
        expected = type(module).forward(module, x)
        fits = (p for p in (0.0, 1.0) if _same(fused.rms(x, module.weight, eps, p), expected))
        _norms[type(module)] = next(fits, None)
    return _norms[type(module)]


def _is_gated(module: Any) -> bool:
    kind = type(module), type(module.act_fn)
    if kind not in _mlps:
        x = _numbers(3, module.gate_proj.in_features)
        expected = type(module).forward(module, x)
        gate, up = module.gate_proj(x), module.up_proj(x)
        if not _usable(gate, up):  # such as under autocast
            return False
        found = module.down_proj(fused.gated(gate, up))
        _mlps[kind] = {*module._modules} <= {"gate_proj", "up_proj", "down_proj", "act_fn"} and _same(found, expected)
    return _mlps[kind]


def _turns_halves(name: str) -> bool:
    """Whether the file of a family turns positions in the half-split form; if so its function is replaced."""
    if name not in _turns:
        before: Callable[..., Any] | None = getattr(sys.modules[name], TURN, None)
        _turns[name] = before is not None and _is_half_split(before)
        if before is not None and _turns[name]:
            setattr(sys.modules[name], TURN, functools.partial(_turned, before))
    return _turns[name]


def _is_half_split(turn: Callable[..., Any]) -> bool:
    q, k = _numbers(6, 8).view(1, 2, 3, 8), _numbers(3, 8).view(1, 1, 3, 8)
    cos, sin = _numbers(3, 8).view(1, 3, 8).cos(), _numbers(3, 8).view(1, 3, 8).sin()
    return all(_same(_each_turned(x, cos, sin), expected) for x, expected in zip((q, k), turn(q, k, cos, sin)))


def _numbers(rows: int, width: int) -> Tensor:
    return torch.sin(torch.arange(1.0, rows * width + 1) ** 2).view(rows, width) * 3


def _same(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
