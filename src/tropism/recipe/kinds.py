"""Kinds: `kind = "ppo"` for an Algorithm means `algorithms/ppo.py`, whose `__all__` has exactly one name.

The file system is the plug-in system: there is no registry. `kind = "my_module:thing"` loads code from outside.
"""

from __future__ import annotations

import importlib
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tropism.errors import TropismError
from tropism.outside import frames, raised
from tropism.protocols import Algorithm, EngineSpec, Format, Judge, Measure, Search, Stage
from tropism.recipe.tables import nearest, shown

PACKAGE = Path(__file__).parents[1]

FOLDERS: dict[type, str] = {
    Algorithm: "algorithms",
    EngineSpec: "engines",
    Format: "formats",
    Judge: "judges",
    Measure: "measures",
    Search: "search",
    Stage: "stages",
}


@dataclass(frozen=True)
class NotRead:
    """A placeholder for code from outside the package, in a recipe that was loaded without running such code."""

    kind: str

    version: ClassVar[int] = 0
    makes: ClassVar[str] = ""
    predicts: ClassVar[tuple[str, ...]] = ()
    logprobs: ClassVar[bool] = True

    def groups(self) -> tuple[()]:
        return ()

    def files(self) -> tuple[()]:
        return ()

    def __call__(self, completion: str) -> None:
        raise TropismError(f"the code of {self.kind} was not loaded: load the recipe with code = True")


CODE = ContextVar("code", default=True)  # whether code from outside the package may be imported


def resolve(folder: str, kind: str, where: str = "recipe") -> Any:
    """The one public object of `tropism/<folder>/<kind>.py`; for `module:name` that object."""
    if ":" in kind:
        module, _, name = kind.partition(":")
        if not CODE.get() and not module.startswith("tropism."):
            return NotRead(kind)
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, SyntaxError, ValueError) as error:  # ValueError: an empty module name
            raise TropismError(
                f"{where}: kind {shown(kind)} cannot be imported ({error}): run where {module} can be imported from"
            ) from None
        except (Exception, SystemExit) as error:
            raise TropismError(f"{where}: {module} raised {raised(error)}: fix it\n{frames(error)}") from error
    known = names(folder)
    if kind not in known:
        raise TropismError(f"{where}: there is no kind {shown(kind)} among the {folder}: {nearest(kind, known)}")
    module_ = importlib.import_module(f"tropism.{folder}.{kind}")
    return getattr(module_, module_.__all__[0])


def names(folder: str) -> list[str]:
    """The kinds in a folder of the package, each one file."""
    ending = ".toml" if folder == "recipes" else ".py"
    files = (PACKAGE / folder).glob(f"*{ending}")
    return sorted(f.stem for f in files if not f.stem.startswith("_"))
