"""What a stage's result depends on, as one hash: kind, version, resolved fields, inputs' fingerprints, seed.

A function counts with its source; a data file with its content; a model folder with its content; a hub id with its name.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tropism.recipe import refs
from tropism.store.files import content_hash
from tropism.types import Artifact, Stage


def fingerprint(stage: Stage, seed: int, inputs: Mapping[str, Artifact]) -> str:
    """16 hex digits. `inputs` maps the stage ids that `stage` names to what they left behind."""
    facts = {
        "fields": describe(stage),
        "version": type(stage).version,
        "seed": seed,
        "inputs": {ref: _input(ref, inputs) for _, _, ref in refs(stage)},
        "files": sorted(_hash_of(str(f), f.stat().st_mtime_ns) for f in _files(stage)),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def describe(value: Any) -> Any:
    """A stage, with everything plugged into it, as JSON: what `stage.json` shows and the fingerprint hashes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": f"{type(value).__module__}:{type(value).__qualname__}", **fields}
    if isinstance(value, Mapping):
        return {str(k): describe(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if callable(value):
        try:
            source = hashlib.sha256(inspect.getsource(value).encode()).hexdigest()[:16]
        except (OSError, TypeError):
            source = ""
        return f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', repr(value))}@{source}"
    return repr(value)


def _input(ref: str, inputs: Mapping[str, Artifact]) -> str:
    if ref in inputs:
        return inputs[ref].fingerprint
    path = Path(ref)
    return content_hash(path) if path.exists() else ref


@functools.lru_cache(maxsize=1024)
def _hash_of(path: str, mtime_ns: int) -> str:
    """Content hash, remembered while the file does not change: fingerprints are asked for more than once."""
    return content_hash(Path(path))


def _files(value: Any) -> list[Path]:
    """The local files of every data format plugged in anywhere."""
    found: list[Path] = []
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if callable(reads := getattr(value, "files", None)):
            return [Path(str(f)) for f in reads()]  # type: ignore[union-attr]
        for field in dataclasses.fields(value):
            found += _files(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for item in value.values():
            found += _files(item)
    return found
