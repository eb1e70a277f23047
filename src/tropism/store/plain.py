"""Converts the data types to plain JSON values, and such values back to a Group."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tropism.types import Completion, Group, Judgment, Message, Step

PLAIN = {int, float, str, bool, type(None)}


def to_json(value: Any) -> Any:
    """A dataclass of `types.py`, or a tuple or mapping of them, as plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        if {*map(type, value)} <= PLAIN:  # such as tokens, of which there are many
            return list(value)
        return [to_json(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def group_from_json(data: Mapping[str, Any] | str) -> Group:
    """The inverse of `to_json` for a Group."""
    raw: Mapping[str, Any] = json.loads(data) if isinstance(data, str) else data

    def tupled(record: Mapping[str, Any], make: Callable[..., Any]) -> Any:
        return make(**{k: tuple(v) if isinstance(v, list) else v for k, v in record.items()})

    def stepped(steps: Any) -> Any:
        return steps and tuple(None if found is None else tuple(Step(**s) for s in found) for found in steps)

    return Group(
        id=raw["id"],
        prompt=tuple(Message(**m) for m in raw["prompt"]),
        completions=tuple(tupled(c, Completion) for c in raw.get("completions", ())),
        judgments=tuple(tupled({**j, "steps": stepped(j.get("steps"))}, Judgment) for j in raw.get("judgments", ())),
        target=raw.get("target"),
        meta=dict(raw.get("meta", {})),
    )
