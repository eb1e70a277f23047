"""The documents name what is there: files, commands, recipe keys, kinds. Examples and the README's commands run."""

from __future__ import annotations

import ast
import io
import json
import re
import runpy
import shlex
import subprocess
import sys
import xml.etree.ElementTree
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import tropism
from tiny_recipe import tropism as tropism_says
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
    manual = "".join(
        (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8") for page in ("command-line", "evaluation")
    )
    found = re.finditer(r"^\| `tropism ((?:feedback |eval )?\w+)[^`]*` \| (.*) \|$", manual, re.MULTILINE)
    rows = {match[1]: match[2] for match in found}
    commands = dict(every_command())
    assert set(rows) == set(commands)
    for command, row in rows.items():
        known = {option for parameter in commands[command].params for option in parameter.opts}
        assert {text for text in quoted(row) if text.startswith("-")} <= known, command


def every_command() -> Iterator[tuple[str, Any]]:
    """Each command by its words, such as "run" and "feedback add"."""
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        if not hasattr(command, "list_commands"):
            yield name, command
            continue
        for inner in command.list_commands(context := command.context_class(command)):
            yield f"{name} {inner}", command.get_command(context, inner)


def shell_lines(document: Path) -> list[list[str]]:
    """The words of each line of a document's shell blocks; a line that ends in a backslash goes on."""
    text = "\n".join(blocks(document.read_text(encoding="utf-8"), "sh")).replace("\\\n", " ")
    found = (shlex.split(line, comments=True) for line in text.splitlines() if not line.startswith("you>"))
    return [words for words in found if words]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_line_is_understood(document: Path):
    """Each `tropism …`: its recipe loads with its --set, which names a key that exists. Of others, the file is there."""
    inline = [shlex.split(text) for text in quoted(document.read_text(encoding="utf-8")) if text.startswith("tropism ")]
    commands = dict(every_command())
    for words in [*shell_lines(document), *(words for words in inline if len(words) > 2)]:
        if words[0] in ("make", "git", "cd"):
            continue
        if words[0].endswith("python"):
            assert (ROOT / words[1]).is_file() or words[1] == "-m", words
            continue
        if words[0] == "torchrun":
            words = words[words.index("tropism.cli") :]
        assert words[0].endswith(("tropism", "tropism.cli")), words
        name, rest = (words[1], words[2:]) if words[1] in commands else (" ".join(words[1:3]), words[3:])
        context = commands[name].make_context(name, rest, resilient_parsing=words[-1].isupper())
        if str(context.params.get("recipe", "")).endswith(".toml"):
            assert load(ROOT / context.params["recipe"], context.params["set_"] or ()).stages


def test_the_walk_finds_the_commands():
    seen = {words[1] for document in DOCUMENTS for words in shell_lines(document) if words[0].endswith("tropism")}
    assert {"chat", "compare", "generate", "plan", "promote", "run"} <= seen


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


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("demo", ".venv/bin/tropism demo"),
        ("test", ".venv/bin/python -m pytest -m 'not long' -n auto --maxprocesses 8 --dist loadfile"),
    ],
)
def test_make_runs_what_the_tests_run_in_small(target: str, command: str):
    """`tropism demo` at a tenth of its size: test_quickstart.py."""
    said = subprocess.run(["make", "-n", "-C", ROOT, target], capture_output=True, text=True, check=True).stdout
    assert command in said.splitlines()
    assert ["make", target] in shell_lines(ROOT / "README.md")


def test_the_benchmark_of_the_readme_runs_in_small(monkeypatch, capsys):
    """`make bench` runs more: bench/parity.py is in test_parity.py."""
    said = subprocess.run(["make", "-n", "-C", ROOT, "bench"], capture_output=True, text=True, check=True).stdout
    assert ".venv/bin/python bench/update.py" in said and ".venv/bin/python bench/parity.py" in said
    sizes = "--shape 2 16 3 8 --repeats 1 --json"
    monkeypatch.setattr(sys, "argv", ["update.py", *sizes.split()])
    runpy.run_path(str(ROOT / "bench" / "update.py"))["main"]()
    (row,) = json.loads(capsys.readouterr().out)["shapes"]
    assert row["blocks"]["gradient_difference"] < 1e-5 and row["takes"] in ("padded", "dense", "blocks", "rows")


def test_the_readme_is_short_and_shows_a_run():
    assert len(README.splitlines()) <= 120
    picture = xml.etree.ElementTree.parse(ROOT / "docs" / "reward-and-truth.svg").getroot()
    assert "(docs/reward-and-truth.svg)" in README and picture.tag.endswith("svg")
    panels = [node for node in picture if node.tag.endswith("svg")]
    points = [[n for n in panel.iter() if n.tag.endswith("circle")] for panel in panels]
    assert len(panels) == 2 and len(points[0]) == len(points[1]) > 40  # each round of each run, in both


