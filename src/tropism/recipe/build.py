"""Converts TOML values to the types of dataclass fields: checks numbers, turns tables into dataclasses, finds kinds."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tropism.errors import TropismError
from tropism.protocols import Judge
from tropism.recipe import ranges
from tropism.recipe.kinds import FOLDERS, NotRead, names, resolve
from tropism.recipe.tables import refuse_unknown, shown


def build(hint: Any, value: Any, where: str) -> Any:
    """`value` (TOML) as the type `hint`; every mistake names `where`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        hint, limits = args[0], ranges.bounds(hint.__metadata__)
        return _number(hint, value, where, limits) if hint in (int, float) else build(hint, value, where)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        options = [a for a in args if a is not type(None)]
        if value is None:
            return None
        errors: list[TropismError] = []
        for option in options:
            try:
                return build(option, value, where)
            except TropismError as error:
                errors.append(error)
        raise errors[-1]
    if hint in FOLDERS:
        return _plug(hint, value, where)
    if origin is typing.Literal:
        if value not in args:
            raise TropismError(f"{where} = {shown(value)} is not one of {', '.join(map(repr, args))}")
        return value
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        if args[-1] is Ellipsis:
            alone = items is not value  # a single value instead of a list of one
            return tuple(build(args[0], v, where if alone else f"{where}[{i}]") for i, v in enumerate(items))
        if len(items) != len(args):
            raise TropismError(f"{where} needs {len(args)} values but has {len(items)}")
        return tuple(build(a, item, f"{where}[{i}]") for i, (a, item) in enumerate(zip(args, items)))
    if origin in (dict, Mapping) or getattr(origin, "__name__", "") == "Mapping":
        if not isinstance(value, Mapping):
            raise TropismError(f"{where} = {shown(value)} must be a table")
        return {str(k): build(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        if isinstance(value, typing.cast(type, hint)):
            return _checked(value, where)
        return _dataclass(typing.cast(type, hint), value, where)
    if hint in (int, float):
        return _number(hint, value, where, ())
    if hint in (str, bool):
        if not isinstance(value, (str, Path) if hint is str else bool):
            raise TropismError(f"{where} = {shown(value)} must be {_WORD[hint]}")
        return value
    if hint is Path and isinstance(value, str):
        return Path(value)
    return value  # callables and objects from Python code


_WORD = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def _number(hint: type, value: Any, where: str, limits: Sequence[ranges.Bound]) -> Any:
    """The number, if it is finite and in its range."""
    if hint is float and type(value) is int:
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, hint) or not ranges.inside(value, limits):
        word = "a finite number" if hint is float and isinstance(value, float) and not limits else _WORD[hint]
        raise TropismError(f"{where} = {shown(value)} must be {word}{ranges.said(limits)}")
    return value


def _checked(value: Any, where: str) -> Any:
    """A dataclass made in Python, after the same checks of its fields as in a recipe."""
    if dataclasses.is_dataclass(value):
        hints = hints_of(type(value))
        for field in dataclasses.fields(value):
            build(hints[field.name], getattr(value, field.name), f"{where}.{field.name}")
    return value


def _plug(protocol: type, value: Any, where: str) -> Any:
    folder = FOLDERS[protocol]
    if isinstance(value, protocol):
        return _checked(value, where)  # already an object, made in Python
    if not isinstance(value, (Mapping, str)):
        raise TropismError(f"{where} = {shown(value)} must be a table with a kind")
    table = {"kind": value} if isinstance(value, str) else dict(value)
    kind = table.pop("kind", None)
    if not isinstance(kind, str):
        raise TropismError(f"{where} has no kind: choose one of {', '.join(names(folder))}")
    thing = resolve(folder, kind, where)
    if isinstance(thing, NotRead):
        return thing
    if inspect.isfunction(thing):  # a plain function where a judge is wanted
        if protocol is not Judge:
            raise TropismError(f"{where}: {kind!r} is a function, which only a judge can be: name a dataclass")
        return _dataclass(resolve("judges", "verifier"), {"function": thing, **table}, where)
    made = _dataclass(thing, table, where)
    if not isinstance(made, protocol):
        what = protocol.__name__.removesuffix("Spec").lower()
        raise TropismError(f"{where}: {kind!r} is not a kind of {what}: choose one of {', '.join(names(folder))}")
    return made


def _dataclass(cls: type, table: Any, where: str) -> Any:
    if not isinstance(table, Mapping):
        raise TropismError(f"{where} = {shown(table)} must be a table")
    if not dataclasses.is_dataclass(cls):
        raise TropismError(f"{where}: {cls!r} is not a dataclass, so a recipe cannot fill it")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    refuse_unknown(table, fields, where)
    hints = hints_of(cls)
    values = {key: build(hints[key], item, f"{where}.{key}") for key, item in table.items()}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise TropismError(f"{where} needs the key {name!r}: add it")
    try:
        return cls(**values)
    except TropismError as error:
        raise TropismError(f"{where}: {error}") from None


def hints_of(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)
