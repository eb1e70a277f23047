"""Expands the shorthand of a recipe: defaults by kind, seeds, rounds. Plain tables in, plain tables out.

    [defaults.rl]              # for every rl stage that does not set the field; nested tables are not merged
    policy = "sft"

    [rounds]                   # online iteration: repeats the block: samples-1, …, ppo-1, samples-2, …
    count = 3
    stages = ["samples", "rankings", "reward", "ppo"]
    start = { ppo = "sft" }    # used as ppo in round 1, before there is a ppo-1

    [[stage]]
    id = "apa"
    kind = "rl"
    seeds = 3                  # apa-1 to apa-3, which differ in their random numbers

When a stage of the block names another stage of the block, it means the stage of the same round if that one runs
earlier, otherwise the stage of the round before. `all:rankings` means the rankings of all rounds so far, `start`
included. After the block, `ppo` means the ppo of the last round. Left out: a name for one seed of a stage in the block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from tropism.errors import TropismError

Entry = dict[str, Any]
ALL = "all:"
MOST = 1000  # seeds of a stage, rounds


def completed(defaults: Any, entries: Sequence[Entry], where: str) -> list[Entry]:
    """The stages with their defaults. Raises TropismError, naming `where`, for defaults that no stage uses."""
    kinds = [str(entry["kind"]) for entry in entries]
    if not isinstance(defaults, Mapping) or not all(isinstance(fields, Mapping) for fields in defaults.values()):
        raise TropismError(f"{where}: defaults must be tables by kind, such as [defaults.rl]")
    if unknown := next((kind for kind in defaults if kind not in kinds), None):
        raise TropismError(f"{where}: defaults.{unknown}: no stage has the kind {unknown!r}: change one of the two")
    return [{**defaults.get(kind, {}), **entry} for kind, entry in zip(kinds, entries)]


def expanded(rounds: Any, entries: Sequence[Entry], where: str, references: Callable[[Entry], Set[str]]) -> list[Entry]:
    """The stages as they run; `rounds` is None if the recipe has no rounds. `references` gives the keys of a stage that
    name other stages, as dotted paths without list indices. Raises TropismError, naming `where`, for bad shorthand."""
    entries = entries if rounds is None else _rounded(rounds, entries, where, references)
    seeded = [one for entry in entries for one in _seeded(entry, where)]
    ids = [entry["id"] for entry in seeded]
    if twice := next((id for n, id in enumerate(ids) if id in ids[:n]), None):
        raise TropismError(f"{where}: two stages have the id {twice!r}, one of them by seeds or rounds: rename one")
    return seeded


def _seeded(entry: Entry, where: str) -> list[Entry]:
    if "seeds" not in entry:
        return [entry]
    count = entry["seeds"]
    if type(count) is not int or not 1 <= count <= MOST:
        raise TropismError(f"{where}: {entry['id']}.seeds = {count!r} must be a whole number from 1 to {MOST}")
    plain = {key: value for key, value in entry.items() if key != "seeds"}
    return [{**plain, "id": f"{entry['id']}-{n}"} for n in range(1, count + 1)]


def _rounded(rounds: Any, entries: Sequence[Entry], where: str, references: Callable[[Entry], Set[str]]) -> list[Entry]:
    ids = [entry["id"] for entry in entries]
    block, count, start = _block(rounds, ids, where)
    first = ids.index(block[0])
    behind = first + len(block)
    if ids[first:behind] != block:
        raise TropismError(f"{where}: rounds.stages must be neighbouring stages, in their order: reorder them")

    def meaning(ref: str, id: str, number: int, place: int) -> str | list[str]:
        """The stage that a name means in the stage `id`, which is at this place of this round."""
        plain = ref.removeprefix(ALL)
        if plain not in block:
            if ref != plain:
                raise TropismError(f"{where}: {id} names {ref!r}: add {plain!r} to rounds.stages, or name one of them")
            return ref
        now = number if block.index(plain) < place else number - 1
        so_far = [start[plain]] if plain in start else []
        so_far += [f"{plain}-{n}" for n in range(1, now + 1)]
        if not so_far:
            raise TropismError(
                f"{where}: {id} names {ref!r}, which does not exist in the first round: add {plain} to rounds.start"
            )
        return so_far if ref != plain else so_far[-1]

    def made(entry: Entry, number: int, place: int) -> Entry:
        name = functools.partial(meaning, id=entry["id"], number=number, place=place)
        return _renamed(entry, name, references(entry))

    again = [
        {**made(entry, number, place), "id": f"{entry['id']}-{number}"}
        for number in range(1, count + 1)
        for place, entry in enumerate(entries[first:behind])
    ]
    return [*entries[:first], *again, *(made(entry, count, len(block)) for entry in entries[behind:])]


def _block(rounds: Any, ids: Sequence[str], where: str) -> tuple[list[str], int, Mapping[str, str]]:
    """The values of the table `rounds`, checked."""
    known = {"count", "stages", "start"}
    if not isinstance(rounds, Mapping) or not {"count", "stages"} <= set(rounds) <= known:
        raise TropismError(f"{where}: rounds must be a table with count and stages, and optionally start")
    count, block, start = rounds["count"], rounds["stages"], rounds.get("start", {})
    if type(count) is not int or not 1 <= count <= MOST:
        raise TropismError(f"{where}: rounds.count = {count!r} must be a whole number from 1 to {MOST}")
    if not isinstance(block, list) or not block or not all(id in ids for id in block):
        raise TropismError(f"{where}: rounds.stages = {block!r} must be ids of stages of this recipe")
    if not isinstance(start, Mapping) or not all(id in block for id in start):
        raise TropismError(f"{where}: rounds.start = {start!r} must be a table whose keys are ids in rounds.stages")
    return block, count, start


def _renamed(value: Any, name: Callable[[str], Any], where: Set[str], at: tuple[str, ...] = ()) -> Any:
    """A copy of the tables in which each string `s` at one of the keys `where` is replaced by `name(s)`. In a list, one
    name can be replaced by several."""
    if isinstance(value, str):
        return name(value) if ".".join(at) in where else value
    if isinstance(value, Mapping):
        return {key: _renamed(item, name, where, at if key.isdigit() else (*at, key)) for key, item in value.items()}
    if isinstance(value, list):
        renamed = [(item, _renamed(item, name, where, at)) for item in value]
        return [
            one for old, new in renamed for one in (new if isinstance(old, str) and isinstance(new, list) else [new])
        ]
    return value
