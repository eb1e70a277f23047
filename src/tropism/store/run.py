"""A run folder: what is done is skipped, what was cut off continues, what changed runs again with all that depends on it.

    runs/<recipe>/<stage>-<fingerprint>/   stage.json  metrics.jsonl  checkpoints/  out/  DONE

A stage is a dataclass whose `run(work)` fills `work.out`. The marker DONE comes last and lists every file with its
checksum; a checkpoint is a sealed folder, and a torn one is passed over for the one before it. A killed and continued
stage ends in the same bits as an uninterrupted one, because a checkpoint holds everything the loop's next step reads.

Where several processes run a recipe together, all read the folder and the leading one writes it: the others' results
go to a folder that is thrown away.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tropism
from tropism.recipe import Recipe, bind, build, check_kind, refs
from tropism.store import files
from tropism.store.fingerprint import describe, fingerprint
from tropism.store.peers import Peers
from tropism.store.progress import Progress, Reporter
from tropism.types import Artifact, Judge, Stage, TropismError

DONE = "DONE"
RECIPE = "recipe.json"
KEPT_CHECKPOINTS = 2


class Work:
    """What a running stage may touch: its folder, seed, checkpoints, metrics and progress. `out` is where its result
    goes; what it writes elsewhere goes through `peers.once`."""

    def __init__(
        self,
        folder: Path,
        out: Path,
        id: str,
        mark: str,
        seed: int,
        checkpoint_s: float,
        reporter: Reporter,
        peers: Peers,
        judges: Sequence[Judge] = (),
    ) -> None:
        self.folder, self.out, self.id, self.fingerprint, self.seed = folder, out, id, mark, seed
        self.reporter, self.peers = reporter, peers
        self.facts: dict[str, Any] = {}  # numbers about the whole stage, kept in DONE
        self._judges = judges
        self._unscored_before = -len(self._unscored())
        self._checkpoint_s = checkpoint_s
        self._began = self._saved = time.monotonic()
        self._before_s = 0.0
        self._metrics = folder / "metrics.jsonl"

    @property
    def seconds(self) -> float:
        """Working time so far, that of earlier, interrupted tries up to their checkpoint included."""
        return self._before_s + time.monotonic() - self._began

    def progress(self, what: str, total: float, unit: str = "tokens") -> contextlib.AbstractContextManager[Progress]:
        """A bar with rate and time left; silent when not on a terminal."""
        return self.reporter.progress(f"{self.id}: {what}", total, unit)

    def note(self, text: str) -> None:
        """A line a person should see."""
        self.reporter.line(f"{self.id}: {text}")

    def log(self, **metrics: Any) -> None:
        """One line of metrics.jsonl."""
        if not self.peers.leads:
            return
        self.count_unscored()
        with files.explained(self._metrics), open(self._metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(metrics, ensure_ascii=False) + "\n")

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return time.monotonic() - self._saved >= self._checkpoint_s

    def save(self, step: int, fill: Callable[[Path], None]) -> None:
        """A checkpoint: `fill` writes everything the step after `step` reads. It may not wait for other processes."""
        if not self.peers.leads:
            return
        size = 0
        if self._metrics.exists():
            with open(self._metrics, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                os.fsync(file.fileno())
        self.count_unscored()
        meta = {"step": step, "metrics_bytes": size, "seconds": self.seconds, "facts": self.facts}
        path = self.folder / "checkpoints" / f"{step:08d}"
        path.parent.mkdir(exist_ok=True)
        files.write_folder(path, fill, meta)
        for old in _checkpoints(self.folder)[KEPT_CHECKPOINTS:]:
            files.remove(old)
        self._saved = time.monotonic()

    def restore(self) -> tuple[int, Path] | None:
        """(step, folder) of the newest whole checkpoint, with the metrics cut back to it; None to begin afresh."""
        found = self.peers.once(self._newest)
        if found is None:
            return None
        path, meta = found
        self._before_s, self.facts = meta["seconds"], meta["facts"]
        self._unscored_before = self.facts.get("judge_errors", 0) - len(self._unscored())
        self.note(f"continues from step {meta['step']}")
        return meta["step"], path

    def _newest(self) -> tuple[Path, dict[str, Any]] | None:
        for unfinished in (self.folder / "checkpoints").glob(".*.part"):
            files.remove(unfinished)
        for path in _checkpoints(self.folder):
            meta = files.sealed(path)
            if meta is not None and set(meta) >= {"step", "metrics_bytes", "seconds", "facts"}:
                self._cut_metrics(meta["metrics_bytes"])
                return path, meta
            self.note(f"the checkpoint {path.name} is damaged and passed over")
            files.remove(path)
        self._cut_metrics(0)
        return None

    def finish(self) -> dict[str, Any]:
        """What DONE says of the stage."""
        if count := self.count_unscored():
            self.note(f"{count} completions have no score, as the judge failed on them")
        return {"seconds": round(self.seconds, 2), "facts": self.facts}

    def _unscored(self) -> list[str]:
        """What the judges of this stage have left without a score because of an error, and why."""
        return [why for judge in self._judges for why in getattr(judge, "skipped", ())]

    def count_unscored(self) -> int:
        """Counts what the judges failed on among the facts; the first of it is shown at once."""
        found = self._unscored()
        count = self._unscored_before + len(found)
        if count:
            if "judge_errors" not in self.facts:
                self.note(f"a completion is left without a score: {found[-1]}")
            self.facts["judge_errors"] = count
        return count

    def last_checkpoint(self) -> str:
        """For messages: the newest checkpoint's path."""
        paths = _checkpoints(self.folder)
        return str(paths[0]) if paths else "none yet"

    def _cut_metrics(self, size: int) -> None:
        """To `size` bytes, or to the last whole line of a file that is shorter."""
        if self._metrics.exists():
            whole = self._metrics.read_bytes()[:size].rfind(b"\n") + 1
            os.truncate(self._metrics, whole)


