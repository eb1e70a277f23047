"""Corpus measures in the page's table of models and in the terminal; without them neither says anything of them."""

from __future__ import annotations

from pathlib import Path

from report_runs import MODELS, evaluation, figure, finish, make_run, plan

from tropism.report.build import write
from tropism.report.read import read
from tropism.report.summary import summary

SIGNATURE = "BLEU|nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"


def run_with_bleu(folder: Path) -> Path:
    plan(folder)
    found = evaluation(figure(0.71, 0.07))
    for name, value in (("sft", 31.25), ("ppo", 37.75)):
        found["models"][name] |= {"bleu_sampled": figure(value, 1.5), "signatures": [SIGNATURE]}
    found["models"]["base"] |= {"signatures": [SIGNATURE]}
    finish(folder, "evaluation", found=found, **MODELS)
    return folder


def test_rows_and_signatures_in_the_page(tmp_path: Path) -> None:
    folder = run_with_bleu(tmp_path)
    report = write(folder)
    assert report["models"]["ppo"]["bleu_sampled"] == figure(37.75, 1.5)
    assert report["models"]["ppo"]["signatures"] == [SIGNATURE]
    page = (folder / "report.html").read_text("utf-8")
    row = page[page.index("BLEU, sampled") :]
    row = row[: row.index("</tr>")]
    assert "<td>–</td>" in row and "31.2 <small>29.8 to 32.8</small>" in row and "37.8 <small>" in row
    assert page.count(SIGNATURE) == 1


def test_rows_and_signatures_in_the_terminal(tmp_path: Path) -> None:
    lines = summary(read(run_with_bleu(tmp_path))).splitlines()
    row = next(line for line in lines if line.startswith("BLEU, sampled ↑"))
    assert "31.2 [29.8, 32.8]" in row and "37.8 [36.2, 39.2]" in row
    assert lines.count(SIGNATURE) == 1


def test_without_metrics_nothing_is_said_of_them(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    write(folder)
    text = summary(read(folder)) + (folder / "report.html").read_text("utf-8")
    assert "BLEU" not in text and "bleu" not in text and "ROUGE" not in text
