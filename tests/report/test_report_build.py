"""report.json of hand-made run folders: its keys, what is missing, what may differ between two runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from report_runs import BOOK, FACTS, evaluation, figure, finish, make_run, plan

from tropism.errors import TropismError
from tropism.report.build import build, write
from tropism.store import files

STAGES = ["tokenizer", "base", "sft", "samples", "rankings", "reward", "ppo", "evaluation"]


def test_a_whole_run_has_exactly_the_schema(tmp_path: Path) -> None:
    report = build(make_run(tmp_path))
    found = evaluation(figure(0.71, 0.07))
    assert list(report) == ["recipe", "verdict", "seconds", "models", "reward_model", "base_completes", "stages"]
    assert report["recipe"] == "first"
    assert list(report["seconds"]) == STAGES
    assert report["seconds"]["ppo"] == 61.5
    assert report["models"] == found["models"]
    assert report["models"]["ppo"]["win_over_sft"] == {"value": 0.71, "low": 0.64, "high": 0.78}
    assert report["reward_model"] == found["reward_model"]
    assert report["base_completes"] == {"value": 0.94, "low": 0.92, "high": 0.96}
    assert report["stages"]["base"] == {"kind": "pretrain", "facts": FACTS["base"]}
    assert [s["kind"] for s in report["stages"].values()][-2:] == ["rl", "evaluate"]


def test_write_returns_what_it_wrote(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    report = write(folder)
    assert json.loads((folder / "report.json").read_text("utf-8")) == report == build(folder)
    assert (folder / "report.html").read_text("utf-8").startswith("<!DOCTYPE html>")
    assert not list(folder.glob(".*.part"))


def test_an_unfinished_run_reports_its_finished_stages(tmp_path: Path) -> None:
    plan(tmp_path)
    finish(tmp_path, "tokenizer", data={"kind": BOOK})
    (tmp_path / "base-0123abcd" / "out").mkdir(parents=True)  # begun, not done
    report = write(tmp_path)
    assert report == {
        "recipe": "first",
        "verdict": ["No verdict yet: 1 of 8 stages are finished (tokenizer)."],
        "seconds": {"tokenizer": 1.5},
        "models": {},
        "stages": {"tokenizer": {"kind": "tokenizer", "facts": {"vocabulary": 512, "bytes_per_token": 2.077}}},
    }


def test_a_torn_stage_is_left_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    file = folder / "ppo-0123abcd" / "metrics.jsonl"
    file.write_text(file.read_text()[:100])
    report = write(folder)
    assert "ppo" not in report["stages"]
    assert "ppo" not in report["seconds"]


def test_an_evaluation_without_a_reference_leaves_exact_match_out(tmp_path: Path) -> None:
    plan(tmp_path)
    models = {"sft": {"n": 50, "stop_rate": figure(0.4)}, "ppo": {"n": 50, "stop_rate": figure(0.9)}}
    finish(tmp_path, "evaluation", found={"over": "sft", "models": models, "answers": []})
    report = write(tmp_path)
    assert report["models"] == models
    assert not {"reward_model", "base_completes"} & report.keys()


def test_what_is_not_a_number_is_left_out_so_that_the_file_is_json(tmp_path: Path) -> None:
    plan(tmp_path)
    found = {
        "over": "sft",
        "models": {"sft": {"n": 1, "chrf": dict.fromkeys(("value", "low", "high"), math.nan)}},
        "answers": [],
    }
    finish(tmp_path, "evaluation", found=found)
    write(tmp_path)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    report = json.loads((tmp_path / "report.json").read_text("utf-8"), parse_constant=refuse)
    assert report["models"] == {"sft": {"n": 1}}


def test_a_stage_from_outside_the_package_keeps_its_kind(tmp_path: Path) -> None:
    files.write_json(
        tmp_path / "recipe.json",
        {"name": "mine", "seed": 0, "stages": {"filter": {}}, "folders": {"filter": "filter-89abcdef"}},
    )
    stage = tmp_path / "filter-89abcdef"
    (stage / "out").mkdir(parents=True)
    files.write_json(stage / "stage.json", {"id": "filter", "fields": {"kind": "my_package.clean:Filter"}})
    files.seal(stage, {"seconds": 2.0, "facts": {}}, "DONE")
    assert build(tmp_path)["stages"] == {"filter": {"kind": "my_package.clean:Filter", "facts": {}}}


def test_only_the_seconds_of_two_runs_differ(tmp_path: Path) -> None:
    one, two = make_run(tmp_path, name="one"), make_run(tmp_path, name="two")
    slower = two / "ppo-0123abcd"
    files.seal(slower, {"seconds": 99.0, "facts": dict(FACTS["ppo"])}, "DONE")
    first, second = write(one), write(two)
    assert first["seconds"] != second["seconds"]
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert str(one) not in json.dumps(first)
    before = [(one / name).read_bytes() for name in ("report.json", "report.html")]
    write(one)
    assert [(one / name).read_bytes() for name in ("report.json", "report.html")] == before


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TropismError, match="not a run folder"):
        build(tmp_path)