class Run:
    """A run folder under this process's lock. Calling it with a stage runs, continues or skips the stage.

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
    ) -> None:
        self.folder, self.seed, self.checkpoint_s = Path(folder), seed, checkpoint_s
        self.peers = peers or Peers()
        self.reporter = (reporter or Reporter()) if self.peers.leads else Reporter(quiet=True)
        self.artifacts: dict[str, Artifact] = {}
        self.seconds: dict[str, float] = {}
        stages = recipe.stages if recipe else {}  # also those to come
        self._recipe: dict[str, Any] = {
            "name": recipe.name if recipe else self.folder.name,
            "seed": seed,
            "stages": {id: describe(stage) for id, stage in stages.items()},
            "folders": {},
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
        with files.explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.folder)

    def __call__(self, stage: Stage, id: str = "") -> Path:
        """Runs one stage (its id is its kind by default) and returns the folder of its result."""
        id = id or type(stage).__module__.rpartition(".")[2]
        build(Stage, stage, id)  # also of a stage made in Python, the numbers are in their ranges
        for field, ref, value in refs(stage):
            if value in self.artifacts:
                check_kind(f"{id}.{field}", ref, value, self.artifacts[value].kind)
        seed = stage_seed(self.seed, id)
        mark = fingerprint(stage, seed, self.artifacts)
        folder = self.folder / f"{id}-{mark[:8]}"
        meta = self.peers.once(lambda: self._record(id, stage, folder))
        if meta is None:
            meta = self._work(stage, id, mark, seed, folder)
        else:
            self.reporter.line(f"{id}: done before, skipped")
        self.artifacts[id] = Artifact(type(stage).makes, folder / "out", mark, id)
        self.seconds[id] = meta["seconds"]
        return folder / "out"

    def _record(self, id: str, stage: Stage, folder: Path) -> dict[str, Any] | None:
        """recipe.json: the stages, and the folder of each that was reached. Returns what this stage's DONE says."""
        self._recipe["stages"][id] = describe(stage)
        self._recipe["folders"][id] = folder.name
        files.write_json(self.folder / RECIPE, self._recipe)
        return done(folder)

    def _work(self, stage: Stage, id: str, mark: str, seed: int, folder: Path) -> dict[str, Any]:
        self.peers.once(lambda: self._begin(stage, id, mark, seed, folder))
        bound = bind(stage, lambda ref: str(self.artifacts[ref].path) if ref in self.artifacts else ref)
        leads = self.peers.leads
        with contextlib.nullcontext(folder / "out") if leads else tempfile.TemporaryDirectory() as out:
            judges = _judges(bound)
            work = Work(folder, Path(out), id, mark, seed, self.checkpoint_s, self.reporter, self.peers, judges)
            with files.explained(folder):
                try:
                    bound.run(work)
                finally:
                    work.count_unscored()  # also where it stops because of them
                meta = self.peers.once(lambda: self._seal(work))
        self.reporter.line(f"{id}: done in {meta['seconds']:.0f} s")
        return meta

    def _begin(self, stage: Stage, id: str, mark: str, seed: int, folder: Path) -> None:
        """The stage's folder with stage.json and an empty `out`."""
        with files.explained(folder):
            folder.mkdir(exist_ok=True)
            for old in (DONE, "out"):
                files.remove(folder / old)
            (folder / "out").mkdir()
            if (folder / "checkpoints").is_file():
                files.remove(folder / "checkpoints")
        files.write_json(
            folder / "stage.json",
            {
                "id": id,
                "fingerprint": mark,
                "seed": seed,
                "version": type(stage).version,
                "tropism": tropism.__version__,
                "fields": describe(stage),
                "inputs": {v: self.artifacts[v].fingerprint for _, _, v in refs(stage) if v in self.artifacts},
            },
        )

    def _seal(self, work: Work) -> dict[str, Any]:
        """Marks the stage as done; returns what DONE says."""
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
) -> Run:
    """Runs every stage of a recipe in its order, in `folder`. `expected` has the seconds that stages may take."""
    with Run(folder, recipe.seed, checkpoint_s, reporter, recipe, peers) as run:
        seconds = [expected.get(id, 0.0) if expected else 1.0 for id in recipe.stages]
        with run.reporter.whole(recipe.name, seconds) as whole:
            for id, stage in recipe.stages.items():
                run(stage, id)
                whole.next()
        return run


