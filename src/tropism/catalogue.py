"""`tropism list`: the kinds in a folder of the package, with keys, defaults and ranges."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import get_type_hints

from tropism.errors import TropismError
from tropism.recipe.kinds import FOLDERS, names, resolve
from tropism.recipe.ranges import ranges


def catalogue(folder: str) -> str:
    """The kinds in a folder, with their keys, defaults and ranges."""
    known = [*sorted(set(FOLDERS.values())), "recipes"]
    if folder not in known:
        raise TropismError(f"there is no folder {folder!r}: choose one of {', '.join(known)}")
    lines = []
    for name in names(folder):
        if folder == "recipes":
            lines.append(name)
            continue
        thing = resolve(folder, name)
        about = (inspect.getmodule(thing).__doc__ or "").strip().splitlines()
        lines.append(f"{name}: {about[0]}" if about else name)
        if not dataclasses.is_dataclass(thing):
            continue
        hints = get_type_hints(thing, include_extras=True)
        for field in dataclasses.fields(thing):
            if not field.init:
                continue
            made = field.default_factory
            default = field.default if made is dataclasses.MISSING else made()
            plain = re.sub(r"Annotated\[(int|float), [^]]*]", r"\1", str(field.type))
            range_ = "".join(f" ({text})" for text in sorted(set(ranges(hints[field.name]))) if text)
            lines.append(
                f"    {field.name}: {plain}{'' if default is dataclasses.MISSING else f' = {default!r}'}{range_}"
            )
    return "\n".join(lines)
