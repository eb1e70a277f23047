"""More than 300 bad inputs: each ends with status 2 and one sentence, without a traceback, and writes nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bad_inputs.data import DATA
from bad_inputs.recipes import RECIPES
from bad_inputs.words import COMMANDS, SETS, USAGE
from tiny_recipe import BASE, TOKENIZER, Said, tropism

CASES = [*RECIPES, *SETS, *USAGE, *COMMANDS, *DATA]
LABEL = '[[stage]]\nid = "read"\nkind = "{stage}"\ndata = {{ kind = "{kind}", path = "{path}"{more} }}\n'


def ids(case: tuple) -> str:
    return re.sub(r"\W+", "_", case[0])


def sentence(said: Said) -> str:
    """The one line that says what is wrong."""
    assert said.code == 2, said
    assert said.out == ""
    assert said.err.startswith("tropism: ") and said.err.count("\n") == 1 and said.err.endswith("\n"), said.err
    assert len(said.err) < 700 and said.err[:-1].isprintable(), said.err
    return said.err


def here(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 300
    assert len({case[0] for case in CASES}) == len(CASES)
    inputs = [*(c[1] for c in RECIPES), *(tuple(c[1]) for c in (*SETS, *USAGE, *COMMANDS)), *(c[1:5] for c in DATA)]
    assert len({repr(one) for one in inputs}) == len(inputs)


@pytest.mark.parametrize("case", RECIPES, ids=ids)
def test_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: tuple[str, str, str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.toml").write_text(case[1], encoding="utf-8")
    assert case[2] in sentence(tropism("plan", "r.toml"))
    assert list(here(tmp_path)) == ["r.toml"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "r.toml").write_text(TOKENIZER + BASE)
    (folder / "binary.toml").write_bytes(bytes(range(256)))
    (folder / "p.txt").write_text("one\ntwo\n")
    (folder / "p.jsonl").write_text('{"prompt": "one"}\n')
    (folder / "p.png").write_bytes(b"\x89PNG")
    return folder


def said_by(place: Path, words: list[str]) -> Said:
    before = here(place)
    said = tropism(*(word.replace("{r}", str(place / "r.toml")).replace("{here}", str(place)) for word in words))
    assert here(place) == before
    return said


@pytest.mark.parametrize("case", [*SETS, *COMMANDS], ids=ids)
def test_words(place: Path, case: tuple[str, list[str], str]) -> None:
    assert case[2].replace("{here}", str(place)) in sentence(said_by(place, case[1]))


@pytest.mark.parametrize("case", USAGE, ids=ids)
def test_usage(place: Path, case: tuple[str, list[str], str]) -> None:
    said = said_by(place, case[1])
    assert said.code == 2 and said.out == "" and "Traceback" not in said.err
    assert said.err.splitlines()[-1].startswith("Error: ") and case[2] in said.err.splitlines()[-1]


@pytest.mark.parametrize("case", DATA, ids=ids)
def test_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: tuple[str, str, str, bytes, str]) -> None:
    """Read by a stage of its own: it names the file, or the line in it, and leaves nothing that is done."""
    _, kind, name, content, says = case
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    stage = "tokenizer" if kind == "text" else "label"
    (tmp_path / "r.toml").write_text(LABEL.format(stage=stage, kind=kind, path=name, more=""))
    said = sentence(tropism("run", "r.toml", "--quiet"))
    assert says in said and name in said
    assert not list(tmp_path.glob("runs/*/*/DONE"))
