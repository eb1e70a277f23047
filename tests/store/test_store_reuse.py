"""Finished stages of another run folder: what is taken, what is refused, and that neither folder changes the other."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from tropism.errors import TropismError
from tropism.recipe.read import Recipe
from tropism.store import reuse
from tropism.store.folder import done, latest
from tropism.store.progress import Reporter
from tropism.store.run import run_recipe, status
from tropism.store.work import Work
from tropism.types import ModelRef


@dataclass(frozen=True)
class Wrote:
    """Its result is the text of its input and its own."""

    text: str
    input: ModelRef | None = None

    version: ClassVar[int] = 1
    makes: ClassVar[Literal["model"]] = "model"
    ran: ClassVar[list[str]] = []

    def run(self, work: Work) -> None:
        Wrote.ran.append(work.id)
        work.restore()
        before = Path(self.input, "deep", "text").read_text() if self.input else ""
        (work.out / "deep").mkdir()
        (work.out / "deep" / "text").write_text(before + self.text)
        (work.folder / "learned.npy").write_bytes(b"0")
        work.log(text=self.text)


RECIPE = Recipe("r", 0, {"base": Wrote("b"), "sft": Wrote("s", "base"), "ppo": Wrote("p", "sft")})


def changed(**stages: Wrote) -> Recipe:
    return replace(RECIPE, stages={**RECIPE.stages, **stages})


def run(recipe: Recipe, folder: Path, reused: Path | None = None) -> list[str]:
    """Runs the recipe; the stages that really ran."""
    Wrote.ran.clear()
    run_recipe(recipe, folder, reporter=Reporter(quiet=True), reused=reused)
    return list(Wrote.ran)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    assert run(RECIPE, tmp_path / "old") == ["base", "sft", "ppo"]
    return tmp_path / "old"


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file, its bytes and when it was written."""
    return {
        str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()
    }


