"""The tables of a recipe: reads TOML, checks it, and changes it by `--set`. Plain tables in, plain tables out.

Python's reader accepts whole numbers of more than 64 bits, which TOML does not allow, and thousands of nested tables,
which would overflow the stack. Both are refused here, so that no later code has to check for them.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tropism.errors import TropismError

DEEPEST = 30  # tables and lists inside each other
LONGEST = 80  # characters of a value in a message


def read(file: Path) -> dict[str, Any]:
    """The table of a TOML file. Raises FileNotFoundError, or TropismError if the file is not TOML."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except RecursionError:
        raise TropismError(_too_deep(file.name)) from None
    except (ValueError, OSError) as error:  # ValueError: TOML, UTF-8, a number of thousands of digits
        raise TropismError(f"{file} is not a valid TOML file ({error}): fix it there") from None


def plain(value: Any, where: str, depth: int = 0) -> Any:
    """A copy. Raises TropismError, naming the key, for values that no recipe can have."""
    if depth > DEEPEST:
        raise TropismError(_too_deep(where))
    if isinstance(value, Mapping):
        for key in value:
            if not str(key).isprintable():
                raise TropismError(f"{where} has the key {shown(key)}, which cannot be printed: rename it")
        return {k: plain(v, f"{where}.{k}" if depth else f"{where}: {k}", depth + 1) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v, f"{where}[{n}]", depth + 1) for n, v in enumerate(value)]
    if isinstance(value, int) and value.bit_length() > 63:
        raise TropismError(f"{where} is a whole number of more than 64 bits: write a smaller one")
    if isinstance(value, str) and "\0" in value:
        raise TropismError(f"{where} = {shown(value)} contains a zero character: remove it")
    return value


def override(table: dict[str, Any], entries: Mapping[str, dict[str, Any]], text: str) -> None:
    """Writes `stage.key=value` into the stage's entry, `name=…` or `seed=…` into the table."""
    path, equals, raw = text.partition("=")
    keys = path.strip().split(".")
    where = f"--set {shown(text)}"
    if not equals or not all(keys):
        raise TropismError(f"{where} is not stage.key=value")
    if len(keys) > DEEPEST:
        raise TropismError(_too_deep(where))
    if "\n" in text or "\r" in text:
        raise TropismError(f"{where} has a line break in it: give one value, with \\n for a line break in a string")
    try:
        value = plain(tomllib.loads(f"v = {raw}")["v"], where, len(keys))
    except RecursionError:
        raise TropismError(_too_deep(where)) from None
    except ValueError:  # a word without quotes
        value = plain(raw.strip(), where)
    if len(keys) == 1:
        refuse_unknown({keys[0]: 0}, ("name", "seed"), "--set")
        table[keys[0]] = value
        return
    target: Any = entries.get(keys[0])
    if target is None:
        raise TropismError(f"{where}: there is no stage {shown(keys[0])}: {nearest(keys[0], list(entries))}")
    if keys[1] == "id":
        raise TropismError(f"{where}: --set cannot rename a stage: change its id in the recipe")
    for key in keys[1:-1]:
        target = target.setdefault(key, {})
        if not isinstance(target, dict):
            raise TropismError(f"{where}: {key!r} is not a table")
    target[keys[-1]] = value


def refuse_unknown(table: Mapping[str, Any], known: Mapping[str, Any] | Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise TropismError(f"{where} has no key {shown(key)}: {nearest(key, list(known))}")


def nearest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word[:LONGEST], known, 1, 0.5)
    return f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(known)}"


def shown(value: Any) -> str:
    """A value as text for a message, cut to one line."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _too_deep(where: str) -> str:
    return f"{where} has more than {DEEPEST} tables and lists inside each other: make it simpler"
