"""References: finds the fields of a stage that name earlier stages, and replaces these names by paths."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any

from tropism.errors import TropismError
from tropism.recipe.build import hints_of
from tropism.types import Ref


def refs(value: Any, prefix: str = "") -> list[tuple[str, Ref, str]]:
    """(field, Ref, text) for every field that names an earlier stage, those of nested dataclasses included."""
    found: list[tuple[str, Ref, str]] = []
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        inside = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, tuple) else ()
        for key, item in inside:
            found += refs(item, f"{prefix}{key}.")
        return found
    known = hints_of(type(value))
    for field in dataclasses.fields(value):
        item, ref = getattr(value, field.name), _ref_of(known[field.name])
        if ref is None:
            found += refs(item, f"{prefix}{field.name}.")
        elif isinstance(item, Mapping):
            found += [(f"{prefix}{field.name}.{k}", ref, v) for k, v in item.items()]
        elif isinstance(item, tuple):
            found += [(f"{prefix}{field.name}", ref, v) for v in item]
        elif item is not None:
            found.append((prefix + field.name, ref, item))
    return found


def bind(value: Any, paths: Callable[[str], str]) -> Any:
    """The same dataclass with every reference `r` replaced by `paths(r)`."""
    if isinstance(value, Mapping):
        return {k: bind(v, paths) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(bind(v, paths) for v in value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    known = hints_of(type(value))
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if _ref_of(known[field.name]) is None:
            changes[field.name] = bind(item, paths)
        elif isinstance(item, Mapping):
            changes[field.name] = {k: paths(v) for k, v in item.items()}
        elif isinstance(item, tuple):
            changes[field.name] = tuple(map(paths, item))
        else:
            changes[field.name] = None if item is None else paths(item)
    changed = {k: v for k, v in changes.items() if v != getattr(value, k)}
    return dataclasses.replace(value, **changed) if changed else value


def _ref_of(hint: Any) -> Ref | None:
    """The Ref in an annotation or in its arguments (`ModelRef | None`, `Mapping[str, ModelRef]`)."""
    for extra in getattr(hint, "__metadata__", ()):
        if isinstance(extra, Ref):
            return extra
    for arg in typing.get_args(hint):
        if (found := _ref_of(arg)) is not None:
            return found
    return None


_MADE = {
    "tokenizer": "a tokenizer",
    "base": "a base model",
    "policy": "a policy",
    "scorer": "a reward model",
    "model": "a model",
    "groups": "groups",
    "report": "a report",
}


def check_made(where: str, ref: Ref, value: str, makes: str) -> None:
    """Raises unless the field takes what the stage `value` makes (`makes`, "" if its code was not loaded)."""
    if makes and makes not in ref.takes:
        made = _MADE.get(makes, makes)
        raise TropismError(f"{where} names {value!r}, which makes {made}, not {ref.what}: name another stage")
