"""The number of threads of a run: how many are free, what wins, what is recorded, what a run that continues does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tiny_recipe import TOKENIZER, tropism
from tropism.store.progress import Reporter
from tropism.train import threads


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user has not said how many."""
    for name in threads.CHOSEN:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("most", "windows", "number"),
    [
        (2, [1.98], 2),  # an idle machine
        (2, [1.8], 2),  # with a fifth of a processor in use
        (2, [0.67] * 5, 1),  # two threads beside four others
        (2, [1.33] * 5, 1),  # beside one
        (2, [0.9, 1.9, 1.9, 1.9, 1.3], 2),  # something that lasted a moment
        (2, [1.3, 1.9, 1.3, 1.9, 1.3], 1),
        (16, [1.0] * 5, 1),  # a container with one processor on a machine with 16
        (64, [63.3] * 5, 63),
        (64, [31.9] * 5, 32),
        (1, [], 1),  # nothing to choose
    ],
)
def test_the_processors_that_others_leave_free(most: int, windows: list[float], number: int) -> None:
    left = iter(windows)
    assert threads.free(most, lambda count: next(left)) == number
    assert next(left, None) is None  # an idle machine is measured once


def test_the_time_that_busy_threads_get_is_measured() -> None:
    """One thread cannot get more than one processor, nor 4 n threads more than n."""
    assert 0.05 < threads.processors(1, 0.05) <= 1.01
    count = os.cpu_count() or 1
    assert threads.processors(4 * count, 0.1) < 1.25 * count


BUSY = "while True: pass"


def test_busy_processes_are_seen() -> None:
    """Beside four processes for each processor nobody gets all of them."""
    count = len(os.sched_getaffinity(0))
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(4 * count)]
    try:
        threading.Event().wait(0.2)  # until they are busy
        assert threads.processors(count) < 0.8 * count
    finally:
        for other in others:
            other.kill()
            other.wait()


def record(folder: Path, number: object) -> Path:
    (folder / "recipe.json").write_text(json.dumps({"stages": {}, "folders": {}, "threads": number}))
    return folder


def settled(folder: Path, capsys: pytest.CaptureFixture, processes: int = 1) -> tuple[int, str]:
    """The number, as torch has it, and what was said."""
    number = threads.settle(folder, Reporter(), processes)
    assert torch.get_num_threads() == number
    return number, capsys.readouterr().err.strip()


@pytest.mark.usefixtures("unset")
def test_a_new_run_measures_and_one_that_continues_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    torch.set_num_threads(4)
    monkeypatch.setattr(threads, "processors", lambda count: 1.1)
    said = "computes with 1 thread, not 4: other programs used the processors when it began"
    assert settled(tmp_path, capsys) == (1, said)
    torch.set_num_threads(4)
    monkeypatch.setattr(threads, "processors", lambda count: 4.0)
    assert settled(tmp_path, capsys) == (4, "")
    assert settled(record(tmp_path, 1), capsys) == (1, said)  # idle by now, but it began with 1
    torch.set_num_threads(4)
    monkeypatch.setattr(threads, "processors", lambda count: 0.0)
    assert settled(record(tmp_path, 4), capsys) == (4, "")  # and the reverse
    for odd in ("4", 0, -1, None):
        assert threads.recorded(record(tmp_path, odd)) == 0


@pytest.mark.usefixtures("unset")
def test_a_machine_with_fewer_processors_uses_those_it_has(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.set_num_threads(2)
    assert settled(record(tmp_path, 8), capsys) == (
        2,
        "computes with 2 threads and began with 8: the last digits of its results may differ",
    )


@pytest.mark.parametrize("name", threads.CHOSEN)
def test_the_user_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, name: str
) -> None:
    monkeypatch.setenv(name, "3")
    monkeypatch.setattr(threads, "processors", lambda count: pytest.fail("measured"))
    torch.set_num_threads(3)  # as torch does when it is loaded
    assert settled(tmp_path, capsys) == (3, "")
    number, said = settled(record(tmp_path, 1), capsys)
    assert number == 3 and said.startswith("computes with 3 threads and began with 1:")


@pytest.mark.usefixtures("unset")
def test_several_processes_measure_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(threads, "processors", lambda count: pytest.fail("measured"))
    assert settled(tmp_path, capsys, processes=2) == (torch.get_num_threads(), "")


@pytest.mark.usefixtures("unset")
def test_a_run_records_its_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    monkeypatch.setattr(threads, "processors", lambda count: 1.0)
    (tmp_path / "r.toml").write_text(TOKENIZER)
    words = ("run", tmp_path / "r.toml", "--out", tmp_path / "x")
    first = tropism(*words)
    assert "computes with 1 thread, not 2" in first.err
    assert threads.recorded(tmp_path / "x") == torch.get_num_threads() == 1
    torch.set_num_threads(2)
    monkeypatch.setattr(threads, "processors", lambda count: 2.0)
    assert tropism(*words, "-q").code == 0 and threads.recorded(tmp_path / "x") == torch.get_num_threads() == 1


SPINS = "import os, sys; sys.argv = ['tropism', '--version']; from tropism.cli import main\ntry: main()\n"
SPINS += "except SystemExit: print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"


@pytest.mark.parametrize(
    ("given", "spins"), [({}, "20000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)
def test_waiting_threads_soon_sleep_unless_the_user_says_otherwise(given: dict[str, str], spins: str) -> None:
    bare = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    said = subprocess.run([sys.executable, "-c", SPINS], capture_output=True, text=True, env=bare | given)
    assert said.stdout.splitlines()[-1] == f"{spins} False", said.stderr
