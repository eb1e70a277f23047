"""A figure from one file outside the package: in evaluation.json, in report.html and in the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tropism.errors import TropismError
from tropism.recipe.kinds import names, resolve
from tropism.recipe.read import load
from tropism.report.build import write
from tropism.report.read import read
from tropism.report.summary import summary
from tropism.store.progress import Reporter
from tropism.store.run import run_recipe

FIGURE = '''
"""How many of the prompts are questions."""
from dataclasses import dataclass
from typing import ClassVar

from tropism.statistics import SHARE, mean
from tropism.types import About


@dataclass(frozen=True)
class Questions:
    mark: str = "?"
    about: ClassVar[About] = About("questions", "questions <b>put</b> beside {over}", "share", "lower")

    def measure(self, found, drawn):
        asked = [float(g.prompt[-1].content.endswith(self.mark)) for g in found.answers["sft"][drawn]]
        return {"sft": mean(asked, SHARE), "again": "it is the same model"}


@dataclass(frozen=True)
class Bare:
    about: ClassVar[About] = About("bare", "a bare number")

    def measure(self, found, drawn):
        return {"sft": 3.5}
'''
RECIPE = """
name = "figures"

[[stage]]
id = "evaluation"
kind = "evaluate"
models = {{ sft = "{model}", again = "{model}" }}
prompts = {{ kind = "prompts", prompts = ["Why?", "Who?", "One day", "When?"] }}
metrics = [{{ kind = "{kind}" }}]
sampling = {{ n = 2, max_tokens = 4 }}
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: str):
    """Runs a recipe whose evaluation has a figure of the module `my_figures`."""
    (tmp_path / "my_figures.py").write_text(FIGURE)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(name: str) -> Path:
        (tmp_path / "r.toml").write_text(RECIPE.format(model=model_folder, kind=f"my_figures:{name}"))
        run_recipe(load(str(tmp_path / "r.toml")), tmp_path / "run", reporter=Reporter(quiet=True))
        return tmp_path / "run"

    return run


def test_one_file_from_outside_is_shown_everywhere(outside) -> None:
    folder = outside("Questions")
    (file,) = folder.glob("evaluation-*/out/evaluation.json")
    found = json.loads(file.read_text("utf-8"))
    assert found["models"]["sft"]["questions"]["value"] == 0.75
    assert found["models"]["again"]["left_out"]["questions"] == "it is the same model"
    assert found["measures"]["questions"] == {
        "title": "questions <b>put</b> beside {over}",
        "unit": "share",
        "better": "lower",
    }
    assert list(found["measures"])[-1] == "questions"  # after those of the package
    report, page = write(folder), (folder / "report.html").read_text("utf-8")
    assert report["models"]["sft"]["questions"] == found["models"]["sft"]["questions"]
    row = page[page.index("questions &lt;b&gt;put&lt;/b&gt; beside SFT") :]
    assert "<td>75\u202f% <small>" in row[: row.index("</tr>")] and "<td>–</td>" in row[: row.index("</tr>")]
    lines = summary(read(folder)).splitlines()
    assert any(line.startswith("questions <b>put</b> beside SFT ↓") and "0.75 [" in line for line in lines)
    assert "again has no questions: it is the same model." in lines


def test_a_figure_without_an_interval_is_refused(outside) -> None:
    with pytest.raises(TropismError, match="metrics: bare of sft is 3.5: return value, low and high"):
        outside("Bare")


def test_every_figure_of_the_package_says_what_it_is() -> None:
    """Names and places are its own, so that no two are shown as one."""
    about = [resolve("measures", kind).about for kind in names("measures")]
    keys = [a.key(drawn, "sft") for a in about for drawn in a.of]
    titles = [a.shown(drawn)["title"] for a in about for drawn in a.of]
    assert len(set(keys)) == len(keys) >= 14 and len(set(titles)) == len(titles)
    assert len({a.order for a in about}) == len(about)
    assert {"exact_greedy", "exact_sampled", "chrf", "win_over_sft", "kl_to_sft", "bleu_sampled", "tokens"} <= set(keys)
