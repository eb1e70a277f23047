"""More than 300 bad inputs: each ends with status 2 and one sentence, without a traceback, and writes nothing."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from bad_inputs.data import DATA, GOOD, lines
from bad_inputs.models import JUDGES, MODELS, Change
from bad_inputs.recipes import RECIPES
from bad_inputs.words import COMMANDS, SETS, USAGE
from tiny_recipe import BASE, TOKENIZER, Said, tropism
from tropism.models.folder import save

CASES = [*RECIPES, *SETS, *USAGE, *COMMANDS, *DATA, *MODELS, *JUDGES]
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
    inputs = [
        *(c[1] for c in (*RECIPES, *JUDGES)),
        *(tuple(c[1]) for c in (*SETS, *USAGE, *COMMANDS)),
        *(c[1:5] for c in DATA),
    ]
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


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, words, make_model: Callable[..., PreTrainedModel]) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "model"
    save(make_model(), words, folder)
    return folder


@pytest.mark.parametrize("case", MODELS, ids=ids)
def test_a_model_folder(place: Path, whole: Path, case: tuple[str, str, Change, str]) -> None:
    _, name, change, says = case
    shutil.copytree(whole, place / "model")
    file = place / "model" / name
    if (content := change(file.read_bytes())) is None:
        file.unlink()
    else:
        file.write_bytes(content)
    words = ["generate", "{here}/model", "--prompts", "{here}/p.txt", "--out", "{here}/o.jsonl", "--quiet"]
    said = sentence(said_by(place, [*words, "--max-tokens", "3"]))
    assert str(place / "model") in said and says in said


@pytest.mark.parametrize("case", JUDGES, ids=ids)
def test_a_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: tuple[str, str, str]) -> None:
    """The sentence, and behind it where code from outside raised, in its own lines."""
    name, code, says = case
    module = f"judge_{re.sub(r'[^a-z]', '_', name)}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / f"{module}.py").write_text(code)
    (tmp_path / "d.jsonl").write_bytes(lines(GOOD["chat"]))
    recipe = LABEL.format(stage="label", kind="chat", path="d.jsonl", more="") + f'judges = ["{module}:judge"]\n'
    (tmp_path / "r.toml").write_text(recipe)
    said = tropism("run", "r.toml", "--quiet")
    first, *more = said.err.splitlines()
    assert said.code == 2 and said.out == "" and first.startswith("tropism: ") and says in first
    assert not [line for line in more if "tropism/" in line or line.startswith("Traceback")]
    assert not list(tmp_path.glob("runs/*/*/DONE"))
