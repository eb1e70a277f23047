"""The command line: what each command prints, its exit status, and that help comes at once."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tiny_recipe import BASE, CIRCLE, SAMPLES, SFT, TOKENIZER, tropism
from tropism.recipe.kinds import FOLDERS, names
from tropism.store.folder import latest
from tropism.store.groups import read_groups
from tropism.types import Message

COMMANDS = ("run", "demo", "plan", "show", "chat", "generate", "list", "compare", "promote", "merge")


@pytest.fixture(scope="module")
def circle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe file and, beside it, the finished run `done`."""
    folder = tmp_path_factory.mktemp("circle")
    (folder / "circle.toml").write_text(CIRCLE)
    said = tropism("run", folder / "circle.toml", "--out", folder / "done")
    assert said.code == 0, said.err
    (folder / "said.txt").write_text(said.out)
    return folder


def in_a_process(*words: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tropism.cli", *map(str, words)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.run(command, input=stdin, capture_output=True, text=True, env=env)


def test_help_names_every_command() -> None:
    said = in_a_process("--help")
    assert said.returncode == 0 and not said.stderr
    assert all(re.search(rf"^  {command} ", said.stdout, re.MULTILINE) for command in COMMANDS)


def test_the_command_line_imports_nothing_heavy() -> None:
    script = "import sys, tropism.cli; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "tokenizers", "datasets", "pyarrow", "numpy", "babel", "sacrebleu", "safetensors"}
    assert heavy.isdisjoint(said.stdout.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    said = tropism(command, "--help")
    assert said.code == 0 and "Usage:" in said.out


def test_version_and_no_words() -> None:
    from tropism import __version__

    assert tropism("--version").out.strip() == __version__
    said = tropism()
    assert said.code in (0, 2) and "Usage:" in said.out + said.err


@pytest.mark.parametrize("words", [("fly",), ("run",), ("run", "a", "--fast"), ("chat", "x", "--temperature", "-1")])
def test_wrong_words_are_refused(words: tuple[str, ...]) -> None:
    said = tropism(*words)
    assert said.code == 2 and said.err


def test_run_ends_with_a_summary_and_the_place_of_the_report(circle: Path) -> None:
    said = (circle / "said.txt").read_text()
    assert "exact match, greedy ↑" in said and "sft" in said
    assert f"the report:      {circle / 'done' / 'report.html'}" in said
    assert (circle / "done" / "report.html").stat().st_size > 10_000


def test_run_again_skips_and_says_so(circle: Path) -> None:
    said = tropism("run", circle / "circle.toml", "--out", circle / "done")
    assert said.code == 0
    skipped = [f"{id}: done before, skipped" for id in latest(circle / "done")]
    assert said.err.splitlines() == [f"tropism: reading {circle / 'circle.toml'} …", *skipped]
    quiet = tropism("run", circle / "circle.toml", "--out", circle / "done", "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_set_changes_one_value_and_out_says_where(circle: Path, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(TOKENIZER)
    said = tropism(
        "run",
        tmp_path / "r.toml",
        "--set",
        "tokenizer.vocab_size=290",
        "--set",
        "seed=5",
        "--out",
        tmp_path / "x",
        "-q",
    )
    assert said.code == 0
    told = json.loads((latest(tmp_path / "x")["tokenizer"] / "stage.json").read_text())
    assert told["fields"]["vocab_size"] == 290
    assert json.loads((tmp_path / "x" / "recipe.json").read_text())["seed"] == 5


def test_by_default_the_run_folder_is_named_after_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "r.toml").write_text('name = "mine"\n' + TOKENIZER)
    monkeypatch.chdir(tmp_path)
    assert tropism("run", "r.toml", "-q").code == 0
    assert list(latest(tmp_path / "runs" / "mine")) == ["tokenizer"]


def test_plan_says_what_will_run_and_runs_nothing(circle: Path, tmp_path: Path) -> None:
    said = tropism("plan", circle / "circle.toml", "--out", tmp_path / "none", "--json")
    made = json.loads(said.out)
    rows = {row["id"]: row for row in made["stages"]}
    assert said.code == 0 and not (tmp_path / "none").exists()
    assert list(rows) == list(latest(circle / "done")) and {row["state"] for row in rows.values()} == {"to do"}
    assert (rows["base"]["updates"], rows["base"]["tokens"]) == (5, 5 * 256)
    assert rows["samples"]["tokens"] == 24 * 3 * 8
    assert rows["ppo"]["updates"] == 4 * 2 * 2
    told = json.loads((latest(circle / "done")["base"] / "DONE").read_text())
    assert rows["base"]["parameters"] == told["meta"]["facts"]["parameters"]
    assert all(row["memory_bytes"] > 4 * row["parameters"] - 1 for row in rows.values() if "parameters" in row)
    assert made["memory_bytes"] > 0


def test_plan_knows_what_is_done(circle: Path) -> None:
    said = tropism("plan", circle / "circle.toml", "--out", circle / "done")
    assert said.code == 0 and len(re.findall(r" done ", said.out)) == 8 and "about 0 s to go" in said.out
    changed = tropism("plan", circle / "circle.toml", "--out", circle / "done", "--set", "reward.passes=2", "--json")
    states = {row["id"]: row["state"] for row in json.loads(changed.out)["stages"]}
    assert [id for id, state in states.items() if state == "to do"] == ["reward", "ppo", "evaluation"]


def test_reuse_takes_over_what_another_run_has_done(circle: Path, tmp_path: Path) -> None:
    words = (circle / "circle.toml", "--out", tmp_path / "new", "--reuse", circle / "done")
    made = json.loads(tropism("plan", *words, "--set", "reward.passes=2", "--json").out)
    states = {row["id"]: row["state"] for row in made["stages"]}
    assert [id for id, state in states.items() if state == "to do"] == ["reward", "ppo", "evaluation"]
    assert set(states.values()) == {"taken over", "to do"} and not (tmp_path / "new").exists()
    assert "about 0 s to go" in tropism("plan", *words).out
    said = tropism("run", *words)
    assert said.code == 0
    assert said.err.splitlines()[1:] == [
        f"{id}: taken over from {path}" for id, path in latest(circle / "done").items()
    ]
    for name in ("report.json", "report.html"):
        assert (tmp_path / "new" / name).read_bytes() == (circle / "done" / name).read_bytes()
    for command, run in (("run", tmp_path), ("plan", tmp_path / "none")):
        said = tropism(command, *words[:3], "--reuse", run)
        assert said.code == 2 and re.search(
            r"tropism: \S+ is not a run folder: give one that", said.err.splitlines()[-1]
        )


def test_too_large_a_plan_is_refused_with_the_key_to_change(circle: Path, tmp_path: Path) -> None:
    for command in ("plan", "run"):
        said = tropism(command, circle / "circle.toml", "--out", tmp_path / "x", "--set", "base.model.width=200000")
        assert said.code == 2 and not (tmp_path / "x").exists()
        last = said.err.splitlines()[-1]
        assert re.fullmatch(
            r"tropism: stage base needs about [\d.,]+ GiB, but .* are free: lower base.model.width or .*", last
        )


OUTSIDE = """
import shutil
from dataclasses import dataclass
from typing import ClassVar
from tropism.types import ModelRef

@dataclass(frozen=True)
class Copy:
    model: ModelRef
    version: ClassVar[int] = 1
    makes: ClassVar[str] = "model"

    def run(self, work):
        shutil.copytree(self.model, work.out, dirs_exist_ok=True)
"""


def test_a_stage_from_outside_stands_among_the_others(tmp_path: Path) -> None:
    (tmp_path / "outside_stage.py").write_text(OUTSIDE)
    copy = '[[stage]]\nid = "copy"\nkind = "outside_stage:Copy"\nmodel = "base"\n'
    more = BASE.replace('"base"', '"more"').replace('tokenizer = "tokenizer"', 'tokenizer = "copy"')
    (tmp_path / "r.toml").write_text(TOKENIZER + BASE + copy + SFT.replace('model = "base"', 'model = "copy"') + more)
    said = tropism("plan", tmp_path / "r.toml", "--json")
    rows = {row["id"]: row for row in json.loads(said.out)["stages"]}
    assert "parameters" in rows["base"] and not any("parameters" in rows[id] for id in ("copy", "sft", "more"))
    assert rows["copy"]["needs"] == "unknown" and "needs" not in rows["sft"] | rows["base"]
    assert re.search(r"^copy +outside_stage +to do +unknown", tropism("plan", tmp_path / "r.toml").out, re.MULTILINE)
    assert tropism("run", tmp_path / "r.toml", "--out", tmp_path / "x", "-q").code == 0
    assert list(latest(tmp_path / "x")) == ["tokenizer", "base", "copy", "sft", "more"]


PLANNED = (
    OUTSIDE.replace("Copy", "Halved")
    + """
    def needs(self, earlier):
        from tropism.needs import Needs, Shape, training

        made = earlier.model(self.model)
        half = Shape(made.parameters // 2, made.vocabulary, made.width, made.layers)
        return training(half, updates=3, tokens=900, at_once=300, pass_tokens=100, keys=("model", "size"), trained=2)
"""
)


def test_a_stage_from_outside_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "planned_stage.py").write_text(PLANNED)
    half = '[[stage]]\nid = "half"\nkind = "planned_stage:Halved"\nmodel = "base"\n'
    (tmp_path / "r.toml").write_text(TOKENIZER + BASE + half + SFT.replace('model = "base"', 'model = "half"'))
    said = tropism("plan", tmp_path / "r.toml", "--out", tmp_path / "x", "--json")
    rows = {row["id"]: row for row in json.loads(said.out)["stages"]}
    found, parameters = rows["half"], rows["base"]["parameters"] // 2
    assert (found["parameters"], found["updates"], found["tokens"]) == (parameters, 3, 900)
    activations = 100 * (1 * 16 * 4 * 24 + 300 * 4 * 3)  # tokens of a pass; one layer 16 wide, a vocabulary of 300
    assert found["memory_bytes"] == 2 * 16 * parameters + activations
    assert found["key"] == "half.model or half.size" and "seconds" in found and "needs" not in found
    assert rows["sft"]["parameters"] == parameters  # what the stage leaves, later stages know


def test_plan_without_code_imports_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = tmp_path / "ran"
    (tmp_path / "trespassing.py").write_text(f"open({str(trace)!r}, 'a').write('x')\n" + OUTSIDE)
    copy = '[[stage]]\nid = "copy"\nkind = "trespassing:Copy"\nmodel = "base"\n'
    judge = 'judges = [{ kind = "verifier", function = "trespassing:judge" }, { kind = "annotator" }]\n'
    label = '[[stage]]\nid = "rankings"\nkind = "label"\ngroups = "samples"\n' + judge
    outside = SFT.replace('model = "base"', 'model = "copy"')
    (tmp_path / "r.toml").write_text(TOKENIZER + BASE + copy + outside + SAMPLES + label)
    path = list(sys.path)
    said = tropism("plan", tmp_path / "r.toml", "--out", tmp_path / "x", "--no-code", "--json")
    assert said.code == 0 and not trace.exists() and sys.path == path and "trespassing" not in sys.modules
    rows = {row["id"]: row for row in json.loads(said.out)["stages"]}
    assert rows["copy"] == {
        "id": "copy",
        "kind": "trespassing:Copy",
        "state": "not known",
        "not_read": ["trespassing:Copy"],
    }
    assert rows["rankings"]["not_read"] == ["trespassing:judge"]
    assert {id: row["state"] for id, row in rows.items()} == {
        "tokenizer": "to do",
        "base": "to do",
        **dict.fromkeys(("copy", "sft", "samples", "rankings"), "not known"),
    }
    assert "parameters" in rows["base"]
    shown = tropism("plan", tmp_path / "r.toml", "--out", tmp_path / "x", "--no-code").out
    assert "code from outside the package, not loaded: trespassing:Copy, trespassing:judge" in shown
    assert tropism("plan", tmp_path / "r.toml", "--out", tmp_path / "x").code == 2  # it has no `judge`
    assert trace.read_text() == "x"


def test_code_that_fails_when_it_is_read_is_one_sentence_and_its_lines(tmp_path: Path) -> None:
    for name, line, says in (
        ("dividing", "1 / 0", "ZeroDivisionError (division by zero)"),
        ("left", "exit(0)", "SystemExit (0)"),
    ):
        (tmp_path / f"{name}.py").write_text(f"x = 1\n{line}\n")
        (tmp_path / "r.toml").write_text(f'[[stage]]\nid = "x"\nkind = "{name}:Stage"\n')
        said = tropism("plan", tmp_path / "r.toml")
        first, *lines = said.err.splitlines()
        assert said.code == 2 and first == f"tropism: r.toml: x: {name} raised {says}: fix it"
        assert lines[0] == f'  File "{tmp_path / name}.py", line 2, in <module>'


def test_show_prints_the_report(circle: Path) -> None:
    said = tropism("show", circle / "done", "--json")
    shown = json.loads(said.out)
    assert said.code == 0 and shown == json.loads((circle / "done" / "report.json").read_text())
    assert shown["recipe"] == "circle" and list(shown["models"]) == ["base", "sft", "ppo"]
    assert shown["models"]["sft"]["exact_greedy"].keys() == {"value", "low", "high"}
    assert {"n_pairs", "n_groups"} <= shown["reward_model"].keys() and "base_completes" in shown
    assert "exact match, greedy ↑" in tropism("show", circle / "done").out


def test_chat_answers_each_line_of_its_input(circle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "Translate into French: 3 days\nand 4 days?\n"
    said = in_a_process("chat", circle / "done", "--max-tokens", 4, stdin=lines)
    assert said.returncode == 0 and said.stderr == ""
    assert said.stdout.endswith("\n") and said.stdout.count("\n") >= 2
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    assert tropism("chat", circle / "done", "--max-tokens", 4).out == said.stdout  # greedy


def test_chat_ends_at_an_empty_line_and_forgets_what_no_longer_fits(
    circle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"Translate into French: {n} days and {n} hours\n" for n in range(12)]  # more than 256 tokens
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(lines)))
    said = tropism("chat", circle / "done", "--system", "Be brief.", "--temperature", "1", "--seed", "3")
    assert said.code == 0 and said.err == ""
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n" + "".join(lines)))
    assert tropism("chat", circle / "done").out == ""