def test_the_picture_is_drawn_from_metrics(tmp_path: Path):
    run, draw = tmp_path / "run", runpy.run_path(str(ROOT / "bench" / "picture.py"))["main"]
    (run / "ppo-0").mkdir(parents=True)
    (run / "recipe.json").write_text(json.dumps({"stages": {"ppo": {}}, "folders": {"ppo": "ppo-0"}}))
    (run / "ppo-0" / "DONE").touch()
    rounds = [{"round": n, "reward": 2.0 + n, "truth": 0.5 - n / 10} for n in (1, 2, 3)]
    (run / "ppo-0" / "metrics.jsonl").write_text("\n".join(map(json.dumps, [{"updates": 1}, *rounds])))
    draw(str(run), str(tmp_path / "drawn.svg"), "ppo=Mine & yours")
    titles = [
        node.text for node in xml.etree.ElementTree.parse(tmp_path / "drawn.svg").iter() if node.tag.endswith("title")
    ]
    assert titles[2] == "Mine & yours: 2 at round 3"  # the gain in reward since round 1
    assert titles[-1] == "Mine & yours: 0.2 at round 3"


TINY = {"path/or/hub-id": "tiny", "rounds=50": "rounds=2", "steps=50": "steps=2", "max_tokens=64": "max_tokens=16"}
SMALL = ["sft.steps=2", "reward.passes=1", "ppo.rounds=2", "ppo.prompts_per_round=4", "ppo.sampling.max_tokens=8"]


def smaller(text: str) -> str:
    for written, instead in TINY.items():
        text = text.replace(written, instead)
    return text


@pytest.fixture
def world(words: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch) -> Path:
    """A folder that has what the documents take for granted: a model, files of data, a recipe."""
    monkeypatch.chdir(tmp_path)
    save(create(Architecture(width=32, layers=1, heads=2, context=256), words, 0), words, tmp_path / "tiny")
    asked = [f"{n} days" for n in range(40)]
    Path("recipes").symlink_to(ROOT / "recipes")
    Path("prompts.txt").write_text("\n".join(asked), encoding="utf-8")
    records = {
        "prompts": [{"prompt": text} for text in asked],
        "preferences": [{"prompt": text, "chosen": text, "rejected": "no"} for text in asked],
        "chats": [
            {"prompt": [{"role": "user", "content": t}], "completion": [{"role": "assistant", "content": t}]}
            for t in asked
        ],
    }
    for name, lines in records.items():
        Path(f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return tmp_path


def test_the_commands_of_the_readme_run(world: Path, monkeypatch):
    seen = []
    for words in sorted(shell_lines(ROOT / "README.md"), key=lambda words: "chat" in words):  # which needs a run
        if words[0] == "make":
            continue
        assert words[0] == ".venv/bin/tropism", words
        small = [smaller(word).replace("runs/quickstart", "runs/your_model") for word in words[1:]]
        sets = [text for value in SMALL for text in ("--set", value)] if small[0] == "run" else []
        monkeypatch.setattr(sys, "stdin", io.StringIO("3 days\n"))
        said = tropism_says(*small, *sets)
        assert said.code == 0 and said.out, said.err
        seen.append(small[0])
    assert sorted(seen) == ["chat", "plan", "run"]


MANUAL = DOCUMENTS[1:]
EXAMPLES = [(document, i) for document in MANUAL for i in range(len(blocks(document.read_text("utf-8"), "python")))]


@pytest.mark.parametrize(("document", "number"), EXAMPLES, ids=lambda value: getattr(value, "name", str(value)))
def test_every_example_runs(document: Path, number: int, world: Path):
    code = smaller(blocks(document.read_text(encoding="utf-8"), "python")[number])
    (recipe,) = (
        text for text in blocks((ROOT / "docs" / "recipes.md").read_text("utf-8"), "toml") if "[[stage]]" in text
    )
    Path("mine.toml").write_text(recipe + "\n[defaults.rl]\nrounds = 1\n[defaults.sft]\nsteps = 2\n", encoding="utf-8")
    Path("my_module.py").write_text("def my_function(completion):\n    return len(completion)\n", encoding="utf-8")
    Path("example.py").write_text(code, encoding="utf-8")
    runpy.run_path("example.py")


def test_the_example_of_the_readme_trains_a_model(world: Path, capsys):
    (example,) = blocks(README, "python")
    lines = [line for line in example.splitlines() if line.strip()]
    assert len(lines) <= 8
    Path("example.py").write_text(smaller(example), encoding="utf-8")

    runpy.run_path("example.py")
    (stage,) = (world / "runs" / "mine").glob("rl-*")
    assert capsys.readouterr().out.strip() == str((stage / "out").relative_to(world))
    assert {path.name for path in stage.iterdir()} == {
        "stage.json", "metrics.jsonl", "learned.npy", "out", "DONE"
    }  # as docs/runs.md says  # fmt: skip
    trained, before = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (stage / "out", "tiny"))
    assert any(not trained[name].equal(before[name]) for name in before)

    written = (stage / "metrics.jsonl").read_bytes()
    runpy.run_path("example.py")  # done before, skipped
    assert (stage / "metrics.jsonl").read_bytes() == written
    assert len(list((world / "runs" / "mine").glob("rl-*"))) == 1
