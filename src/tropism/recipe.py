"""TOML → frozen dataclasses. A recipe is a name, a seed and a list of stages; a stage is the dataclass of its `kind`.

The plug-in system is the file system: `kind = "ppo"` where an Algorithm is asked for is `algorithms/ppo.py`, whose
`__all__` has exactly one name; `kind = "my_module:thing"` reaches outside code. An unknown key names its nearest
neighbour. Defaults by kind, seeds and rounds are in `expand.py`. Left out on purpose: interpolation and includes; a recipe
reads top to bottom.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tropism import ranges
from tropism.expand import completed, expanded
from tropism.outside import frames, raised
from tropism.tables import nearest, override, plain, read, refuse_unknown, shown
from tropism.types import Algorithm, Engine, Format, Judge, Ref, Search, Stage, TropismError

FOLDERS: dict[type, str] = {
    Algorithm: "algorithms",
    Engine: "engines",
    Format: "formats",
    Judge: "judges",
    Search: "search",
    Stage: "stages",
}

LONGEST_NAME = 100  # bytes, of the 255 that a file system allows: a number and a fingerprint come behind it


@dataclass(frozen=True, slots=True)
class Recipe:
    name: str
    seed: int
    stages: Mapping[str, Stage]  # by id, in the order they run


@dataclass(frozen=True)
class NotRead:
    """What stands for code from outside the package in a recipe that was loaded without it: it offers nothing."""

    kind: str

    version: ClassVar[int] = 0
    makes: ClassVar[str] = ""
    predicts: ClassVar[tuple[str, ...]] = ()

    def groups(self) -> tuple[()]:
        return ()

    def files(self) -> tuple[()]:
        return ()

    def __call__(self, completion: str) -> None:
        raise TropismError(f"the code of {self.kind} was not read: load the recipe with it")


_CODE = ContextVar("code", default=True)  # whether code from outside the package may be imported


def load(path: str | Path, overrides: Sequence[str] = (), code: bool = True) -> Recipe:
    """Reads a recipe file, or one that ships in the package if `path` is a bare name such as `quickstart`.

    Reading runs the modules that it names as `module:name`; without `code` a NotRead stands for each.
    """
    file = Path(path)
    shipped = Path(__file__).parent / "recipes" / f"{path}.toml"
    if not os.path.exists(file) and os.path.exists(shipped):  # False too for a name too long to be one
        file = shipped
    try:
        table = read(file)
    except FileNotFoundError:
        raise TropismError(
            f"there is no recipe {path}: give a .toml file or one of {', '.join(names('recipes'))}"
        ) from None
    for folder in (str(Path.cwd()), str(file.parent.resolve())) if code else ():
        if folder not in sys.path:
            sys.path.append(folder)  # where "my_module:thing" is looked for
    before = _CODE.set(code)
    try:
        return parse(table, where=file.name, overrides=overrides, default_name=file.stem)
    finally:
        _CODE.reset(before)


def parse(source: Mapping[str, Any], where: str, overrides: Sequence[str] = (), default_name: str = "run") -> Recipe:
    """A recipe from its TOML table; `overrides` are `stage.key=value` with TOML values or bare words, or `seed=1`, or
    `defaults.kind.key=value`, or `rounds.count=3`."""
    table: dict[str, Any] = plain(source, where)
    entries = table.get("stage", [])
    refuse_unknown(table, ("name", "seed", "defaults", "rounds", "stage"), where)
    if not entries or not isinstance(entries, list):
        raise TropismError(f"{where} has no stages: add a [[stage]] table with an id and a kind")
    ids: list[str] = []
    for n, entry in enumerate(entries):
        for key in ("id", "kind"):
            if not isinstance(entry, Mapping) or not isinstance(entry.get(key), str):
                raise TropismError(f"{where}: stage number {n + 1} has no {key}: every stage needs an id and a kind")
        if not re.fullmatch(r"[\w-]+", entry["id"]):  # it names a folder, and stands before the dot of --set
            raise TropismError(
                f"{where}: the stage id {shown(entry['id'])} must be of letters, digits, _ and -: rename it"
            )
        if len(entry["id"].encode()) > LONGEST_NAME:
            raise TropismError(
                f"{where}: the stage id {shown(entry['id'])} is too long for a folder's name: shorten it"
            )
        if entry["id"] in ids:
            raise TropismError(f"{where}: two stages have the id {entry['id']!r}: rename one")
        ids.append(entry["id"])
    shared = {key: table[key] for key in ("defaults", "rounds") if isinstance(table.get(key), dict) and key not in ids}
    early = [text for text in overrides if text.partition(".")[0].strip() in shared]
    for text in early:
        override(table, shared, text)
    entries = [plain(entry, where) for entry in completed(table.get("defaults", {}), entries, where)]
    for text in (text for text in overrides if text not in early):
        override(table, dict(zip(ids, entries)), text)
    stages: dict[str, Stage] = {}
    entries = expanded(table.get("rounds"), entries, where, functools.partial(_reference_keys, where=where))
    ids = [entry["id"] for entry in entries]
    for id, entry in zip(ids, entries):
        stage = build(Stage, {k: v for k, v in entry.items() if k != "id"}, f"{where}: {id}")
        for field, ref, value in refs(stage):
            _check_ref(f"{where}: {id}.{field}", ref, value, stages, ids)
        stages[id] = stage
    return Recipe(
        _name(table.get("name", default_name), where), build(int, table.get("seed", 0), f"{where}: seed"), stages
    )


def _name(value: Any, where: str) -> str:
    """The recipe's name, which names the run folder in `runs`."""
    name = build(str, value, f"{where}: name")
    if not name.isprintable() or not name.strip() or name.startswith(".") or "/" in name or "\\" in name:
        raise TropismError(f"{where}: name = {shown(name)} cannot name a folder in runs: use letters, digits, _ and -")
    if len(name.encode()) > LONGEST_NAME:
        raise TropismError(f"{where}: name = {shown(name)} is too long for a folder's name: shorten it")
    return name