def test_chat_and_generate_hand_their_memory_to_the_engine(circle: Path, tmp_path: Path) -> None:
    (tmp_path / "asked.txt").write_text("3 days\n")
    file = ("--prompts", tmp_path / "asked.txt", "--out", tmp_path / "out.jsonl", "-q")
    for command, more in (("chat", ()), ("generate", file)):
        said = tropism(command, circle / "done", *more, "--memory", "lots")
        assert said.code == 2 and "memory = 'lots' is no size" in said.err


def test_generate_answers_a_file(circle: Path, tmp_path: Path) -> None:
    (tmp_path / "asked.txt").write_text("three days\n\nzwölf Tage\n")
    model = latest(circle / "done")["sft"] / "out"
    words = ("generate", model, "--prompts", tmp_path / "asked.txt", "-n", 2, "--max-tokens", 5, "--seed", 1)
    said = tropism(*words, "--out", tmp_path / "new" / "x.jsonl")
    assert said.code == 0 and said.out == f"2 prompts answered in {tmp_path / 'new' / 'x.jsonl'}\n"
    lines = [json.loads(line) for line in (tmp_path / "new" / "x.jsonl").read_text("utf-8").splitlines()]
    assert [line["prompt"][0]["content"] for line in lines] == ["three days", "zwölf Tage"]
    assert [len(line["completions"]) for line in lines] == [2, 2]
    assert tropism(*words, "--out", tmp_path / "x.parquet", "-q").out == ""
    groups = list(read_groups(tmp_path / "x.parquet"))
    assert [[c.text for c in g.completions] for g in groups] == [[c["text"] for c in x["completions"]] for x in lines]


