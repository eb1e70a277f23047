"""Killed and continued equals uninterrupted, bit for bit; the same seed twice is the same run, another seed another.

The whole circle in small, and every method behind one reward model, a checkpoint after every step, SIGKILL at random
moments and at known ones: just before and just after a file gets its name, where a run folder is at its most delicate.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tiny_recipe import CIRCLE, COARSE, METHODS, PREFIX, Kill, start, weights
from tropism.store.folder import latest

EVERY_STEP = ("--checkpoint-s", 0)
STAGES = ("tokenizer", "base", "sft", "samples", "rankings", "reward", "ppo", "evaluation")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes started from here
    path = tmp_path_factory.mktemp("resume") / "circle.toml"
    path.write_text(CIRCLE)
    return path


def run(recipe: Path, out: Path, *words: object) -> int | None:
    process = start("run", recipe, "--out", out, "--quiet", *EVERY_STEP, *words)
    process.join(120)
    return process.exitcode


@pytest.fixture(scope="module")
def uninterrupted(recipe: Path) -> Path:
    out = recipe.parent / "uninterrupted"
    assert run(recipe, out) == 0
    assert tuple(latest(out)) == STAGES
    assert set(weights(out)) == {
        f"{latest(out)[id].name}/out/model.safetensors" for id in ("base", "sft", "reward", "ppo")
    }
    return out


def results(out: Path) -> dict[str, bytes]:
    """Every file that a stage has left in its `out`, and its metrics: but not whether samples were found there."""
    kept = [f for path in latest(out).values() for f in (*path.glob("out/**/*"), path / "metrics.jsonl") if f.is_file()]
    return {str(f.relative_to(out)): f.read_bytes().replace(b'"reused": true', b'"reused": false') for f in kept}


def report(out: Path) -> dict[str, Any]:
    """The report, seconds apart."""
    return {**json.loads((out / "report.json").read_text("utf-8")), "seconds": None}


def differing(a: Path, b: Path) -> list[str]:
    ours, theirs = results(a), results(b)
    assert ours.keys() == theirs.keys()
    return [name for name in ours if ours[name] != theirs[name]]


def assert_equal(out: Path, whole: Path) -> None:
    assert tuple(latest(out)) == tuple(latest(whole))
    assert differing(out, whole) == []
    assert report(out) == report(whole)
    assert not list(out.rglob("*.part")) and not list(out.glob("*/checkpoints"))


def test_the_same_seed_twice(recipe: Path, uninterrupted: Path, tmp_path: Path) -> None:
    """Nor does it matter how often a checkpoint is written."""
    process = start("run", recipe, "--out", tmp_path / "again", "--quiet")
    process.join(120)
    assert process.exitcode == 0
    assert_equal(tmp_path / "again", uninterrupted)


def test_another_seed(recipe: Path, uninterrupted: Path, tmp_path: Path) -> None:
    assert run(recipe, tmp_path / "other", "--set", "seed=1") == 0
    ours, theirs = weights(tmp_path / "other"), weights(uninterrupted)
    assert len(ours) == len(theirs) == 4
    assert not set(ours) & set(theirs) and not set(ours.values()) & set(theirs.values())
    assert report(tmp_path / "other") != report(uninterrupted)


def test_killed_at_random_moments(recipe: Path, uninterrupted: Path, tmp_path: Path) -> None:
    """Five kills, each somewhere in what is left of the run; then it is let finish."""
    seconds = json.loads((uninterrupted / "report.json").read_text("utf-8"))["seconds"]
    left = sum(seconds.values()) + 1.0
    rng, out = random.Random(0), tmp_path / "killed"
    assert sum(killed(recipe, out, rng.uniform(0.05, left / 3)) for _ in range(5)) >= 2
    assert run(recipe, out) == 0
    assert_equal(out, uninterrupted)


def test_killed_between_checkpoints_in_every_stage_that_makes_them(
    recipe: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """Each process gets two checkpoints further; every third time the newest one is torn as well."""
    out, rng, hit = tmp_path / "killed", random.Random(1), []
    for attempt in range(30):
        at = Kill(2, after=True, checkpoint=True) if attempt % 2 else Kill(3, after=False, checkpoint=True)
        process = start("run", recipe, "--out", out, "--quiet", *EVERY_STEP, kill=at)
        process.join(120)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        hit += [folder.parent.name.split("-")[0] for folder in out.glob("*/checkpoints")]
        if attempt % 3 == 2:
            tear(out, rng)
    assert process.exitcode == 0
    assert set(hit) == {"base", "sft", "samples", "reward", "ppo", "evaluation"}
    assert_equal(out, uninterrupted)


def test_killed_where_a_file_gets_its_name(recipe: Path, uninterrupted: Path, tmp_path: Path) -> None:
    """Killed at a rename behind the stages that are done: markers, manifests, what the folder says of itself."""
    out, rng, kills = tmp_path / "killed", random.Random(1), 0
    for attempt in range(8):
        behind = len(list(out.glob("*/DONE")))  # a stage that is done is one rename: its entry in recipe.json
        process = start("run", recipe, "--out", out, "--quiet", kill=Kill(behind + rng.randint(1, 9), attempt % 2 == 0))
        process.join(120)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert kills >= 4
    assert run(recipe, out) == 0
    assert_equal(out, uninterrupted)


def killed(recipe: Path, out: Path, seconds: float) -> bool:
    """Runs the recipe and kills it after some seconds, if it has not finished by then."""
    process = start("run", recipe, "--out", out, "--quiet", *EVERY_STEP)
    while not (out / ".lock").exists() and process.is_alive():  # it has begun
        time.sleep(0.002)
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode == -signal.SIGKILL


@pytest.fixture(scope="module")
def prefix(recipe: Path) -> Path:
    """A run folder with everything up to the reward model."""
    (recipe.parent / "coarse.py").write_text(COARSE)
    path, out = recipe.parent / "prefix.toml", recipe.parent / "prefix"
    path.write_text('name = "methods"\n' + PREFIX)
    assert run(path, out) == 0
    return out


def methods(prefix: Path, *names: str) -> tuple[Path, Path]:
    """A recipe with these methods behind the reward model, and the folder of its uninterrupted run."""
    path = prefix.with_name("-".join(names) + ".toml")
    if not path.exists():
        path.write_text('name = "methods"\n' + PREFIX + "".join(METHODS[name] for name in names))
    out = path.with_suffix(".whole")
    if not out.exists():
        shutil.copytree(prefix, out)
        assert run(path, out) == 0
    return path, out


def test_killed_between_checkpoints_in_every_method(prefix: Path, tmp_path: Path) -> None:
    """Controllers, running scales, refills, budgets, probes, filtered samples: all of it stands in a checkpoint."""
    path, whole = methods(prefix, *METHODS)
    metrics = {name: (latest(whole)[name] / "metrics.jsonl").read_text("utf-8") for name in METHODS}
    assert all("by_prompt" in text for text in metrics.values())
    coefficients = [json.loads(line).get("kl_coefficient", 0.0) for line in metrics["ppo"].splitlines()]
    assert len(set(coefficients)) == 5  # the controller moves
    out, rng, hit = tmp_path / "killed", random.Random(2), []
    shutil.copytree(prefix, out)
    for attempt in range(30):
        at = Kill(2, after=True, checkpoint=True) if attempt % 2 else Kill(3, after=False, checkpoint=True)
        process = start("run", path, "--out", out, "--quiet", *EVERY_STEP, kill=at)
        process.join(120)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        hit += [folder.parent.name.split("-")[0] for folder in out.glob("*/checkpoints")]
        if attempt % 4 == 3:
            tear(out, rng)
    assert process.exitcode == 0
    assert set(hit) == set(METHODS)
    assert_equal(out, whole)


@pytest.mark.long
@pytest.mark.parametrize("name", METHODS)
def test_a_method_killed_at_random_moments(prefix: Path, tmp_path: Path, name: str) -> None:
    """Three runs of it: each process is killed a random moment after its first checkpoint."""
    path, whole = methods(prefix, name)
    rng, kills = random.Random(name), 0
    for number in range(3):
        out = tmp_path / f"killed{number}"
        shutil.copytree(prefix, out)
        while True:
            before = checkpoints(out)
            process = start("run", path, "--out", out, "--quiet", *EVERY_STEP)
            while process.is_alive() and checkpoints(out) <= before:
                time.sleep(0.001)
            process.join(rng.uniform(0.0, 0.02))
            process.kill()
            process.join()
            if process.exitcode == 0:
                break
            assert process.exitcode == -signal.SIGKILL
            kills += 1
        assert_equal(out, whole)
    assert kills >= 3


def checkpoints(out: Path) -> set[str]:
    return {str(path) for path in out.glob("*/checkpoints/[0-9]*")}


def tear(out: Path, rng: random.Random) -> None:
    """Cuts the newest checkpoint's file in two, as a machine that loses its power may."""
    for folder in sorted(out.glob("*/checkpoints"), key=lambda p: p.stat().st_mtime_ns, reverse=True)[:1]:
        for checkpoint in sorted(folder.glob("[0-9]*"))[-1:]:
            file = rng.choice([f for f in sorted(checkpoint.iterdir()) if f.is_file()])
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
