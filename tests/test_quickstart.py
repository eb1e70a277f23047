"""The demo's recipe at a tenth of its size, end to end, through the command line: what a newcomer's first run does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tropism.recipe.read import load
from tropism.store.folder import latest, read_metrics

COUNTED = {  # stage.key → where its full size stands in the recipe
    "base.steps": lambda r: r.stages["base"].steps,
    "sft.steps": lambda r: r.stages["sft"].steps,
    "ppo.rounds": lambda r: r.stages["ppo"].rounds,
}


@pytest.fixture(scope="module")
def tenth(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """(run folder, standard output, standard error) of `tropism demo` at a tenth of its size."""
    recipe = load("quickstart")
    sizes = [f"{key}={size(recipe) // 10}" for key, size in COUNTED.items()]
    sizes += ["evaluation.prompts.count=60", "evaluation.completes.count=60"]
    sizes += ["samples.prompts.count=450"]  # the fewest with which enough groups are left for the looks
    sizes += ["reward.passes=3.2"]  # few groups, of an SFT model that knows little: look at them more often
    folder = tmp_path_factory.mktemp("demo") / "run"
    command = [sys.executable, "-m", "tropism.cli", "demo", "--out", str(folder)]
    for size in sizes:
        command += ["--set", size]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout, done.stderr


def test_the_report_has_every_figure(tenth: tuple[Path, str, str]) -> None:
    report = json.loads((tenth[0] / "report.json").read_text(encoding="utf-8"))
    assert set(report["models"]) == {"base", "sft", "ppo"}
    for name in ("sft", "ppo"):
        against = ("win_over_sft", "kl_to_sft") if name != "sft" else ()
        for key in ("exact_greedy", "exact_sampled", "chrf", "quality", *against):
            figure = report["models"][name][key]
            assert figure["low"] <= figure["value"] <= figure["high"] and figure["low"] < figure["high"], (name, key)
    assert report["models"]["base"]["exact_greedy"]["value"] <= 0.02
    assert {"n_pairs", "pair_accuracy", "kendall_tau", "length_correlation"} <= set(report["reward_model"])
    assert "base_completes" in report
    assert list(report["seconds"]) == list(load("quickstart").stages)


def test_each_stage_learns_something(tenth: tuple[Path, str, str]) -> None:
    facts = {k: v["facts"] for k, v in json.loads((tenth[0] / "report.json").read_text("utf-8"))["stages"].items()}
    assert facts["base"]["bits_per_byte"] < facts["base"]["gzip_bits_per_byte"]
    assert facts["sft"]["held_out_loss"] < facts["sft"]["held_out_loss_before"]
    # a tenth of the demo leaves an SFT model whose answers are nearly all wrong, so the truth orders few held-out pairs;
    # what the reward model makes of the annotators' orders shows in training
    lines = read_metrics(latest(tenth[0])["reward"])
    accuracy = [line["pair_accuracy"] for line in lines]
    assert sum(accuracy[-50:]) / 50 > 0.53
    looks = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert looks[-1] < looks[0]


def test_the_html_report_is_one_file_that_says_what_is_simulated(tenth: tuple[Path, str, str]) -> None:
    page = (tenth[0] / "report.html").read_text(encoding="utf-8")
    assert "simulated" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_the_terminal_is_quiet_about_progress_and_says_where_to_go_on(tenth: tuple[Path, str, str]) -> None:
    _, out, err = tenth
    assert "report.html" in out
    assert "tropism chat --forget" in out
    assert "\r" not in err  # no bars when it is not a terminal
    assert "it/s" not in err  # nor anyone else's


def test_the_same_command_again_does_nothing_again(tenth: tuple[Path, str, str]) -> None:
    folder = tenth[0]
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*/DONE")}
    recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    shown = subprocess.run(
        [sys.executable, "-m", "tropism.cli", "show", str(folder), "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(shown.stdout) == json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert len(before) == len(recipe["stages"])


def test_one_can_talk_to_the_result(tenth: tuple[Path, str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tropism.cli", "chat", str(tenth[0])],
        input="Translate into French: 26 days ago\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