def status(recipe: Recipe, folder: Path) -> dict[str, str]:
    """For each stage, without running anything: `done`, `continues` or `to do`."""
    artifacts: dict[str, Artifact] = {}
    states: dict[str, str] = {}
    for id, stage in recipe.stages.items():
        mark = fingerprint(stage, stage_seed(recipe.seed, id), artifacts)
        path = folder / f"{id}-{mark[:8]}"
        states[id] = "done" if done(path) is not None else "continues" if _checkpoints(path) else "to do"
        artifacts[id] = Artifact(type(stage).makes, path / "out", mark, id)
    return states


def latest(folder: Path) -> dict[str, Path]:
    """The finished folder of each stage that last ran in a run folder, in the order they ran."""
    folders = read_recipe(folder)["folders"]
    return {id: folder / name for id, name in folders.items() if (folder / name / DONE).exists()}


def read_recipe(folder: Path) -> dict[str, Any]:
    """recipe.json: {"name", "seed", "stages": {id: fields}, "folders": {id: name}}."""
    try:
        found = json.loads((folder / RECIPE).read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise TropismError(f"{folder} is not a run folder: give one that `tropism run` has made") from None
    except (OSError, ValueError, RecursionError):
        found = {}
    if not isinstance(found, dict) or not all(isinstance(found.get(k), dict) for k in ("stages", "folders")):
        raise TropismError(
            f"{folder / RECIPE} is damaged: `tropism run` the recipe again with --out {folder}, it writes that file "
            "anew and skips what is done"
        )
    return found


def read_stage(folder: Path) -> dict[str, Any] | None:
    """stage.json of a stage's folder: {"id", "fingerprint", "fields", …}; None if it is torn."""
    try:
        found = json.loads((folder / "stage.json").read_text("utf-8"))
        return found if isinstance(found["fields"], dict) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def ancestry(folder: Path) -> dict[Path, str]:
    """The folder of a stage and of every stage that it depends on, with their ids; nothing if no stage has made it."""
    found: dict[Path, str] = {}
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        if here in found or (made := read_stage(here)) is None:
            continue
        found[here] = made["id"]
        waiting += [here.parent / f"{id}-{mark[:8]}" for id, mark in made["inputs"].items()]
    return found


def done(folder: Path) -> dict[str, Any] | None:
    """What DONE says, if the stage is finished and its files are whole; None otherwise."""
    meta = files.sealed(folder, DONE)
    return meta if meta is not None and {"seconds", "facts"} <= set(meta) else None


def stage_seed(seed: int, id: str) -> int:
    """Each stage draws from its own stream, so that adding a stage does not change the others."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{id}".encode()).digest()[:4], "little")


def read_metrics(folder: Path) -> list[Mapping[str, Any]]:
    """The lines of a stage folder's metrics.jsonl, but for one that a kill has cut."""
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def _checkpoints(stage: Path) -> list[Path]:
    """Newest first; what somebody else put there is left alone."""
    found = (stage / "checkpoints").glob("[0-9]*")
    return sorted((p for p in found if p.name.isdecimal() and p.is_dir()), key=lambda p: int(p.name), reverse=True)


def _judges(value: Any) -> list[Judge]:
    """Every judge plugged in anywhere in a stage, those of a panel included."""
    if isinstance(value, Mapping):
        return [judge for item in value.values() for judge in _judges(item)]
    if isinstance(value, tuple):
        return [judge for item in value for judge in _judges(item)]
    here = [value] if isinstance(value, Judge) else []
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return here
    return here + [judge for f in dataclasses.fields(value) if f.init for judge in _judges(getattr(value, f.name))]


def _lock(folder: Path) -> Any:
    """An exclusive lock that the system drops when the process dies, however it dies."""
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
