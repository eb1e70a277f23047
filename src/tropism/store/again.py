"""Why a stage runs again although it was already done in this run folder: one line, from the old and new stage.json.

    sft: runs again: optim.lr is 0.003 and was 0.004; its input base was made again

It shows at most two differences: first changes by the user, then what follows from those, then what this version of
tropism computes differently. A changed file or model outside the run changes only the fingerprint, so it is named if
nothing else differs. Left out: what has changed in code from outside, since only its hash is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tropism.store.folder import DONE, read_stage

MOST = 2  # differences
LONGEST = 60  # characters of a value


def again(folder: Path, now: Mapping[str, Any]) -> str | None:
    """Why the stage with the stage.json `now` runs again in a run folder; None if it was never done there. It is
    compared with its last finished run, or with this same run if that was done and is now damaged."""
    found = []
    for path in folder.iterdir():
        stage = read_stage(path) if path.name.startswith(f"{now['id']}-") and (path / DONE).exists() else None
        if stage and stage.get("id") == now["id"]:
            found.append((stage.get("fingerprint") == now["fingerprint"], (path / DONE).stat().st_mtime_ns, stage))
    return why(now, max(found, key=lambda one: one[:2])[2]) if found else None


def why(now: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """The first two differences between two stage.json of the same stage."""
    if now["fingerprint"] == before.get("fingerprint"):
        return "its files were changed or removed since it was done"
    differences = list(_differences(now["fields"], before["fields"]))
    changed = [text for mine, text in differences if mine]
    renewed = [text for mine, text in differences if not mine]
    if now["seed"] != before.get("seed"):
        changed.append("the seed of the recipe has changed")
    then = before.get("inputs", {})
    changed += [f"its input {id} was made again" for id, mark in now["inputs"].items() if then.get(id, mark) != mark]
    if now["version"] != before.get("version"):
        renewed.insert(0, f"the stage's version is {now['version']} and was {before.get('version')}")
    if renewed:
        changed.append(f"this version of tropism computes it differently ({', '.join(renewed[:MOST])})")
    return "; ".join(changed[:MOST]) or "a file, a model or a store that it reads from outside the run has changed"


def _differences(now: Any, before: Any, at: str = "") -> Iterator[tuple[bool, str]]:
    """The differences of two described values: (True for the recipe or outside code, False for this package; what)."""
    if isinstance(now, Mapping) and isinstance(before, Mapping):
        one, other = now.get("kind"), before.get("kind")
        if one != other:
            moved = all(str(kind).startswith("tropism.") for kind in (one, other))
            if moved and str(one).partition(":")[2] == str(other).partition(":")[2]:
                yield False, f"{_shown(now)} has moved"
            else:
                yield True, f"{at or 'kind'} is {_shown(now)} and was {_shown(before)}"
            return
        for key in [*now, *(key for key in before if key not in now)]:
            yield from _of_key(key, now, before, f"{at}.{key}" if at else key)
    elif isinstance(now, list) and isinstance(before, list) and len(now) == len(before):
        for number, (a, b) in enumerate(zip(now, before)):
            yield from _differences(a, b, f"{at}.{number}")
    elif now != before:
        name = str(now).rpartition("@")[0]
        if name and name == str(before).rpartition("@")[0]:
            yield True, f"the code of {name} has changed"
        else:
            yield True, f"{at} is {_shown(now)} and was {_shown(before)}"


def _of_key(key: str, now: Mapping[str, Any], before: Mapping[str, Any], at: str) -> Iterator[tuple[bool, str]]:
    """A table with a kind describes every field, except code that declares that it changes no result. So a field that
    only one side has was added or removed by this version."""
    if key in now and key in before:
        if key == "source" and now[key] != before[key]:
            yield True, f"the code of {now['kind']} has changed"
        else:
            yield from _differences(now[key], before[key], at)
    elif "kind" not in now or isinstance({**now, **before}[key], Mapping):
        yield True, f"{at} is {_shown(now.get(key))} and was {_shown(before.get(key))}"
    else:
        yield False, f"the field {at} is {'new' if key in now else 'gone'}"


def _shown(value: Any) -> str:
    """A value for a message; objects are shown by their kind."""
    if isinstance(value, Mapping) and "kind" in value:
        module, _, name = str(value["kind"]).partition(":")
        return module.rpartition(".")[2] if module.startswith("tropism.") else f"{module}:{name}"
    text = "not set" if value is None else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