def test_what_is_the_same_is_taken_over_and_the_rest_runs(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before = contents(old)
    recipe = changed(ppo=Wrote("q", "sft"))
    assert status(recipe, tmp_path / "new", old) == {"base": "taken over", "sft": "taken over", "ppo": "to do"}
    assert not (tmp_path / "new").exists()
    Wrote.ran.clear()
    run_recipe(recipe, tmp_path / "new", reused=old)
    assert Wrote.ran == ["ppo"] and contents(old) == before
    new, was = latest(tmp_path / "new"), latest(old)
    assert (new["ppo"] / "out" / "deep" / "text").read_text() == "bsq"
    assert capsys.readouterr().err.splitlines() == [
        f"base: taken over from {was['base']}",
        f"sft: taken over from {was['sft']}",
        "ppo: not taken over: text is q and was p",
        "ppo: done in 0 s",
    ]
    for id in ("base", "sft"):
        assert {p: b for p, (b, _) in contents(new[id]).items()} == {p: b for p, (b, _) in contents(was[id]).items()}
    assert status(recipe, tmp_path / "new") == dict.fromkeys(RECIPE.stages, "done")
    assert run(recipe, tmp_path / "new", old) == []


def test_results_are_linked_and_everything_else_is_copied(old: Path, tmp_path: Path) -> None:
    run(RECIPE, tmp_path / "new", old)
    new = latest(tmp_path / "new")["sft"]
    same = {name for name in contents(new) if (new / name).samefile(latest(old)["sft"] / name)}
    assert same == {"out/deep/text"}
    assert set(contents(new)) == {"out/deep/text", "metrics.jsonl", "learned.npy", "stage.json", "DONE"}


def test_where_no_link_can_be_made_results_are_copied(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    assert run(RECIPE, tmp_path / "new", old) == []
    file = latest(tmp_path / "new")["sft"] / "out" / "deep" / "text"
    assert file.read_text() == "bs" and not file.samefile(latest(old)["sft"] / "out" / "deep" / "text")


@pytest.mark.parametrize("again", ["old", "new"])
def test_a_stage_that_runs_again_changes_nothing_in_the_other_folder(old: Path, tmp_path: Path, again: str) -> None:
    run(RECIPE, tmp_path / "new", old)
    other = tmp_path / ("new" if again == "old" else "old")
    before = contents(other)
    (latest(tmp_path / again)["sft"] / "DONE").write_text("torn")
    assert run(RECIPE, tmp_path / again) == ["sft"]
    assert contents(other) == before


def test_removing_the_other_folder_leaves_what_was_taken(old: Path, tmp_path: Path) -> None:
    run(RECIPE, tmp_path / "new", old)
    shutil.rmtree(old)
    assert status(RECIPE, tmp_path / "new") == dict.fromkeys(RECIPE.stages, "done")


def test_another_fingerprint_under_the_same_name_is_not_taken(old: Path, tmp_path: Path) -> None:
    """The name has 8 digits of the fingerprint; all 16 must agree."""
    path = latest(old)["base"]
    assert reuse.find(old, path.name, told(path)["fingerprint"]) == path
    assert reuse.find(old, path.name, told(path)["fingerprint"][:-1] + "x") is None
    assert run(replace(RECIPE, seed=1), tmp_path / "new", old) == ["base", "sft", "ppo"]


def told(path: Path) -> dict[str, Any]:
    return json.loads((path / "stage.json").read_text())


def outside(path: Path) -> None:
    """A file from beside the stage's folder, with the right checksum."""
    listed = json.loads((path / "DONE").read_text())
    listed["files"]["../secret"] = [0, 0]
    (path.parent / "secret").touch()
    (path / "DONE").write_text(json.dumps(listed))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a changed result": lambda path: (path / "out" / "deep" / "text").write_text("xx"),
    "a missing result": lambda path: (path / "out" / "deep" / "text").unlink(),
    "no results": lambda path: shutil.rmtree(path / "out"),
    "a shorter log": lambda path: (path / "metrics.jsonl").write_text(""),
    "a torn stage.json": lambda path: (path / "stage.json").write_text("{"),
    "a torn DONE": lambda path: (path / "DONE").write_text('{"meta"'),
    "a DONE of something else": lambda path: (path / "DONE").write_text("[]"),
    "a file from outside": outside,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_stage_is_refused_in_one_sentence(old: Path, tmp_path: Path, damage: str) -> None:
    path = latest(old)["sft"]
    DAMAGE[damage](path)
    with pytest.raises(TropismError) as caught:
        run(RECIPE, tmp_path / "new", old)
    said = str(caught.value)
    assert said.startswith(f"{path} cannot be taken over, its files were changed or removed since it was done: run")
    assert [p.name.partition("-")[0] for p in (tmp_path / "new").iterdir() if p.is_dir()] == ["base"]
    if damage != "a file from outside":
        with pytest.raises(TropismError, match="cannot be taken over"):
            status(RECIPE, tmp_path / "new", old)


def test_a_folder_that_is_no_other_run_is_refused(old: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for foreign, said in (
        (tmp_path / "none", "is not a run folder"),
        (tmp_path / "empty", "is not a run folder"),
        (tmp_path / "old" / ".." / "old", "is the run folder itself: give another one"),
    ):
        for what in (run, status):
            with pytest.raises(TropismError, match=said):
                what(RECIPE, old, foreign)


class Killed(BaseException):
    """Stands for a kill: nothing after it runs but what a next process does."""


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_while_taking_over_leaves_all_or_nothing(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    rename, before = os.replace, contents(old)

    def killed(source: Any, target: Any) -> None:
        if not Path(target).name.startswith("sft-"):
            return rename(source, target)
        if after:
            rename(source, target)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a kill cleans up nothing
        with pytest.raises(Killed):
            run(RECIPE, tmp_path / "new", old)
    states = list(status(RECIPE, tmp_path / "new").values())
    assert states == ["done", "done" if after else "to do", "to do"]
    left = [p.name for p in (tmp_path / "new").iterdir() if p.name.endswith(".part")]
    assert [name[:5] for name in left] == ([] if after else [".sft-"])
    assert run(RECIPE, tmp_path / "new", old) == [] and contents(old) == before
    assert not [p for p in (tmp_path / "new").iterdir() if p.name.endswith(".part")]


def test_without_reuse_what_a_kill_left_is_removed(old: Path, tmp_path: Path) -> None:
    name = latest(old)["base"].name
    (tmp_path / "new" / f".{name}.part").mkdir(parents=True)
    assert run(RECIPE, tmp_path / "new") == ["base", "sft", "ppo"]
    assert not (tmp_path / "new" / f".{name}.part").exists()


def test_an_unfinished_stage_gives_way_to_a_finished_one(old: Path, tmp_path: Path) -> None:
    name = latest(old)["base"].name
    (tmp_path / "new" / name / "checkpoints" / "00000001").mkdir(parents=True)
    assert status(RECIPE, tmp_path / "new", old)["base"] == "taken over"
    assert run(RECIPE, tmp_path / "new", old) == []
    made = tmp_path / "new" / name
    assert done(made) is not None and not (made / "checkpoints").exists()
