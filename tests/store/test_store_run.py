"""Skip, continue, fall back: a run folder after kills, torn files, a full disk and a changed recipe."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from tropism.errors import TropismError
from tropism.protocols import Judge
from tropism.recipe.read import Recipe
from tropism.store import files
from tropism.store.folder import done, latest, makes, read_metrics, read_stage
from tropism.store.progress import Reporter
from tropism.store.run import Run, run_recipe, stage_seed, status
from tropism.store.work import Work
from tropism.types import Group, Judgment, ModelRef


class Stopped(Exception):
    """Stands for a kill at a known step."""


@dataclass(frozen=True)
class Chain:
    """A number that each step makes from the last: a stage that continues wrongly ends in another number."""

    input: ModelRef | None = None
    steps: int = 6
    save_bytes: int = 10
    name: str = ""

    version: ClassVar[int] = 1
    makes: ClassVar[Literal["model"]] = "model"
    stop_at: ClassVar[int] = 0
    began: ClassVar[list[str]] = []

    def run(self, work: Work) -> None:
        Chain.began.append(work.id)
        step, value = 0, work.seed + len(Path(self.input, "value").read_text() if self.input else "")
        if found := work.restore():
            step, value = found[0], int((found[1] / "value").read_text())
        while step < self.steps:
            step, value = step + 1, (value * 1_000_003 + step) % 2**61
            work.log(step=step, value=value)
            work.facts["last"] = step
            if work.due():
                work.save(step, lambda folder: self._write(folder, value))
            if step == Chain.stop_at:
                raise Stopped
        self._write(work.out, value)

    def _write(self, folder: Path, value: int) -> None:
        (folder / "value").write_text(f"{value}")
        (folder / "rest").write_bytes(b"x" * self.save_bytes)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Chain, "stop_at", 0)
    monkeypatch.setattr(Chain, "began", [])


QUIET = Reporter(quiet=True)


def once(folder: Path, stage: Chain, stop_at: int = 0, id: str = "chain") -> Path:
    """Runs the stage in `folder`, with a checkpoint after every step; the stage's folder."""
    Chain.stop_at = stop_at
    with Run(folder, checkpoint_s=0, reporter=QUIET) as run, contextlib.suppress(Stopped):
        run(stage, id)
    Chain.stop_at = 0
    return next(folder.glob(f"{id}-*"))


def value(stage_folder: Path) -> str:
    return (stage_folder / "out" / "value").read_text()


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_stage_leaves_what_the_design_says(tmp_path: Path) -> None:
    folder = once(tmp_path, Chain(steps=2))
    assert names(folder) == ["DONE", "metrics.jsonl", "out", "stage.json"]
    told = json.loads((folder / "stage.json").read_text())
    assert (told["id"], told["version"], told["fields"]["steps"], told["inputs"]) == ("chain", 1, 2, {})
    assert told["makes"] == makes(told) == "model"
    assert told["seed"] == stage_seed(0, "chain") and folder.name == f"chain-{told['fingerprint'][:8]}"
    meta = done(folder)
    assert meta is not None and meta["facts"] == {"last": 2} and meta["seconds"] >= 0
    assert [m["step"] for m in read_metrics(folder)] == [1, 2]


def test_what_an_older_stage_made_is_asked_of_its_kind() -> None:
    """stage.json once did not say it. Code from outside is not run to learn it."""
    for kind, made in (("sft:SFT", "policy"), ("pretrain:Pretrain", "base"), ("reward:Reward", "scorer")):
        assert makes({"fields": {"kind": f"tropism.stages.{kind}"}}) == made
    assert makes({"fields": {"kind": "tropism.stages.sft:SFT"}, "makes": "base"}) == "base"
    assert makes({"fields": {"kind": "somewhere_else:Stage"}}) == ""


def test_each_id_has_its_own_seed() -> None:
    seeds = {stage_seed(seed, id) for seed in (0, 1) for id in ("a", "b", "c")}
    assert len(seeds) == 6 and all(0 <= s < 2**32 for s in seeds)


def test_done_is_skipped(tmp_path: Path) -> None:
    first = value(once(tmp_path, Chain()))
    assert value(once(tmp_path, Chain())) == first
    assert Chain.began == ["chain"]


