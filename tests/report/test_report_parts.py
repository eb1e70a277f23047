"""The page is made of the files in report/parts: each is found, and a new one shows itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from report_runs import make_run

from tropism.report import page, parts
from tropism.report.read import read


def headings(folder: Path) -> list[str]:
    return re.findall("<h2>(.*?)</h2>", page.page(read(folder)))


def test_every_file_is_a_part_of_its_own_place() -> None:
    files = [f.stem for f in Path(parts.__path__[0]).glob("[!_]*.py")]
    found = page._parts()
    assert {part.__name__.rpartition(".")[2] for part in found} == set(files) and len(files) >= 11
    orders = [part.ORDER for part in found]
    assert orders == sorted(set(orders))
    assert all(part.__doc__ and part.HEADING and callable(part.html) for part in found)


def test_a_new_file_is_a_new_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has something to say, one that has not, and one that is private."""
    folder = make_run(tmp_path)
    before = headings(folder)
    (new := tmp_path / "parts").mkdir()
    (new / "counted.py").write_text(
        'ORDER = 15\nHEADING = "Counted"\n\n\ndef html(findings):\n    return f"<p>{len(findings.stages)} stages</p>"\n'
    )
    (new / "silent.py").write_text('ORDER = 16\nHEADING = "Silent"\n\n\ndef html(findings):\n    return ""\n')
    (new / "_private.py").write_text("raise ImportError\n")
    monkeypatch.setattr(parts, "__path__", [*parts.__path__, str(new)])
    assert headings(folder) == [before[0], "Counted", *before[1:]]
    assert "<h2>Counted</h2><p>8 stages</p>" in page.page(read(folder))
