"""Shared by the stages that read groups: reads a format, selects the groups that fit, splits off held-out ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from tropism.errors import TropismError
from tropism.protocols import Format
from tropism.store.contents import mark, side
from tropism.store.work import Work
from tropism.tensors.encode import TooLong
from tropism.tensors.tree import Tree
from tropism.text.template import Refused
from tropism.types import Group


def stream(source: Format, what: str, work: Work) -> Iterator[Group]:
    """The groups of a format, one after another; records that it left out are counted and shown at the end."""
    records = source.groups()
    empty = True
    for group in records:
        empty = False
        yield group
    if skipped := getattr(records, "skipped", []):
        work.note(f"{len(skipped)} broken records left out of {what}; the first: {skipped[0]}")
        work.facts["left_out"] = work.facts.get("left_out", 0) + len(skipped)
    if empty:
        raise TropismError(f"{what} is empty: name a file with at least one record")


def read(source: Format, what: str, work: Work) -> list[Group]:
    """All groups of a format, as `stream` gives them."""
    return list(stream(source, what, work))


def documents(source: Format, work: Work) -> list[Group]:
    """All groups of a format, each of which has a text."""
    groups = read(source, "data", work)
    if empty := next((g.id for g in groups if not g.completions), None):
        raise TropismError(f"group {empty} has no text to learn from: name a format of documents, such as text")
    return groups


class Sieve:
    """Tells the groups that fit a model's context from those that do not. One that does not fit stops the stage, or is
    left out and counted. So does a group that the chat template refuses; here the `on_error` of its format, `source`,
    decides."""

    def __init__(self, too_long: Literal["stop", "skip"], source: Format | None = None) -> None:
        self._too_long, self._source = too_long, source
        self._kept = self._long = 0
        self._refused: list[str] = []

    def tree(self, group: Group, make: Callable[[Group], Tree]) -> Tree | None:
        """The group's tree; None if it is left out."""
        try:
            found = make(group)
            self._kept += 1
            return found
        except TooLong as error:
            if self._too_long == "stop":
                raise TropismError(f'{error}; or set too_long = "skip" to leave such groups out') from None
            self._long += 1
        except Refused as error:
            on_error = getattr(self._source, "on_error", None)
            if on_error != "skip":
                remedy = '; or set on_error = "skip" on the data to leave such groups out' if on_error else ""
                raise Refused(f"{error}{remedy}") from None
            self._refused.append(str(error))
        return None

    def tell(self, work: Work) -> None:
        """Counts and shows what was left out. Raises TropismError if nothing is left."""
        refused, seen = self._refused, self._kept + self._long + len(self._refused)
        if refused:
            work.note(f"{len(refused)} of {seen} groups left out; the first: {refused[0]}")
            work.facts["left_out"] = work.facts.get("left_out", 0) + len(refused)
        if self._long:
            work.note(f"{self._long} of {seen} groups do not fit the model's context and were left out")
            work.facts["too_long"] = work.facts.get("too_long", 0) + self._long
        if not self._kept:
            if refused:
                raise TropismError(f"no group is left; the first of {len(refused)} that were refused: {refused[0]}")
            raise TropismError("no group fits the model's context: use a model with a longer one")


def fitting(
    groups: Sequence[Group],
    make: Callable[[Group], Tree],
    too_long: Literal["stop", "skip"],
    work: Work,
    source: Format | None = None,
) -> list[tuple[Group, Tree]]:
    """The groups that fit, with their trees, as `Sieve` tells them."""
    sieve = Sieve(too_long, source)
    kept = [(group, found) for group in groups if (found := sieve.tree(group, make)) is not None]
    sieve.tell(work)
    return kept


def held_out(groups: Sequence[Group], share: float) -> tuple[list[Group], list[Group]]:
    """(train, test), split by content, so that nothing held out is in the training data. If nothing would be left to
    train on, nothing is held out."""
    if not 0 <= share <= 0.5:
        raise TropismError(f"held_out = {share} is not a share of the data that can be held out: use 0 to 0.5")
    sides = [side(g, share) for g in groups]
    if "train" not in sides:
        return list(groups), []
    train, test = ([g for g, s in zip(groups, sides) if s == which] for which in ("train", "test"))
    return train, test


def read_split(paths: str | Sequence[str], limit: int = 0) -> tuple[list[Group], list[Group]]:
    """(train, test) groups of one or several label stages: all, or the first `limit`. A prompt that one of them holds
    out is held out in all, so the largest of their shares counts."""
    from tropism.store.groups import read_groups  # here, as stages that read no groups do not need pyarrow's 28 MiB

    folders = [paths] if isinstance(paths, str) else list(paths)
    everything = (g for path in folders for g in read_groups(path))
    groups = list(itertools.islice(everything, limit or None))
    rest = everything if len(folders) > 1 else ()  # in one stage the same prompt is on one side
    marks = [mark(g) for g in groups]
    secret = {m for g, m in zip(groups, marks) if g.meta.get("split") == "test"}
    secret |= {mark(g) for g in rest if g.meta.get("split") == "test"}
    train = [g for g, m in zip(groups, marks) if m not in secret]
    if not train:
        raise TropismError(f"{paths} has no training groups: lower `test` in the label stage")
    return train, [g for g, m in zip(groups, marks) if m in secret]
