"""How commands end: Ctrl-C, SIGTERM, a closed pipe, a full machine, outside code that leaves."""

from __future__ import annotations

import errno
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from tiny_recipe import BASE, TOKENIZER, tropism, weights
from tropism.ending import Terminated
from tropism.errors import Waiting

CONTINUES = "tropism: stopped; the same command continues from the last checkpoint"


def _command(words: tuple[str, ...], said: Path, environment: dict[str, str]) -> None:
    from tropism.cli import main

    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in the background it is ignored
    for number in (1, 2):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv = ["tropism", *words]
    main()


def begin(said: Path, *words: object, **environment: str) -> BaseProcess:
    """The command in a process that has imported everything and writes all it says to the file `said`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tropism.plan", "tropism.report.build", "tropism.report.summary", "tropism.talk"])
    process = context.Process(target=_command, args=(tuple(map(str, words)), said, environment))
    process.start()
    return process


def wait_for(happens: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_says_that_the_same_command_continues_and_it_does(
    tmp_path: Path, number: int, status: int
) -> None:
    (tmp_path / "r.toml").write_text(TOKENIZER + BASE.replace("steps = 5", "steps = 40"))
    words = ("run", tmp_path / "r.toml", "--checkpoint-s", 0)
    assert tropism(*words, "--out", tmp_path / "whole", "-q").code == 0
    process = begin(tmp_path / "said", *words, "--out", tmp_path / "cut")
    wait_for(lambda: list(tmp_path.glob("cut/base-*/checkpoints/0*")))
    os.kill(process.pid or 0, number)
    process.join(60)
    assert process.exitcode == status
    assert (tmp_path / "said").read_text().splitlines()[-1] == CONTINUES
    assert not list(tmp_path.glob("cut/**/*.part"))
    said = tropism(*words, "--out", tmp_path / "cut")
    assert said.code == 0 and "base: continues from step " in said.err
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_ctrl_c_during_the_imports(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tropism.cli", "demo", "--out", str(tmp_path / "x")]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child inherits that it is ignored
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    assert process.stderr is not None
    first = process.stderr.readline()  # it comes before them
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (first, out, err) == ("tropism: reading quickstart …\n", "", CONTINUES + "\n")
    # Python ends itself by the signal if that came within `exec` of a text, as named tuples do; a shell calls both 130
    assert process.returncode in (130, -signal.SIGINT)


@pytest.mark.parametrize(("stop", "status"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_a_stop_while_torch_writes_is_a_stop(
    stop: type[BaseException], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stops(io.BytesIO):
        def write(self, part: Any) -> int:
            if self.tell():
                raise stop
            return super().write(part)

    monkeypatch.setattr("tropism.recipe.read.load", lambda *_: torch.save({"x": torch.ones(9)}, Stops()))
    with pytest.raises(RuntimeError):  # what torch makes of it
        torch.save({"x": torch.ones(9)}, Stops())
    said = tropism("run", "quickstart", "-q")
    assert (said.code, said.err) == (status, CONTINUES + "\n")


def test_of_several_processes_one_says_that_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tropism.recipe.read.load", stopped)
    for rank, says in (("0", CONTINUES + "\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        said = tropism("run", "quickstart", "-q")
        assert (said.code, said.err) == (130, says)
    monkeypatch.delenv("RANK")
    assert tropism("plan", "quickstart").err == "tropism: stopped\n"  # there is nothing to continue
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m tropism.cli list stages | head -n 1; exit ${{PIPESTATUS[0]}}"
    said = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert said.returncode in (0, 141) and said.stderr == "" and said.stdout.startswith("best_of_n: ")


class HTTPError(Exception):
    __module__ = "huggingface_hub.errors"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            "the memory is full: lower pass_tokens",
        ),
        (RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"), "the memory is full: lower"),
        (MemoryError(), "the memory is full: lower"),
        (
            HTTPError("404 for\nurl"),
            "the hub or another server did not answer (HTTPError (404 for url)): check network",
        ),
        (httpx2.ConnectError("no route"), "the hub or another server did not answer (ConnectError (no route))"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "the hub or another server did not answer"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "the disk is full at /x/y: free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x cannot be used (Permission denied): fix"),
        (SystemExit(0), "code from outside the package raised SystemExit (0): let it raise an error"),
    ],
)
def test_what_the_world_does_is_one_sentence(error: BaseException, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("tropism.recipe.read.load", fails)
    said = tropism("run", "quickstart", "-q")
    first, *lines = said.err.splitlines()
    assert (said.code, said.out) == (2, "") and first.startswith(f"tropism: {says}")
    assert bool(lines) == isinstance(error, SystemExit)  # whose lines of code are shown


def test_a_run_that_waits_for_people_ends_with_a_status_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(*_: object) -> None:
        raise Waiting("240 of 400 groups still need judgments")

    monkeypatch.setattr("tropism.recipe.read.load", waits)
    for rank, says in (("0", "tropism: 240 of 400 groups still need judgments\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        said = tropism("run", "quickstart", "-q")
        assert (said.code, said.out, said.err) == (3, "", says)


def test_a_bug_shows_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tropism.recipe.read.load", lambda *_: {}["no such key"])
    with pytest.raises(KeyError):
        tropism("run", "quickstart", "-q")


def test_a_reward_function_that_leaves_does_not_end_the_run_as_if_it_had_worked(tmp_path: Path) -> None:
    (tmp_path / "leaving.py").write_text("import sys\ndef judge(completion):\n    sys.exit(0)\n")
    label = '[[stage]]\nid = "l"\nkind = "label"\ndata = { kind = "chat", path = "c.jsonl" }\n'
    (tmp_path / "c.jsonl").write_text('{"instruction": "a", "output": "b"}\n' * 2)
    for more, code in (("", 2), (', on_error = "skip"', 2)):
        judge = f'judges = [{{ kind = "leaving:judge"{more} }}]\n'
        (tmp_path / "r.toml").write_text(label.replace("c.jsonl", str(tmp_path / "c.jsonl")) + judge)
        said = tropism("run", tmp_path / "r.toml", "--out", tmp_path / "x")
        assert said.code == code
    lines = said.err.splitlines()
    assert lines[1].startswith("l: a completion has no score: judge raised SystemExit (0) for the completion")
    assert lines[2] == "tropism: no judge scored any completion: name a judge that can, under `judges`"
