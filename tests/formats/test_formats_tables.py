"""Files .csv and .tsv: against Python's own writer, and what is wrong with them."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pytest

from tropism.errors import TropismError
from tropism.formats.chat import Chat
from tropism.formats.pairs import Pairs
from tropism.formats.text import Text
from tropism.formats.thumbs import Thumbs
from tropism.protocols import Format

DATA = Path(__file__).parents[3] / "shared" / "data"
CELLS = ["plain", 'with "quotes"', "a, b", "two\nlines", "tab\there", " blanks ", "дней", '"', "x" * 200_000]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(rows: list[list[str]], sign: str) -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=sign).writerows(rows)
    return file.getvalue().encode()


def error(source: Format) -> str:
    with pytest.raises(TropismError) as caught:
        list(source.groups())
    return str(caught.value)


@pytest.mark.parametrize(("name", "sign"), [("x.csv", ","), ("x.tsv", "\t"), ("x.csv.gz", ",")])
def test_what_pythons_writer_wrote(name: str, sign: str) -> None:
    rows = written([["id", "text"], *([str(n), cell] for n, cell in enumerate(CELLS))], sign)
    Path(name).write_bytes(gzip.compress(rows) if name.endswith(".gz") else b"\xef\xbb\xbf" + rows)
    groups = list(Text(name).groups())
    assert [g.completions[0].text for g in groups] == CELLS
    assert [g.id for g in groups][:6] == [f"{name}:{n}" for n in (2, 3, 4, 5, 7, 8)]  # the cell of two lines has two


def test_records_of_several_kinds() -> None:
    Path("p.csv").write_text("prompt,chosen,rejected\nq,good,bad\n\nq2,a,b")
    assert [[c.text for c in g.completions] for g in Pairs("p.csv").groups()] == [["good", "bad"], ["a", "b"]]
    Path("t.csv").write_text("prompt,completion,label\nq,a,True\nq,b,false\nq,c,1\n")
    groups = Thumbs("t.csv", on_error="skip").groups()
    assert [g.judgments[0].scores for g in groups] == [(1.0,), (0.0,)]
    assert groups.skipped == ["t.csv line 4: field 'label' is a text, not true or false"]
    Path("d.csv").write_text("instruction,context,response\nName one.,,Red.\nName one.,Colours,Blue.\n")
    assert [g.prompt[0].content for g in Chat("d.csv").groups()] == ["Name one.", "Name one.\nColours"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b"text,id\na,1\nb\n",
            "x.csv line 3: has 1 cells for 2 columns; fix its separators or quotes or set on_error",
        ),
        (b"text,id\na,1,2\n", "x.csv line 2: has 3 cells for 2 columns"),
        (b"text\ncaf\xe9\n", "x.csv line 2: is not UTF-8 (byte 0xe9)"),
        (b'text,id\na,1\n"b,2\nc,3\n', "x.csv line 3 is damaged or cut short (unexpected end of data): fix its"),
        (b'text\na\n"b"c\n', "x.csv line 3 is damaged or cut short ("),
        (b"text,text\na,b\n", "x.csv line 1 must name each column, without repeats: fix it"),
        (b"text,\na,b\n", "x.csv line 1 must name each column"),
        (b"text,id\n", "x.csv is empty"),
        (b"", "x.csv is empty"),
        (b"text,id\n,1\n", "x.csv line 2: field 'text' is missing"),
    ],
)
def test_what_is_wrong_is_named(content: bytes, says: str) -> None:
    Path("x.csv").write_bytes(content)
    assert error(Text("x.csv")).startswith(says)


def test_a_broken_row_is_left_out() -> None:
    Path("x.csv").write_bytes(b"text,id\na,1\nb\ncaf\xe9,2\nd,3\n")
    groups = Text("x.csv", on_error="skip").groups()
    assert [g.completions[0].text for g in groups] == ["a", "d"] and len(groups.skipped) == 2


@pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not there")
def test_real_files() -> None:
    assert len(list(Text(str(DATA / "game24" / "24.csv"), columns={"text": "Puzzles"}).groups())) == 1362
    with (DATA / "arena" / "food.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    first = next(iter(rows[0]))
    read = [g.completions[0].text for g in Text(str(DATA / "arena" / "food.csv"), columns={"text": first}).groups()]
    assert read == [row[first] for row in rows]