def test_generate_with_a_run_folder_uses_its_last_policy(circle: Path, tmp_path: Path) -> None:
    (tmp_path / "asked.txt").write_text("three days\n")
    made = []
    for model in (circle / "done", latest(circle / "done")["ppo"] / "out", latest(circle / "done")["sft"] / "out"):
        out = tmp_path / "x.jsonl"
        words = ("generate", model, "--prompts", tmp_path / "asked.txt", "--out", out, "--max-tokens", 9, "-q")
        assert tropism(*words, "--force").code == 0
        made.append([c["logprobs"] for c in json.loads(out.read_text("utf-8"))["completions"]])
    assert made[0] == made[1] != made[2]


def test_generate_replaces_a_file_only_by_force(circle: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked.jsonl"
    asked.write_text('{"prompt": "three days"}\n')
    words = ("generate", circle / "done", "--prompts", asked, "--max-tokens", 3, "-q")
    said = tropism(*words, "--out", asked)  # the slip of the hand that cost a file of prompts
    assert said.code == 2 and said.err == f"tropism: {asked} exists: name another file, or give --force to replace it\n"
    assert asked.read_text() == '{"prompt": "three days"}\n' and os.listdir(tmp_path) == ["asked.jsonl"]
    (tmp_path / "file").write_text("x")
    said = tropism(*words, "--out", tmp_path / "file" / "x.jsonl")
    assert said.code == 2 and "x.jsonl cannot be written (" in said.err and said.err.count("\n") == 1
    assert tropism(*words, "--out", asked, "--force").code == 0
    assert len(json.loads(asked.read_text())["completions"]) == 1 and sorted(os.listdir(tmp_path)) == [
        "asked.jsonl",
        "file",
    ]


@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet"])
def test_a_full_disk_keeps_the_answers_that_were_there(circle: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "asked.txt").write_text("three days\n" * 9)
    (tmp_path / name).write_text("mine")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    words = (
        "generate",
        circle / "done",
        "--prompts",
        tmp_path / "asked.txt",
        "--max-tokens",
        2,
        "-n",
        40,
        "-q",
        "--force",
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        said = tropism(*words, "--out", tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert said.code == 2 and said.err.startswith(f"tropism: the disk is full while writing {tmp_path / name}")
    assert said.err.count("\n") == 1 and sorted(os.listdir(tmp_path)) == ["asked.txt", name]
    assert (tmp_path / name).read_text() == "mine"


def test_damaged_stages_are_passed_over_by_show_and_chat(circle: Path, tmp_path: Path) -> None:
    shutil.copytree(circle / "done", tmp_path / "run")
    for id in ("ppo", "sft"):
        (latest(tmp_path / "run")[id] / "stage.json").write_text('{"fields": {"ki')
    said = tropism("chat", tmp_path / "run")
    assert said.code == 2 and "has no finished stage that makes a policy to talk to" in said.err
    said = tropism("show", tmp_path / "run", "--json")
    assert said.code == 0 and {"base", "reward"} <= set(json.loads(said.out)["stages"]) - {"ppo", "sft"}
    (tmp_path / "run" / "recipe.json").write_text('{"name": "circle", "fol')
    for words in (("show",), ("chat",), ("compare",)):
        said = tropism(*words, tmp_path / "run")
        assert said.code == 2 and "recipe.json is damaged: `tropism run` the recipe again with --out" in said.err


def test_a_models_control_characters_reach_no_terminal(circle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tropism.engines.local import LocalEngine

    heard: list[list[str]] = []

    def stream(self: object, prompt: list[Message], params: object) -> Iterator[str]:
        heard.append([m.content for m in prompt])
        yield from ("\x1b]0;title\x07\x1b[", "31mred\r\x9b2J", " é\n\tnext\u202egnorw\x7f")

    monkeypatch.setattr(LocalEngine, "stream", stream)
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n"))
    said = tropism("chat", circle / "done")
    assert said.out == "]0;title[31mred2J é\n\tnextgnorw\n" * 2
    assert heard[1][1] == "\x1b]0;title\x07\x1b[31mred\r\x9b2J é\n\tnext\u202egnorw\x7f"  # what it goes on from


def test_a_key_that_is_no_utf8_ends_no_chat(circle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"3 jours \xe9\n"), encoding="utf-8"))
    said = tropism("chat", circle / "done", "--max-tokens", 2)
    assert (said.code, said.err) == (0, "") and said.out.endswith("\n")


@pytest.mark.parametrize("folder", [*sorted(FOLDERS.values()), "recipes"])
def test_list_offers_every_kind_with_its_keys(folder: str) -> None:
    said = tropism("list", folder)
    assert said.code == 0 and names(folder)
    for name in names(folder):
        assert re.search(rf"^{name}\b", said.out, re.MULTILINE)
    if folder == "algorithms":
        assert re.search(r"^    clip: float = 0\.2 \(above 0\)$", said.out, re.MULTILINE)
    if folder == "stages":
        assert re.search(r"^    data: Format$", said.out, re.MULTILINE)  # needed
        assert re.search(r"^    optim: Optim = Optim\(lr=", said.out, re.MULTILINE)  # and not needed


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("list", "stagges"), "there is no folder 'stagges': choose one of algorithms, engines"),
        (("run", "quikstart", "-q"), "there is no recipe quikstart: give a .toml file or one of"),
        (("show", "."), "is not a run folder: give one that `tropism run` has made"),
        (("chat", "./nowhere"), "./nowhere"),
        (
            ("generate", "./nowhere", "--prompts", "x.txt", "--out", "y.txt"),
            "y.txt ends in neither .jsonl nor .parquet",
        ),
        (("generate", "./nowhere", "--prompts", "x.txt", "--out", "y.jsonl"), "there is no file x.txt"),
        (("generate", "./nowhere", "--prompts", "x.txt", "--out", "."), ". is a folder: name a file in it that ends"),
    ],
)
def test_a_mistake_is_one_sentence_on_standard_error_and_status_2(
    words: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = tropism(*words)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("tropism: ") and says in said.err and said.err.count("\n") == 1


def test_a_run_without_a_chat_model_has_nothing_to_talk_to(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(TOKENIZER)
    assert tropism("run", tmp_path / "r.toml", "--out", tmp_path / "x", "-q").code == 0
    said = tropism("chat", tmp_path / "x")
    assert said.code == 2 and "has no finished stage that makes a policy to talk to" in said.err


def test_a_real_process_says_a_mistake_in_one_line(tmp_path: Path) -> None:
    said = in_a_process("show", tmp_path)
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr == f"tropism: {tmp_path} is not a run folder: give one that `tropism run` has made\n"
