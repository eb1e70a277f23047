"""A run folder: finished stages are skipped, interrupted ones continue, changed ones run again with all that use them.

    runs/<recipe>/<stage>-<fingerprint>/   stage.json  metrics.jsonl  checkpoints/  out/  DONE

A stage is a dataclass whose `run(work)` fills `work.out`. The file DONE is written last and lists every file with its
checksum. A checkpoint is a folder with such a list too; if one is damaged, the one before it is used. A killed and
continued stage gives the same result, bit for bit, as an uninterrupted one, because a checkpoint holds everything that
the next step reads.

If several processes run a recipe together, all read the folder and only the leading one writes to it: the others write
their results to a temporary folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tropism
from tropism.asking.budget import paying
from tropism.errors import TropismError
from tropism.protocols import Judge, Stage
from tropism.recipe.build import build
from tropism.recipe.read import Recipe
from tropism.recipe.refs import bind, check_made, refs
from tropism.store import files, reuse
from tropism.store.again import again
from tropism.store.fingerprint import describe, fingerprint
from tropism.store.folder import DONE, RECIPE, done
from tropism.store.peers import Peers
from tropism.store.progress import Reporter
from tropism.store.work import Work, checkpoints
from tropism.types import Artifact

__all__ = ["Run", "run_recipe"]


class Run:
    """A run folder under this process's lock. Calling it with a stage runs, continues or skips the stage, or takes it
    over from the run folder `reused`.

    >>> run = Run("runs/mine")                                  # doctest: +SKIP
    >>> model = run(RL(policy="some/folder", ...))              # doctest: +SKIP
    """

    def __init__(
        self,
        folder: str | Path,
        seed: int = 0,
        checkpoint_s: float = 15.0,
        reporter: Reporter | None = None,
        recipe: Recipe | None = None,
        peers: Peers | None = None,
        reused: Path | None = None,
        threads: int = 0,
    ) -> None:
        self.folder, self.seed, self.checkpoint_s, self.reused = Path(folder), seed, checkpoint_s, reused
        self.peers = peers or Peers()
        self.reporter = (reporter or Reporter()) if self.peers.leads else Reporter(quiet=True)
        self.artifacts: dict[str, Artifact] = {}
        self.seconds: dict[str, float] = {}
        stages = recipe.stages if recipe else {}  # also those that have not run yet
        self._recipe: dict[str, Any] = {
            "name": recipe.name if recipe else self.folder.name,
            "seed": seed,
            "stages": {id: describe(stage) for id, stage in stages.items()},
            "folders": {},
            **({"threads": threads} if threads else {}),
        }
        self._lock: Any = None
        self.peers.once(self._open)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets another process use the folder."""
        if self._lock:
            self._lock.close()

    def _open(self) -> None:
        if self.reused:
            reuse.check(self.reused, self.folder)
        with files.explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.folder)

    def __call__(self, stage: Stage, id: str = "") -> Path:
        """Runs one stage (its id is its kind by default) and returns the folder of its result."""
        id = id or type(stage).__module__.rpartition(".")[2]
        build(Stage, stage, id)  # checks the numbers of a stage that was made in Python
        for field, ref, value in refs(stage):
            if value in self.artifacts:
                check_made(f"{id}.{field}", ref, value, self.artifacts[value].makes)
        seed = stage_seed(self.seed, id)
        mark = fingerprint(stage, seed, self.artifacts)
        folder = self.folder / f"{id}-{mark[:8]}"
        meta = self.peers.once(lambda: self._record(id, stage, mark, folder))
        if meta is None:
            meta = self._work(stage, id, mark, seed, folder)
        self.artifacts[id] = Artifact(type(stage).makes, folder / "out", mark, id)
        self.seconds[id] = meta["seconds"]
        return folder / "out"

    def _record(self, id: str, stage: Stage, mark: str, folder: Path) -> dict[str, Any] | None:
        """Writes recipe.json: all stages, and the folders of those reached so far. Returns the meta in this one's DONE,
        if it need not run."""
        self._recipe["stages"][id] = describe(stage)
        self._recipe["folders"][id] = folder.name
        files.write_json(self.folder / RECIPE, self._recipe)
        if (meta := done(folder)) is not None:
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # of a run that was killed after DONE was written
            self.reporter.line(f"{id}: done before, skipped")
        elif self.reused and (source := reuse.find(self.reused, folder.name, mark)):
            meta = reuse.take(source, folder)
            self.reporter.line(f"{id}: taken over from {source}")
        return meta

    def _work(self, stage: Stage, id: str, mark: str, seed: int, folder: Path) -> dict[str, Any]:
        self.peers.once(lambda: self._begin(stage, id, mark, seed, folder))
        bound = bind(stage, lambda ref: str(self.artifacts[ref].path) if ref in self.artifacts else ref)
        leads = self.peers.leads
        with contextlib.nullcontext(folder / "out") if leads else tempfile.TemporaryDirectory() as out:
            unscored = functools.partial(_unscored, _judges(bound))
            work = Work(folder, Path(out), id, mark, seed, self.checkpoint_s, self.reporter, self.peers, unscored)
            with files.explained(folder), paying(f"stage {mark}"):
                try:
                    bound.run(work)
                finally:
                    work.count_unscored()  # also if it stops because of them
                meta = self.peers.once(lambda: self._seal(work))
        self.reporter.line(f"{id}: done in {meta['seconds']:.0f} s")
        return meta

    def _begin(self, stage: Stage, id: str, mark: str, seed: int, folder: Path) -> None:
        """Makes the stage's folder with stage.json and an empty `out`; says why, if the stage was already done."""
        record = {
            "id": id,
            "fingerprint": mark,
            "seed": seed,
            "version": type(stage).version,
            "makes": type(stage).makes,
            "tropism": tropism.__version__,
            "fields": describe(stage),
            "inputs": {v: self.artifacts[v].fingerprint for _, _, v in refs(stage) if v in self.artifacts},
        }
        if reason := again(self.folder, record):
            self.reporter.line(f"{id}: runs again: {reason}")
        if self.reused and (reason := again(self.reused, record)):
            self.reporter.line(f"{id}: not taken over: {reason}")
        with files.explained(folder):
            folder.mkdir(exist_ok=True)
            for old in (folder / DONE, folder / "out", files.part(folder)):
                files.remove(old)
            (folder / "out").mkdir()
            if (folder / "checkpoints").is_file():
                files.remove(folder / "checkpoints")
        files.write_json(folder / "stage.json", record)

    def _seal(self, work: Work) -> dict[str, Any]:
        """Marks the stage as done; returns the meta in DONE."""
        meta = work.finish()
        files.seal(work.folder, meta, DONE, leave_out="checkpoints")
        shutil.rmtree(work.folder / "checkpoints", ignore_errors=True)
        return meta


