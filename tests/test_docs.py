"""The documents speak of what is there: names, commands, recipe keys, kinds; and the README's example runs."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import tropism
from tropism.cli import app
from tropism.models.architecture import Architecture, create
from tropism.models.folder import save
from tropism.recipe.kinds import FOLDERS, names
from tropism.recipe.read import load

PACKAGE = Path(tropism.__file__).parent
ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted((ROOT / "docs").rglob("*.md"))


def quoted(text: str) -> list[str]:
    """What stands in single backticks, code blocks left out."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def references(document: Path) -> list[tuple[str, str]]:
    """(file, name in it or "") of every `folder/file.py:Name` in backticks."""
    found = (
        re.fullmatch(r"([\w/.]+\.py)(?::([\w.]+))?", text) for text in quoted(document.read_text(encoding="utf-8"))
    )
    return [(match[1], match[2] or "") for match in found if match]


@cache
def defined(file: Path) -> frozenset[str]:
    """The functions, classes, methods and constants of a file, with the class before a dot."""

    def walk(body: list[ast.stmt], before: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                yield before + node.name
                if isinstance(node, ast.ClassDef):
                    yield from walk(node.body, f"{before}{node.name}.")
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                yield from (before + target.id for target in targets if isinstance(target, ast.Name))

    return frozenset(walk(ast.parse(file.read_text(encoding="utf-8")).body, ""))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_and_name_exists(document: Path):
    for path, name in references(document):
        file = next((place / path for place in (PACKAGE, ROOT) if (place / path).is_file()), None)
        assert file, f"{document.name} names {path}, which is not there"
        assert not name or name in defined(file), f"{document.name} names {path}:{name}, which is not there"


def test_the_walks_name_what_they_pass():
    """Fewer would mean that `references` has gone blind."""
    assert len([name for _, name in references(ROOT / "docs" / "path.md") if name]) > 50
    assert {"Learner", "Learner.update", "ROLE"} <= defined(PACKAGE / "train" / "loop.py")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path):
    for target in re.findall(r"\]\(([^)#\s]+)\)", document.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (document.parent / target).exists(), target


def test_every_command_and_its_options_stand_in_the_table():
    rows = {match[1]: match[2] for match in re.finditer(r"^\| `tropism (\w+)[^`]*` \| (.*) \|$", README, re.MULTILINE)}
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert set(rows) == set(commands)
    for command, row in rows.items():
        known = {option for parameter in commands[command].params for option in parameter.opts}
        assert {text for text in quoted(row) if text.startswith("-")} <= known, command


def test_every_command_line_of_the_readme_is_understood():
    """Each `tropism …` of a code block: its recipe loads with its --set, which names a key that exists."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    lines = "\n".join(blocks(README, "sh")).replace("\\\n", " ").splitlines()
    seen = []
    for words in (shlex.split(line, comments=True) for line in lines if "tropism " in line and ">" not in line):
        assert words[0].endswith("tropism"), words
        context = commands[words[1]].make_context(words[1], words[2:])
        seen.append(words[1])
        if "recipe" in context.params:
            recipe = load(ROOT / context.params["recipe"], context.params["set_"] or ())
            assert recipe.stages
    assert {"chat", "plan", "run"} <= set(seen)


def test_every_make_target_exists():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        assert set(re.findall(r"^make ([\w-]+)", "\n".join(blocks(text, "sh")), re.MULTILINE)) <= targets
        assert {text.split()[1] for text in quoted(text) if text.startswith("make ")} <= targets


@pytest.mark.parametrize(("folder", "kind"), [(f, k) for f in (*FOLDERS.values(), "recipes") for k in names(f)])
def test_every_kind_is_mentioned(folder: str, kind: str):
    texts = [*DOCUMENTS, ROOT / "CHANGELOG.md"]
    assert any(kind in quoted(text.read_text(encoding="utf-8")) for text in texts), f"no document speaks of {kind}"


def test_the_example_in_the_readme_runs(words: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch, capsys):
    (example,) = (code for code in blocks(README, "python") if code.startswith("# readme-example"))
    lines = [line for line in example.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 15
    monkeypatch.chdir(tmp_path)
    save(create(Architecture(width=32, layers=1, heads=2, context=128), words, 0), words, tmp_path / "tiny")
    Path("prompts.txt").write_text("".join(f"{n} days\n" for n in range(40)), encoding="utf-8")
    small = example
    for written, instead in (("path/or/hub-id", "tiny"), ("rounds=50", "rounds=2"), ("max_tokens=64", "max_tokens=16")):
        assert small.count(written) == 1, f"the example has no {written}"
        small = small.replace(written, instead)
    Path("example.py").write_text(small, encoding="utf-8")

    runpy.run_path("example.py")
    (stage,) = (tmp_path / "runs" / "mine").glob("rl-*")
    assert capsys.readouterr().out.strip() == str((stage / "out").relative_to(tmp_path))
    assert {path.name for path in stage.iterdir()} == {
        "stage.json", "metrics.jsonl", "learned.npy", "out", "DONE"
    }  # as it says  # fmt: skip
    trained, before = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (stage / "out", "tiny"))
    assert any(not trained[name].equal(before[name]) for name in before)

    written = (stage / "metrics.jsonl").read_bytes()
    runpy.run_path("example.py")  # done before, skipped
    assert (stage / "metrics.jsonl").read_bytes() == written
    assert len(list((tmp_path / "runs" / "mine").glob("rl-*"))) == 1