def resolve(folder: str, kind: str, where: str = "recipe") -> Any:
    """The one public object of `tropism/<folder>/<kind>.py`, or an outside object for `module:name`."""
    if ":" in kind:
        module, _, name = kind.partition(":")
        if not _CODE.get() and not module.startswith("tropism."):
            return NotRead(kind)
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, SyntaxError, ValueError) as error:  # ValueError: an empty module name
            raise TropismError(
                f"{where}: kind {shown(kind)} cannot be imported ({error}): run where {module} can be imported from"
            ) from None
        except (Exception, SystemExit) as error:
            raise TropismError(f"{where}: {module} raised {raised(error)}: mend it\n{frames(error)}") from error
    known = names(folder)
    if kind not in known:
        raise TropismError(f"{where}: there is no kind {shown(kind)} among the {folder}: {nearest(kind, known)}")
    module_ = importlib.import_module(f"tropism.{folder}.{kind}")
    return getattr(module_, module_.__all__[0])


def names(folder: str) -> list[str]:
    """The kinds in a folder of the package, each one file."""
    ending = ".toml" if folder == "recipes" else ".py"
    files = (Path(__file__).parent / folder).glob(f"*{ending}")
    return sorted(f.stem for f in files if not f.stem.startswith("_"))


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
            alone = items is not value  # one that stands for a list of one
            return tuple(build(args[0], v, where if alone else f"{where}[{i}]") for i, v in enumerate(items))
        if len(items) != len(args):
            raise TropismError(f"{where} needs {len(args)} values and has {len(items)}")
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
    return value  # callables and objects given from Python


_WORD = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def _number(hint: type, value: Any, where: str, limits: Sequence[ranges.Bound]) -> Any:
    """A number of a field, in its range and finite."""
    if hint is float and type(value) is int:
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, hint) or not ranges.inside(value, limits):
        word = "a finite number" if hint is float and isinstance(value, float) and not limits else _WORD[hint]
        raise TropismError(f"{where} = {shown(value)} must be {word}{ranges.said(limits)}")
    return value


def _checked(value: Any, where: str) -> Any:
    """A dataclass made from Python, with the same demands on its fields as on a recipe's."""
    if dataclasses.is_dataclass(value):
        hints = _hints(type(value))
        for field in dataclasses.fields(value):
            build(hints[field.name], getattr(value, field.name), f"{where}.{field.name}")
    return value


