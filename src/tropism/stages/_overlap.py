"""Finds the prompts of an evaluation on which its models were trained.

Every stage that learns from prompts writes their marks (`store/contents.py`) into its folder. An evaluation or a probe
looks for its own prompts among the marks of all stages that it depends on. A prompt counts as met if it was a prompt in
training, roles included, or if each line of its last message is a line of the raw text. The training data of models
from elsewhere is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tropism.recipe.refs import refs
from tropism.store.contents import learned, lines, mark
from tropism.store.folder import ancestry
from tropism.store.work import Work
from tropism.types import Group

FILE = "learned.npy"


def learns(work: Work, groups: Iterable[Group]) -> None:
    """Writes the marks of the groups that a stage learns from: sorted, 64 bits each."""
    marks = np.unique(np.fromiter(chain.from_iterable(map(learned, groups)), np.uint64))
    work.peers.once(lambda: np.save(work.folder / FILE, marks))


def overlap(work: Work, stage: Any, asked: Sequence[Group]) -> dict[str, Any]:
    """{"prompts": their number, "met": the number that some stage was trained on, "stages": {id: the same for one}}."""
    folders = ancestry(work.folder)
    for _, _, path in refs(stage):
        folders |= ancestry(Path(path).parent)
    prompts = np.array([mark(g) for g in asked], np.uint64)
    texts = [lines(g.prompt[-1].content) if g.prompt else [] for g in asked]
    each, ends = np.array([*chain.from_iterable(texts)], np.uint64), np.cumsum([0, *map(len, texts)])
    found: dict[str, np.ndarray] = {}
    for folder, id in folders.items():
        if (folder / FILE).exists():
            known = np.load(folder / FILE)
            met = np.isin(each, known)
            said = [a < b and bool(met[a:b].all()) for a, b in pairwise(ends)]
            found[f"{folder.parent.name}/{id}" if id in found else id] = np.isin(prompts, known) | said
    total = int(np.any(list(found.values()), axis=0).sum()) if found else 0
    return {"prompts": len(asked), "met": total, "stages": {id: int(which.sum()) for id, which in found.items()}}


def probed(work: Work, stage: Any) -> None:
    """Counts the prompts of a stage's probe on which this stage or an earlier one was trained."""
    if stage.probe is None:
        return
    found = overlap(work, stage, list(stage.probe.prompts.groups()))
    work.facts["probe_prompts_trained_on"] = found["met"]
    if found["met"]:
        work.note(f"{found['met']} of the {found['prompts']} prompts of the probe are in a training set: not held out")