def run_recipe(
    recipe: Recipe,
    folder: Path,
    checkpoint_s: float = 15.0,
    reporter: Reporter | None = None,
    peers: Peers | None = None,
    expected: Mapping[str, float] | None = None,
    reused: Path | None = None,
    threads: int = 0,
) -> Run:
    """Runs the stages of a recipe in order, in `folder`. `expected` has the seconds that each stage should take;
    `threads`, with which they compute, is recorded."""
    with Run(folder, recipe.seed, checkpoint_s, reporter, recipe, peers, reused, threads) as run:
        seconds = [expected.get(id, 0.0) if expected else 1.0 for id in recipe.stages]
        with run.reporter.whole(recipe.name, seconds) as whole:
            for id, stage in recipe.stages.items():
                run(stage, id)
                whole.next()
        return run


def status(recipe: Recipe, folder: Path, reused: Path | None = None) -> dict[str, str]:
    """For each stage, without running anything: `done`, `taken over`, `continues` or `to do`."""
    if reused:
        reuse.check(reused, folder)
    artifacts: dict[str, Artifact] = {}
    states: dict[str, str] = {}
    for id, stage in recipe.stages.items():
        mark = fingerprint(stage, stage_seed(recipe.seed, id), artifacts)
        path = folder / f"{id}-{mark[:8]}"
        states[id] = "done" if done(path) is not None else "continues" if checkpoints(path) else "to do"
        if states[id] != "done" and reused and (source := reuse.find(reused, path.name, mark)):
            reuse.undamaged(source)
            states[id] = "taken over"
        artifacts[id] = Artifact(type(stage).makes, path / "out", mark, id)
    return states


def stage_seed(seed: int, id: str) -> int:
    """The seed of one stage: each has its own random numbers, so that adding a stage does not change the others."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{id}".encode()).digest()[:4], "little")


def _unscored(judges: Sequence[Judge]) -> list[str]:
    """The completions that judges left without a score because of an error, and why."""
    return [why for judge in judges for why in getattr(judge, "skipped", ())]


def _judges(value: Any) -> list[Judge]:
    """Every judge anywhere in a stage, those of a panel included."""
    if isinstance(value, Mapping):
        return [judge for item in value.values() for judge in _judges(item)]
    if isinstance(value, tuple):
        return [judge for item in value for judge in _judges(item)]
    here = [value] if isinstance(value, Judge) else []
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return here
    return here + [judge for f in dataclasses.fields(value) if f.init for judge in _judges(getattr(value, f.name))]


def _lock(folder: Path) -> Any:
    """An exclusive lock. The operating system releases it when the process ends, for whatever reason."""
    with files.explained(folder):
        handle = open(folder / ".lock", "a+", encoding="utf-8")  # noqa: SIM115, it stays open
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.seek(0)
        owner = handle.read().strip() or "unknown"
        handle.close()
        raise TropismError(
            f"{folder} is in use by another process (number {owner}): wait for it, stop it, or give another --out"
        ) from None
    with files.explained(folder):
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
    return handle
