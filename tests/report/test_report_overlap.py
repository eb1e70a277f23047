"""The report says how many prompts of the evaluation stand in a training set, and calls them held-out only if none
does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from report_runs import MODELS, evaluation, figure, finish, make_run

from tropism.report.build import write
from tropism.report.read import read
from tropism.report.summary import summary
from tropism.report.words import overlap


@pytest.mark.parametrize(
    ("met", "says"),
    [
        ({"sft": 11, "ppo": 3}, "Not all held out: 12 of the 300 prompts are in a training set (SFT 11, PPO 3)."),
        ({"sft": 0, "ppo": 0}, "None of the 300 prompts is in a training set: SFT, PPO."),
        ({}, "The training data of the models is not known, so it is not known whether the prompts were held out."),
    ],
)
def test_page_json_and_terminal(tmp_path: Path, met: dict[str, int], says: str) -> None:
    found: dict[str, Any] = {"prompts": 300, "met": 12 if any(met.values()) else 0, "stages": met}
    folder = make_run(tmp_path)
    shutil.rmtree(folder / "evaluation-0123abcd")
    finish(folder, "evaluation", found=evaluation(figure(0.71, 0.07)) | {"overlap": found}, **MODELS)
    report, page = write(folder), (folder / "report.html").read_text("utf-8")
    assert report["overlap"] == found and overlap(found) == says
    assert says in page and says in summary(read(folder))
    calls = [f"{n} held-out prompts" in page for n in ("300", "The first 12")] + ["number of held-out prompts" in page]
    assert set(calls) == {not any(met.values())}
