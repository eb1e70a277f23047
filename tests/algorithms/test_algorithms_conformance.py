"""Every file of every plug-in folder: one public object, frozen if it is a dataclass, that keeps its protocol."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
from pathlib import Path

import pytest

import tropism
from tropism.recipe.kinds import FOLDERS, names, resolve

ROOT = Path(tropism.__file__).parent
PLUGINS = [
    pytest.param(protocol, folder, file.stem, id=f"{folder}/{file.stem}")
    for protocol, folder in FOLDERS.items()
    for file in sorted((ROOT / folder).glob("*.py"))
    if not file.stem.startswith("_")
]


def members(protocol: type) -> dict[str, object]:
    """The attributes and methods that a protocol asks for."""
    methods = {name: value for name, value in vars(protocol).items() if inspect.isfunction(value)}
    return {
        **dict.fromkeys(protocol.__annotations__),
        **{name: value for name, value in methods.items() if not name.startswith("_")},
    }


@pytest.mark.parametrize(("protocol", "folder", "kind"), PLUGINS)
def test_one_public_object_that_keeps_its_protocol(protocol: type, folder: str, kind: str):
    module = importlib.import_module(f"tropism.{folder}.{kind}")
    assert len(module.__all__) == 1
    thing = getattr(module, module.__all__[0])
    assert thing is resolve(folder, kind)
    assert inspect.isclass(thing)
    assert thing.__module__ == module.__name__
    assert thing.__doc__
    assert module.__doc__
    if dataclasses.is_dataclass(thing):
        assert thing.__dataclass_params__.frozen  # type: ignore[attr-defined]
    for name, asked in members(protocol).items():
        assert hasattr(thing, name), f"{thing.__name__} has no {name}, which {protocol.__name__} asks for"
        if inspect.isfunction(asked):
            assert parameters(getattr(thing, name)) == parameters(asked)


def parameters(function: object) -> list[str] | None:
    """Their names; None if it is no function. An engine's `open(tokens)` is not the `open` of an engine's table."""
    return list(inspect.signature(function).parameters) if inspect.isfunction(function) else None


@pytest.mark.parametrize(("protocol", "folder", "kind"), PLUGINS)
def test_everything_else_in_the_file_is_private(protocol: type, folder: str, kind: str):
    """A class of the file that `__all__` does not name must not look like a second plug-in."""
    module = importlib.import_module(f"tropism.{folder}.{kind}")
    body = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")).body
    classes = [getattr(module, node.name) for node in body if isinstance(node, ast.ClassDef)]
    wanted = {name: parameters(asked) for name, asked in members(protocol).items() if inspect.isfunction(asked)}
    rivals = [
        c.__name__
        for c in classes
        if all(parameters(getattr(c, name, None)) == asked for name, asked in wanted.items())
    ]
    assert rivals == list(module.__all__)


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_no_folder_is_empty(folder: str):
    assert names(folder)
