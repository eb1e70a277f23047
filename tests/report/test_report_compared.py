"""The part of the page on compared methods: its sentences, its tables, its pictures."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tropism.report.axes import Axis
from tropism.report.build import write
from tropism.report.compared import sentences
from tropism.report.comparison import Method, compare
from tropism.report.page import page
from tropism.report.parts.methods import html
from tropism.report.plots import Series, lines
from tropism.report.read import read
from tropism.report.summary import compared
from tropism.report.words import number
from tropism.store import files

PROMPTS = 40
PROBE = {"prompts": {"kind": "p"}, "judge": {"kind": "j"}, "truth": {"kind": "t"}, "sampling": {"n": 4}}


def line(spent: int, kl: float, truth: float, reward: float) -> dict[str, Any]:
    """Prompts spread evenly around the mean."""
    offsets = [(i - (PROMPTS - 1) / 2) / PROMPTS for i in range(PROMPTS)]
    by_prompt: dict[str, list[float | None]] = {
        "truth": [truth + x for x in offsets],
        "reward": [reward + x for x in offsets],
    }
    return {"spent": spent, "probe_kl": kl, "by_prompt": by_prompt}


def finish(folder: Path, id: str, metrics: Sequence[dict[str, Any]], kind: str = "rl:RL", **fields: Any) -> None:
    """A finished stage, as the run store leaves it."""
    (stage := folder / f"{id}-0123abcd").mkdir()
    fields = {"kind": f"tropism.stages.{kind}", "policy": "sft", "probe": PROBE, **fields}
    files.write_json(stage / "stage.json", {"id": id, "fingerprint": id, "fields": fields, "inputs": {}})
    (stage / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in metrics))
    files.seal(stage, {"seconds": 1.0, "facts": {}}, "DONE")
    recipe = json.loads((folder / "recipe.json").read_text()) if (folder / "recipe.json").exists() else {"stages": {}}
    stages, folders = {**recipe["stages"], id: {}}, {**recipe.get("folders", {}), id: stage.name}
    files.write_json(folder / "recipe.json", {"name": "r", "seed": 0, "stages": stages, "folders": folders})


def make_run(folder: Path, *, hacked: bool = True) -> Path:
    """Two seeds of good, one of poor, a search, and one that hacks its own judge."""
    folder.mkdir()
    for n in (1, 2):
        finish(folder, f"good-{n}", [line(0, 0, 0.5, 0), line(100, 1, 0.6 + n / 50, 1), line(200, 4, 0.8 + n / 50, 2)])
    finish(folder, "poor", [line(0, 0, 0.5, 0), line(150, 2, 0.4, -1), line(180, 3, 0.35, -2)])
    search = {"kind": "best_of_n:BestOfN", **PROBE, "probe": None}
    finish(folder, "search", [line(10, 0, 0.5, 0), line(20, 1, 0.9, 3)], **search)
    if hacked:
        probe = {**PROBE, "judge": {"kind": "weak"}}
        finish(folder, "hack", [line(0, 0, 0.5, 0), line(100, 9, 0.7, 5), line(200, 30, 0.2, 9)], probe=probe)
    return folder


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("compared") / "run")


def test_the_report_says_who_leads_who_hacks_and_who_is_apart(run: Path) -> None:
    found = write(run)["comparison"]
    json.dumps(found, allow_nan=False)
    assert json.loads((run / "report.json").read_text("utf-8"))["comparison"] == found
    assert found["equal_kl"]["level"] == 1.0
    # at 1 nat: good 0.62 and 0.64, poor half-way from 0.5 to 0.4, hack a ninth of the way from 0.5 to 0.7
    quality = {name: row["truth"]["value"] for name, row in found["equal_kl"]["methods"].items()}
    assert quality == {"search": 0.9, "good": 0.63, "hack": 0.5222, "poor": 0.45}
    assert (found["equal_spent"]["level"], list(found["equal_spent"]["methods"])) == (180, ["good", "poor", "hack"])
    assert sentences(found) == [
        "At equal KL search has the highest true quality, 0.90; all others are significantly lower, over prompts only "
        "where marked *.",
        "At equal compute good has the highest true quality, 0.79; all others are significantly lower, over prompts only "
        "where marked *.",
        "* Over prompts only. One seed each, so nothing is known about other seeds: poor, hack.",
        "hack over-optimises: from 9.00 nats on the true quality fell from 0.70 to 0.20 while the learned reward went "
        "from 5.00 to 9.00.",
        "search: it is not trained and has no seeds, its KL is the bound log n − (n−1)/n, and it costs its tokens at "
        "every answer, so it cannot be compared at equal compute.",
        "hack: its learned reward comes from another judge, in other units.",
    ]


def test_both_files_of_a_run_compute_the_comparison_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(found: Sequence[Method], left_out: Sequence[str]) -> dict[str, Any]:
        made.append([m.name for m in found])
        return compare(found, left_out)

    monkeypatch.setattr("tropism.report.compared.compare", counted)
    assert "comparison" in write(run) and "At equal KL" in (run / "report.html").read_text("utf-8")
    assert made == [["good", "poor", "search", "hack"]]
    write(run)  # may have finished more stages since
    assert len(made) == 2


def test_without_a_hack_that_is_said(tmp_path: Path) -> None:
    found = write(make_run(tmp_path / "run", hacked=False))["comparison"]
    assert found["methods"]["poor"]["over_optimises"] is None  # its reward falls as well
    said = "No method shows over-optimisation: no true quality falls while its learned reward holds or rises."
    assert said in sentences(found)


def test_one_that_cannot_be_told_from_the_first_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for id, end in (("a", 0.8), ("b", 0.8), ("c", 0.7)):
        finish(tmp_path / "run", id, [line(0, 0, 0.5, 0), line(10, 1, end, 1)])
    finish(tmp_path / "run", "d", [line(0, 0, 0.5, 0), line(10, 1, 0.9, 1)], policy="a")
    said = sentences(write(tmp_path / "run")["comparison"])
    assert (
        said[0]
        == "At equal KL a has the highest true quality, 0.80; not significantly lower: b, over prompts only where marked *."
    )
    assert said[-1] == "Left out, because the start, or the prompts, truth or sampling of the looks differ: d."


def test_the_terminal_shows_both_tables(run: Path) -> None:
    said = compared(write(run)["comparison"]).splitlines()
    assert said[0] == "at 1 nats of KL per completion:"
    assert [text.split()[0] for text in said[2:6]] == ["search", "good", "hack", "poor"]
    assert said[6] == "at 180 tokens through models:"
    assert said[8].split()[:2] == ["good", "0.79"]
    # two seeds at 0.78 and 0.80, and one of poor: its own figures and what stands beside it are over prompts only
    poor = said[9]
    assert "p≤0.001" in poor and poor.count("]*") == 4 and "]*" not in said[8]
    assert max(map(len, said[:11])) <= 120


def test_the_page_has_the_section_and_still_needs_nothing_else(run: Path) -> None:
    text = page(read(run))
    found = Page(text)
    assert "The methods compared" in found.texts
    assert not {tag for tag, _ in found.elements} & {"script", "link", "img", "iframe", "a", "use", "image"}
    assert not re.search(r"\b(nan|inf|none)\b", html(read(run)), re.IGNORECASE)
    assert "At equal KL: 1 nats per completion, the most that every seed of every method reached" in found.texts
    plots = [attrs["aria-label"] for tag, attrs in found.elements if tag == "svg" and attrs.get("aria-label")]
    assert [p for p in plots if p and p.startswith(("good", "search"))] == [
        "good: true quality over √KL",
        "good: learned reward over √KL",
        "good: true quality over tokens",
        "search: true quality over √KL",
        "search: learned reward over √KL",  # and no place at equal compute
    ]
    assert len([p for p in plots if p and " over " in p]) == 3 * 3 + 2


def test_no_methods_no_section(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    finish(tmp_path / "run", "a", [line(0, 0, 0.5, 0), line(10, 1, 0.8, 1)])
    assert html(read(tmp_path / "run")) == ""
    assert "comparison" not in write(tmp_path / "run")


def test_behind_a_method_the_others_go_as_far_as_it_went(run: Path) -> None:
    """poor went to √3 = 1.732; the hack, with √9 = 3 at its second look, is cut on the way there."""
    found = html(read(run))
    svg = found[found.index('aria-label="poor: true quality over √KL"') :]
    svg = svg[: svg.index("</figure>")]
    faint = dict(re.findall(r'<title>(\w+)</title><polyline class="faint" points="([^"]*)"', svg))
    assert set(faint) == {"good", "search", "hack"}
    ends = {name: float(points.split()[-1].split(",")[0]) for name, points in faint.items()}
    assert ends["hack"] == ends["good"] == 326.0  # the right edge
    assert ends["search"] == pytest.approx(50 + 276 / math.sqrt(3), abs=0.1)
    # the hack at √3: 0.5 + 0.2 · √3/3 = 0.6155; poor's own curve tells which heights stand for 0.5 and 0.35
    own = re.search(r'class="curve s0" points="([^"]*)"', svg)
    assert own
    high, low = (float(own[1].split()[i].split(",")[1]) for i in (0, -1))
    height = high + (0.5 - 0.6155) * (low - high) / (0.5 - 0.35)
    assert float(faint["hack"].split()[-1].split(",")[1]) == pytest.approx(height, abs=0.2)


def test_a_band_is_drawn_from_its_finite_ends() -> None:
    # the inside is x 50 to 326 and y 180 (bottom) to 24 (top)
    band = [(0.0, 0.0, 0.5), (5.0, math.nan, 1.0), (10.0, 0.5, 1.0)]
    own = Series("a", [(0, 0.25), (10, 0.75)], band=band)
    svg = lines(
        "A", [Series("<b>", [(0, 0.0), (10, math.inf), (10, 1.0)], faint=True), own], Axis("x"), Axis("y", 0.0, 1.0)
    )
    assert '<polygon class="band s0" points="50.0,180.0 326.0,102.0 326.0,24.0 50.0,102.0"/>' in svg
    assert '<title>&lt;b&gt;</title><polyline class="faint" points="50.0,180.0 326.0,24.0"/>' in svg
    assert "nan" not in svg and "inf" not in svg


def test_a_sentence_has_no_minus_zero() -> None:
    assert [number(x) for x in (-0.001, -0.0, -0.5, 1.006)] == ["0.00", "0.00", "−0.50", "1.01"]