def refs(value: Any, prefix: str = "") -> list[tuple[str, Ref, str]]:
    """(field, Ref, text) of every field of a dataclass, nested ones included, that names an earlier stage."""
    found: list[tuple[str, Ref, str]] = []
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        inside = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, tuple) else ()
        for key, item in inside:
            found += refs(item, f"{prefix}{key}.")
        return found
    hints = _hints(type(value))
    for field in dataclasses.fields(value):
        item, ref = getattr(value, field.name), _ref_of(hints[field.name])
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
    hints = _hints(type(value))
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if _ref_of(hints[field.name]) is None:
            changes[field.name] = bind(item, paths)
        elif isinstance(item, Mapping):
            changes[field.name] = {k: paths(v) for k, v in item.items()}
        elif isinstance(item, tuple):
            changes[field.name] = tuple(map(paths, item))
        else:
            changes[field.name] = None if item is None else paths(item)
    changed = {k: v for k, v in changes.items() if v != getattr(value, k)}
    return dataclasses.replace(value, **changed) if changed else value


def _reference_keys(entry: Mapping[str, Any], where: str) -> set[str]:
    """Which keys of a stage's table name other stages: joined by dots, without the numbers of items."""
    fields = {k: v for k, v in entry.items() if k not in ("id", "seeds")}
    found = refs(build(Stage, fields, f"{where}: {entry['id']}"))
    return {".".join(key for key in path.split(".") if not key.isdigit()) for path, _, _ in found}


def _plug(protocol: type, value: Any, where: str) -> Any:
    folder = FOLDERS[protocol]
    if isinstance(value, protocol):
        return _checked(value, where)  # already an object, from Python
    if not isinstance(value, (Mapping, str)):
        raise TropismError(f"{where} = {shown(value)} must be a table with a kind")
    table = {"kind": value} if isinstance(value, str) else dict(value)
    kind = table.pop("kind", None)
    if not isinstance(kind, str):
        raise TropismError(f"{where} has no kind: choose one of {', '.join(names(folder))}")
    thing = resolve(folder, kind, where)
    if isinstance(thing, NotRead):
        return thing
    if inspect.isfunction(thing):  # a plain function in the place of a judge
        if protocol is not Judge:
            raise TropismError(f"{where}: {kind!r} is a function; only a judge can be one, name a dataclass")
        return _dataclass(resolve("judges", "verifier"), {"function": thing, **table}, where)
    made = _dataclass(thing, table, where)
    if not isinstance(made, protocol):
        raise TropismError(
            f"{where}: {kind!r} is no {protocol.__name__.lower()}: choose one of {', '.join(names(folder))}"
        )
    return made


def _dataclass(cls: type, table: Any, where: str) -> Any:
    if not isinstance(table, Mapping):
        raise TropismError(f"{where} = {shown(table)} must be a table")
    if not dataclasses.is_dataclass(cls):
        raise TropismError(f"{where}: {cls!r} is not a dataclass, so a recipe cannot fill it")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    refuse_unknown(table, fields, where)
    hints = _hints(cls)
    values = {key: build(hints[key], item, f"{where}.{key}") for key, item in table.items()}
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise TropismError(f"{where} needs the key {name!r}: add it")
    try:
        return cls(**values)
    except TropismError as error:
        raise TropismError(f"{where}: {error}") from None


def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def _ref_of(hint: Any) -> Ref | None:
    """The Ref in an annotation, looked for in its arguments too (`ModelRef | None`, `Mapping[str, ModelRef]`)."""
    for extra in getattr(hint, "__metadata__", ()):
        if isinstance(extra, Ref):
            return extra
    for arg in typing.get_args(hint):
        if (found := _ref_of(arg)) is not None:
            return found
    return None


def _check_ref(where: str, ref: Ref, value: str, done: Mapping[str, Stage], every: Sequence[str]) -> None:
    if value in done:
        return check_kind(where, ref, value, done[value].makes)
    if value in every:
        raise TropismError(f"{where} names the stage {value!r}, which does not come before it: move it above")
    if "/" in value or os.path.exists(value):  # a folder or a hub id
        return
    hint = nearest(value, list(done)) if done else "no stage comes before it"
    raise TropismError(f"{where} names {shown(value)}, which is no earlier stage, folder or hub id: {hint}")


def check_kind(where: str, ref: Ref, value: str, makes: str) -> None:
    """Refuses the stage `value`, which makes `makes` ("" if its code was not read), where something else is asked for.
    A model has a tokenizer."""
    if makes and makes != ref.kind and (makes, ref.kind) != ("model", "tokenizer"):
        raise TropismError(f"{where} names {value!r}, which makes a {makes}, not a {ref.kind}: name another stage")
