"""What is typed into the search field, by the table at the head of words.py; and whatever else, as plain words."""

from __future__ import annotations

import sqlite3

import pytest

from tropism.feedback import words
from tropism.feedback.words import Clause, Term

DEEP, BLUE, SEA = Term("deep"), Term("blue"), Term("sea")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("deep blue", (Clause((DEEP, BLUE)),)),
        ("deep AND blue", (Clause((DEEP, BLUE)),)),
        ('"deep blue"', (Clause((Term("deep blue"),)),)),
        ("deep OR blue sea", (Clause((DEEP,)), Clause((BLUE, SEA)))),
        ("deep -blue", (Clause((DEEP,), (BLUE,)),)),
        ('deep -"blue sea"', (Clause((DEEP,), (Term("blue sea"),)),)),
        ("deep NOT blue", (Clause((DEEP,), (BLUE,)),)),
        ("deep AND NOT blue", (Clause((DEEP,), (BLUE,)),)),
        ("transl*", (Clause((Term("transl", prefix=True),)),)),
        ("deep - blue", (Clause((DEEP, BLUE)),)),
        ("?! ...", ()),
        ("", ()),
    ],
)
def test_the_table(typed: str, meant: tuple[Clause, ...]):
    assert words.read(typed) == meant


@pytest.mark.parametrize(
    "typed", ["deep OR", "OR deep", "deep AND OR blue", 'deep "blue', "-deep", "deep OR -blue", "deep AND"]
)
def test_what_does_not_follow_it_is_plain_words(typed: str):
    (clause,) = words.read(typed)
    assert not clause.unwanted
    assert " ".join(t.text for t in clause.wanted).split() == typed.replace('"', " ").split()


@pytest.fixture(scope="module")
def fts() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE VIRTUAL TABLE said USING fts5(text)")
    connection.executemany("INSERT INTO said VALUES (?)", [("deep blue sea",), ("blue deep",), ("NEAR the text: 5*",)])
    return connection


def test_fts5_finds_what_is_meant(fts: sqlite3.Connection):
    def found(typed: str) -> list[int]:
        rows = fts.execute("SELECT rowid FROM said WHERE said MATCH ?", (words.fts5(words.read(typed)),))
        return [row[0] for row in rows]

    assert found("deep blue") == [1, 2]
    assert found('"deep blue"') == [1]
    assert found("deep -sea") == [2]
    assert found("sea OR near") == [1, 3]
    assert found("bl*") == [1, 2]
    assert found("text:") == [3]  # no column of that name


@pytest.mark.parametrize(
    "typed",
    ["text:deep", "NEAR(deep blue)", "deep^", "{text}:deep", "a'); DROP TABLE said; --", '"', '""', "***", "(deep", "^",
     "a+b", "é́",
     " ".join("abcdefgh"[i % 8] for i in range(500)), "a OR " * 200 + "b", "deep\0blue", "- -", '-"', "½ *",
     "NOT", "AND OR NOT"],
)  # fmt: skip
def test_nothing_typed_is_syntax(fts: sqlite3.Connection, typed: str):
    clauses = words.read(typed)
    if clauses:
        fts.execute("SELECT count(*) FROM said WHERE said MATCH ?", (words.fts5(clauses),)).fetchone()
    assert fts.execute("SELECT count(*) FROM said").fetchone() == (3,)
    words.tsquery(clauses), words.marks(clauses)


@pytest.mark.parametrize(
    ("typed", "both"),
    [
        ("", "sea"),
        ("deep", "deep sea"),
        ("deep OR blue -red", "deep sea OR blue sea -red"),
        ('"deep blue" tra*', '"deep blue" tra* sea'),
        ('deep "OR"', 'deep "OR" sea'),
    ],
)
def test_a_click_refines(typed: str, both: str):
    assert words.refined(typed, "sea") == both
    assert all(Term("sea") in clause.wanted for clause in words.read(both))


def test_marks():
    marks = words.marks(words.read('"deep blue" tra* -sea'))
    assert marks
    assert [m[0] for m in marks.finditer("The Deep, blue sea translates a contra deep.")] == [
        "Deep, blue",
        "translates",
    ]
    assert words.marks(()) is None