@pytest.mark.parametrize("stop_at", [1, 3, 6])
def test_a_stage_continues_where_it_stopped(tmp_path: Path, stop_at: int) -> None:
    whole = once(tmp_path / "whole", Chain())
    cut = once(tmp_path / "cut", Chain(), stop_at)
    assert done(cut) is None and names(cut / "out") == []
    assert once(tmp_path / "cut", Chain()) == cut
    assert value(cut) == value(whole)
    assert (cut / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    folder = once(tmp_path, Chain(), stop_at=5)
    assert names(folder / "checkpoints") == ["00000004", "00000005"]


@pytest.mark.parametrize("torn", ["value", "manifest.json"])
def test_a_torn_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, torn: str) -> None:
    whole = once(tmp_path / "whole", Chain())
    cut = once(tmp_path / "cut", Chain(), stop_at=5)
    file = cut / "checkpoints" / "00000005" / torn
    file.write_bytes(file.read_bytes()[:-1])
    with (cut / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 6, "val')  # and a line that the kill cut
    once(tmp_path / "cut", Chain(), stop_at=6)
    assert [m["step"] for m in read_metrics(cut)] == [1, 2, 3, 4, 5, 6]  # cut back to step 4, not to step 5
    once(tmp_path / "cut", Chain())
    assert value(cut) == value(whole)
    assert (cut / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_when_all_checkpoints_are_torn_it_begins_afresh(tmp_path: Path) -> None:
    whole = once(tmp_path / "whole", Chain())
    cut = once(tmp_path / "cut", Chain(), stop_at=5)
    for file in cut.glob("checkpoints/*/value"):
        file.write_text("1")
    once(tmp_path / "cut", Chain())
    assert value(cut) == value(whole)
    assert (cut / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_metrics_that_lost_their_end_are_cut_to_whole_lines(tmp_path: Path) -> None:
    cut = once(tmp_path, Chain(), stop_at=4)
    text = (cut / "metrics.jsonl").read_bytes()
    (cut / "metrics.jsonl").write_bytes(text[: len(text) // 2])
    once(tmp_path, Chain())
    steps = [m["step"] for m in read_metrics(cut)]  # every line can be read
    assert steps[-2:] == [5, 6] and set(steps) < {1, 2, 3, 4, 5, 6}


def test_what_a_killed_save_left_is_removed(tmp_path: Path) -> None:
    cut = once(tmp_path, Chain(), stop_at=3)
    rest = cut / "checkpoints" / ".00000009.part"
    rest.mkdir()
    (rest / "value").write_text("1")
    folder = once(tmp_path, Chain(), stop_at=5)
    assert not rest.exists() and names(folder / "checkpoints") == ["00000004", "00000005"]


@pytest.mark.parametrize("torn", ["out/value", "metrics.jsonl", "stage.json", "DONE"])
def test_a_torn_result_makes_the_stage_run_again(tmp_path: Path, torn: str) -> None:
    folder = once(tmp_path, Chain())
    first = value(folder)
    file = folder / torn
    file.write_bytes(file.read_bytes()[:-3])
    once(tmp_path, Chain(), stop_at=2)
    assert not (folder / "DONE").exists()  # once it has begun again it is not finished
    once(tmp_path, Chain())
    assert Chain.began == ["chain", "chain", "chain"]
    assert value(folder) == first and [m["step"] for m in read_metrics(folder)] == [1, 2, 3, 4, 5, 6]
    assert done(folder) is not None


def test_a_kill_while_the_marker_is_written_does_not_spoil_the_next_marker(tmp_path: Path) -> None:
    folder = once(tmp_path, Chain(), stop_at=6)
    (folder / ".DONE.part").write_text('{"meta"')
    once(tmp_path, Chain())
    assert done(folder) is not None


def recipe(seed: int = 0, **changes: Chain) -> Recipe:
    stages = {"a": Chain(), "b": Chain("a"), "c": Chain("a"), "d": Chain("b"), **changes}
    return Recipe("r", seed, stages)


def test_a_changed_knob_runs_only_what_depends_on_it(tmp_path: Path) -> None:
    def ran(made: Recipe) -> list[str]:
        Chain.began.clear()
        run_recipe(made, tmp_path, reporter=QUIET)
        return list(Chain.began)

    assert ran(recipe()) == ["a", "b", "c", "d"]
    assert ran(recipe()) == []
    assert ran(recipe(b=Chain("a", steps=7))) == ["b", "d"]
    assert ran(recipe(d=Chain("b", name="x"))) == ["d"]
    assert ran(recipe(a=Chain(name="x"))) == ["a", "b", "c", "d"]
    assert ran(recipe(seed=1)) == ["a", "b", "c", "d"]
    assert ran(recipe()) == []  # what was made before is still there


def test_status_says_what_would_run(tmp_path: Path) -> None:
    assert status(recipe(), tmp_path / "none") == dict.fromkeys("abcd", "to do")
    Chain.stop_at = 6
    with pytest.raises(Stopped):
        run_recipe(recipe(b=Chain("a", steps=9), a=Chain(steps=5)), tmp_path, 0, QUIET)
    made = recipe(b=Chain("a", steps=9), a=Chain(steps=5))
    assert status(made, tmp_path) == {"a": "done", "b": "continues", "c": "to do", "d": "to do"}
    said = json.loads((tmp_path / "recipe.json").read_text())
    assert list(said["stages"]) == ["a", "b", "c", "d"] and list(said["folders"]) == ["a", "b"]
    assert status(replace(made, seed=1), tmp_path) == dict.fromkeys("abcd", "to do")
    assert not (tmp_path / "none").exists()


def test_latest_is_what_was_in_use_last(tmp_path: Path) -> None:
    other = recipe(b=Chain("a", steps=7))
    run_recipe(recipe(), tmp_path, reporter=QUIET)
    first = latest(tmp_path)
    run_recipe(other, tmp_path, reporter=QUIET)
    second = latest(tmp_path)
    assert list(first) == list(second) == ["a", "b", "c", "d"]
    assert {id for id in first if first[id] != second[id]} == {"b", "d"}
    run_recipe(recipe(), tmp_path, reporter=QUIET)  # everything is skipped
    assert latest(tmp_path) == first


def test_latest_never_mixes_two_chains(tmp_path: Path) -> None:
    run_recipe(recipe(), tmp_path, reporter=QUIET)
    Chain.stop_at = 7
    with pytest.raises(Stopped):
        run_recipe(recipe(a=Chain(name="x"), c=Chain("a", steps=8)), tmp_path, reporter=QUIET)
    assert list(latest(tmp_path)) == ["a", "b"]  # the old c and d were made from another a


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TropismError, match="is not a run folder: give one that `tropism run` has made"):
        latest(tmp_path)


def test_a_stage_that_makes_something_else_is_refused(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Groups(Chain):
        makes: ClassVar[Literal["groups"]] = "groups"  # type: ignore[assignment]

    with Run(tmp_path, reporter=QUIET) as run:
        run(Groups(), "samples")
        with pytest.raises(TropismError, match="chain.input names 'samples', which makes groups, not a model"):
            run(Chain("samples"), "chain")


def test_from_python_a_result_is_the_input_of_the_next_stage(tmp_path: Path) -> None:
    with Run(tmp_path, reporter=QUIET) as run:
        out = run(Chain())
        assert out.parent.name.startswith("test_store_run-")  # by default the id is the kind
        second = run(Chain(out), "second")  # type: ignore[arg-type]  # a Path, as run() returns it
        again = run(Chain(out), "second")  # type: ignore[arg-type]
    assert second == again and (second / "value").exists()
    assert Chain.began == ["test_store_run", "second"]


def test_another_process_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with Run(tmp_path, reporter=QUIET):
        with pytest.raises(TropismError) as caught:
            Run(tmp_path)
        assert f"{tmp_path} is in use by another process (number {os.getpid()}): wait for it" in str(caught.value)
    Run(tmp_path).close()


HOLD = """
import sys, time
from tropism.store.run import Run
run = Run(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


def test_a_killed_process_frees_its_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(TropismError, match=f"in use by another process \\(number {holder.pid}\\)"):
            Run(tmp_path)
    finally:
        holder.kill()  # SIGKILL
        holder.communicate()
    Run(tmp_path).close()


@contextlib.contextmanager
def mounted(disk: Path) -> Iterator[Callable[[], None]]:
    """A disk of 128 KiB; call what is yielded to give it room."""
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o"]
    if os.geteuid() or subprocess.run([*mount, "size=128k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("a small disk can be mounted only by root with the right to mount")
    try:
        yield lambda: subprocess.run([*mount, "remount,size=4m", "tmpfs", str(disk)], check=True) and None
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@contextlib.contextmanager
def limited(disk: Path) -> Iterator[Callable[[], None]]:
    """No file above 30 KiB: the system's own refusal, for those who are not root."""
    disk.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30 * 1024, before[1]))
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("small", [mounted, limited])
def test_a_full_disk_loses_nothing(tmp_path: Path, small: Callable[..., contextlib.AbstractContextManager]) -> None:
    whole = once(tmp_path / "whole", Chain())
    with small(tmp_path / "disk") as make_room:
        cut = once(tmp_path / "disk" / "run", Chain(), stop_at=2)

        def write(self: Chain, folder: Path, value: int, old: Callable[..., None] = Chain._write) -> None:
            old(self, folder, value)
            (folder / "large").write_bytes(b"x" * 50_000)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Chain, "_write", write)
            with pytest.raises(TropismError) as caught, Run(cut.parent, checkpoint_s=0, reporter=QUIET) as run:
                run(Chain(), "chain")
            assert "the disk is full while writing" in str(caught.value) and "\n" not in str(caught.value)
            kept = names(cut / "checkpoints")
            assert kept and not any(name.endswith(".part") for name in kept)
            make_room()
            once(cut.parent, Chain())
        assert value(cut) == value(whole)
        assert (cut / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
        assert done(cut) is not None


def test_seconds_count_the_tries_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once(tmp_path, Chain(), stop_at=3)
    manifest = next(tmp_path.glob("*/checkpoints/00000003/manifest.json"))
    told = json.loads(manifest.read_text())
    told["meta"]["seconds"] = 1000.0
    manifest.write_text(json.dumps(told))
    began = time.monotonic()
    meta = done(once(tmp_path, Chain()))
    assert meta is not None and 1000 <= meta["seconds"] <= 1000.1 + time.monotonic() - began


@dataclass(frozen=True)
class Unsure:
    """A judge that fails on every other thing it is asked, and says so."""

    skipped: list[str] = field(init=False, repr=False, compare=False, default_factory=list)

    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        self.skipped.append("\x1b[31mred")
        return []


@dataclass(frozen=True)
class Asking(Chain):
    judges: tuple[Judge, ...] = (Unsure(),)

    def run(self, work: Work) -> None:
        found = work.restore()
        for step in range(found[0] + 1 if found else 1, 7):
            self.judges[0].judge(())
            work.log(step=step)
            work.save(step, lambda folder: None)
            if step == Chain.stop_at:
                raise Stopped


def test_what_judges_fail_on_is_counted_once_also_after_a_kill(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def facts(folder: Path, *stops: int) -> dict[str, object]:
        for stop in stops:
            once(folder, Asking(judges=(Unsure(),)), stop)
        with Run(folder, checkpoint_s=0) as run:
            run(Asking(judges=(Unsure(),)), "chain")
        return (done(next(folder.glob("chain-*"))) or {})["facts"]

    whole = facts(tmp_path / "whole")
    assert whole == {"judge_errors": 6}
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "chain: a completion has no score: [31mred"  # and no red
    assert said[1] == "chain: 6 completions have no score, because the judge failed on them"
    assert facts(tmp_path / "cut", 2, 5) == whole


JUNK = {
    "a folder of somebody else": lambda at: (at / "5abc").mkdir(),
    "a file with a number": lambda at: (at / "00000009").write_text("x"),
    "a note": lambda at: (at / "00000009.txt").write_text("x"),
    "an empty folder with a number": lambda at: (at / "00000009").mkdir(),
    "a manifest that says nothing": lambda at: files.write_folder(at / "00000009", lambda folder: None, {}),
    "a manifest of another program": lambda at: ((at / "9").mkdir(), (at / "9" / "manifest.json").write_text("[]")),
    "a file that a killed writer left": lambda at: (at / ".00000009.part").write_text("x"),
}


@pytest.mark.parametrize("junk", JUNK)
def test_junk_among_the_checkpoints_costs_nothing(tmp_path: Path, junk: str) -> None:
    whole = once(tmp_path / "whole", Chain())
    cut = once(tmp_path / "cut", Chain(), stop_at=4)
    JUNK[junk](cut / "checkpoints")
    assert status(Recipe("r", 0, {"chain": Chain()}), tmp_path / "cut") == {"chain": "continues"}
    once(tmp_path / "cut", Chain())
    assert value(cut) == value(whole) and Chain.began == ["chain"] * 3
    assert (cut / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("place", ["out", "checkpoints", "DONE"])
def test_a_file_or_folder_of_the_wrong_kind_inside_a_stage_is_made_anew(tmp_path: Path, place: str) -> None:
    whole = once(tmp_path / "whole", Chain())
    cut = once(tmp_path / "cut", Chain(), stop_at=1)
    files.remove(cut / place)
    (cut / place).mkdir() if place == "DONE" else (cut / place).write_text("x")
    once(tmp_path / "cut", Chain())
    assert value(cut) == value(whole) and done(cut) is not None


def test_a_file_where_a_stage_should_be_is_one_sentence(tmp_path: Path) -> None:
    folder = once(tmp_path, Chain())
    files.remove(folder)
    folder.write_text("mine")
    with pytest.raises(TropismError, match=r"chain-\w+ cannot be written \(File exists\): choose another --out"):
        once(tmp_path, Chain())
    assert folder.read_text() == "mine"


@pytest.mark.parametrize("gone", ["the run", "the stage"])
def test_a_folder_that_vanishes_in_the_middle_is_one_sentence(tmp_path: Path, gone: str) -> None:
    @dataclass(frozen=True)
    class Losing(Chain):
        def run(self, work: Work) -> None:
            shutil.rmtree(tmp_path / "run" if gone == "the run" else work.folder)
            work.log(step=1)

    with Run(tmp_path / "run", reporter=QUIET) as run:
        with pytest.raises(TropismError, match=r"cannot be written \(No such file or directory\)"):
            run(Losing())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"folders": []}', '{"stages": {}, "folders": {}', "[" * 100_000])
def test_a_damaged_recipe_json_is_said_and_mended_by_the_same_command(tmp_path: Path, content: str) -> None:
    run_recipe(recipe(), tmp_path, reporter=QUIET)
    before = (tmp_path / "recipe.json").read_text()
    (tmp_path / "recipe.json").write_text(content)
    with pytest.raises(TropismError) as caught:
        latest(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'recipe.json'} is damaged: `tropism run` the recipe again with --out {tmp_path}, which writes "
        "the file again and skips what is done"
    )
    Chain.began.clear()
    run_recipe(recipe(), tmp_path, reporter=QUIET)
    assert (tmp_path / "recipe.json").read_text() == before and Chain.began == []


def test_a_file_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(TropismError, match="file is not a run folder: give one that `tropism run` has made"):
        latest(tmp_path / "file")
    with pytest.raises(TropismError, match=r"file cannot be written \(File exists\): choose another --out"):
        Run(tmp_path / "file")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"fields": 1}', '{"id": "x"}'])
def test_a_torn_stage_json_is_no_stage(tmp_path: Path, content: str) -> None:
    folder = once(tmp_path, Chain())
    assert (read_stage(folder) or {})["id"] == "chain"
    (folder / "stage.json").write_text(content)
    assert read_stage(folder) is None and done(folder) is None
    (folder / "stage.json").unlink()
    assert read_stage(folder) is None


def test_a_line_of_metrics_that_a_kill_has_cut_is_left_out(tmp_path: Path) -> None:
    folder = once(tmp_path, Chain(steps=3))
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write('{"step": 4, "note": "é'.encode()[:-1])
    assert [m["step"] for m in read_metrics(folder)] == [1, 2, 3]
