"""`tropism compare`: two methods with two seeds each and a search, from a recipe to the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tiny_recipe import CIRCLE, LEARNED, PREFIX, QUALITY, Said, rl, tropism
from tropism.store.folder import latest

SEARCH = f"""
[[stage]]
id = "best_of_n"
kind = "best_of_n"
policy = "sft"
prompts = {{ kind = "phrasebook", part = "held_out", count = 3 }}
judge = {LEARNED}
truth = {QUALITY}
sampling = {{ n = 3, max_tokens = 8 }}
"""
METHODS = rl("ppo", '{ kind = "ppo" }', "seeds = 2") + rl("rloo", '{ kind = "rloo" }', "seeds = 2")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Said]:
    """The folder with the recipe and its run, and what the command said."""
    folder = tmp_path_factory.mktemp("compare")
    (folder / "tiny.toml").write_text(PREFIX + METHODS + SEARCH)
    said = tropism("compare", folder / "tiny.toml", "--out", folder / "run", "--set", "ppo.optim.lr=0.02")
    assert said.code == 0, said.err
    return folder, said


def test_it_runs_the_recipe_and_prints_both_tables(made: tuple[Path, Said]) -> None:
    folder, said = made
    lines = said.out.splitlines()
    kl, spent = (
        next(i for i, line in enumerate(lines) if text in line) for text in ("nats of KL", "tokens through models")
    )
    assert sorted(line.split()[0] for line in lines[kl + 2 : kl + 5]) == ["best_of_n", "ppo", "rloo"]
    assert sorted(line.split()[0] for line in lines[spent + 2 : spent + 4]) == ["ppo", "rloo"]
    assert any(line.startswith("At equal compute ") for line in lines)
    assert lines[-1] == f"the report:      {folder / 'run' / 'report.html'}"


def test_seeds_are_runs_of_their_own(made: tuple[Path, Said]) -> None:
    stages = latest(made[0] / "run")
    assert list(stages)[6:] == ["ppo-1", "ppo-2", "rloo-1", "rloo-2", "best_of_n"]
    records = {id: json.loads((stages[id] / "stage.json").read_text("utf-8")) for id in ("ppo-1", "ppo-2")}
    assert [r["fields"]["optim"]["lr"] for r in records.values()] == [0.02, 0.02]
    one, two = records.values()
    assert one["fields"] == two["fields"] and one["inputs"] == two["inputs"]
    assert one["seed"] != two["seed"] and one["fingerprint"] != two["fingerprint"]
    weights = [(stages[id] / "out" / "model.safetensors").read_bytes() for id in records]
    assert weights[0] != weights[1]
    looks = [(stages[id] / "metrics.jsonl").read_text("utf-8").splitlines()[0] for id in records]
    assert looks[0] == looks[1]  # the first is at the same policy with the same random numbers


def test_json_is_json_and_is_the_report_s(made: tuple[Path, Said]) -> None:
    said = tropism("compare", made[0] / "run", "--json")
    assert (said.code, said.err) == (0, "")
    found = json.loads(said.out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert found == json.loads((made[0] / "run" / "report.json").read_text("utf-8"))["comparison"]
    assert {name: m["seeds"] for name, m in found["methods"].items()} == {"ppo": 2, "rloo": 2, "best_of_n": 1}
    assert found["start"]["prompts"] == 3
    assert found["left_out"] == found["other_reward"] == []
    every_400 = [len(m["curve"]) for m in found["methods"].values()]
    assert min(every_400[:2]) >= 2 and every_400[2] == 3


def test_the_report_has_the_section(made: tuple[Path, Said]) -> None:
    text = (made[0] / "run" / "report.html").read_text("utf-8")
    assert "<h2>The methods compared</h2>" in text
    assert "<script" not in text and "<link" not in text and "src=" not in text and "href=" not in text
    assert text.count('class="band s0"') == 3 + 3 + 2


def test_a_run_folder_is_not_run_again(made: tuple[Path, Said]) -> None:
    before = {p: p.stat().st_mtime_ns for p in (made[0] / "run").rglob("DONE")}
    said = tropism("compare", made[0] / "run", "--quiet")
    assert said.code == 0 and "At equal compute" in said.out and "the report:" not in said.out
    assert {p: p.stat().st_mtime_ns for p in (made[0] / "run").rglob("DONE")} == before


def test_a_run_folder_takes_no_changes(made: tuple[Path, Said]) -> None:
    said = tropism("compare", made[0] / "run", "--set", "ppo.rounds=9")
    assert (
        said.code == 2 and "is a run folder, which --set, --out and --reuse do not change: give its recipe" in said.err
    )


def test_a_run_without_probes_is_one_sentence(made: tuple[Path, Said], tmp_path: Path) -> None:
    run = shutil.copytree(made[0] / "run", tmp_path / "run")
    for path in run.glob("rloo-*"):
        shutil.rmtree(path)
    for path in run.glob("best_of_n-*"):
        shutil.rmtree(path)
    said = tropism("compare", run)
    assert (said.code, said.out) == (2, "")
    expected = (
        f"tropism: {run} has no two methods to compare: give two stages the same start and `probe`, with a `truth`\n"
    )
    assert said.err == expected


def test_what_is_neither_recipe_nor_run_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for what in (tmp_path / "nothing", tmp_path / "empty"):
        said = tropism("compare", what)
        assert said.code == 2 and said.err.startswith("tropism: ") and said.err.count("\n") == 1


def test_a_recipe_without_probes_is_refused_before_it_is_run(tmp_path: Path) -> None:
    (tmp_path / "circle.toml").write_text(CIRCLE)
    said = tropism("compare", tmp_path / "circle.toml", "--out", tmp_path / "run", "--quiet")
    assert said.code == 2 and "has no two methods to compare" in said.err
    assert not (tmp_path / "run").exists()
