"""Threads that wait sleep while others want the processors: what is read, what follows, what it does, what it leaves."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tiny_recipe import TOKENIZER, tropism
from tropism.train import waiting

LIBRARY = waiting._libgomp()
on_libgomp = pytest.mark.skipif(LIBRARY is None, reason="torch does not use libgomp here")


def test_what_threads_did_not_get_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for task, line in (("1", "500 70 3"), ("2", "900 8 1"), ("3", "")):  # the third has just ended
        (tmp_path / task).mkdir()
        (tmp_path / task / "schedstat").write_text(line)
    (tmp_path / "4").mkdir()
    monkeypatch.setattr(waiting, "TASKS", tmp_path)
    assert waiting.lost() == {"1": 70, "2": 8}
    monkeypatch.setattr(waiting, "TASKS", tmp_path / "none")
    assert waiting.lost() == {}


@pytest.mark.parametrize(
    ("calm", "before", "now", "then"),
    [
        (4, {"1": 0}, {"1": 49_000_000}, 4),  # less than a tenth of half a second
        (4, {"1": 0}, {"1": 51_000_000}, 0),
        (4, {"1": 0, "2": 0}, {"1": 30_000_000, "2": 30_000_000}, 0),  # together
        (0, {"1": 0}, {"1": 0}, 1),
        (2, {"1": 0}, {"1": 51_000_000}, 0),  # from the beginning
        (4, {"1": 0, "2": 900_000_000}, {"1": 0, "3": 900_000_000}, 4),  # one thread ended, another one began
    ],
)
def test_others_are_gone_after_some_looks(calm: int, before: dict[str, int], now: dict[str, int], then: int) -> None:
    assert waiting.looks_calm(calm, before, now, 0.5) == then


SPINS = """
import time, torch
from tropism.train import waiting
library = waiting._libgomp()
torch.set_num_threads(2)
x = torch.ones(1 << 20)
first = x.exp().sum()

def waits():
    "The processor time of half a second in which the other thread waits for the next operation."
    x.exp()
    began = time.process_time()
    time.sleep(0.5)
    return time.process_time() - began

before = waits()
with waiting.sleeping(library):
    within, same = waits(), torch.equal(first, x.exp().sum())
print(before, within, waits(), same)
"""


@on_libgomp
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="on one processor threads always sleep")
def test_a_thread_that_waits_sleeps_and_results_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "100000000000")  # it never sleeps by itself
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    said = subprocess.run([sys.executable, "-c", SPINS], capture_output=True, text=True, check=True, timeout=120).stdout
    *times, same = said.split()
    before, within, after = map(float, times)
    assert within < 0.03 and before > 2 * within and after > 2 * within and same == "True"


@on_libgomp
def test_a_team_begins_with_the_load_and_ends_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The team is a thread called "sleeping"; what others take is told in place of read."""
    stolen = {"1": 1}
    monkeypatch.setattr(waiting, "PERIOD_S", 0.01)
    monkeypatch.setattr(waiting, "lost", lambda: dict(stolen))
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def has_team(wanted: bool) -> bool:
        until = time.monotonic() + 30
        while (
            found := any(t.name == "sleeping" for t in threading.enumerate())
        ) != wanted and time.monotonic() < until:
            if wanted:
                stolen["1"] += 1 << 40
            time.sleep(0.01)
        return found

    with waiting.watched():
        assert not has_team(False) and has_team(True) and not has_team(False) and has_team(True)
    assert not {"waiting", "sleeping"} & {t.name for t in threading.enumerate()}


@pytest.mark.parametrize("why", ["one thread", "a policy", "another library", "nobody tells"])
def test_where_there_is_nothing_to_gain_nothing_is_watched(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1 if why == "one thread" else 2)
    monkeypatch.setattr(waiting, "_libgomp", lambda: None if why == "another library" else object())
    monkeypatch.setattr(waiting, "lost", lambda: {} if why == "nobody tells" else {"1": 1})
    if why == "a policy":
        monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    with waiting.watched():
        assert "waiting" not in {t.name for t in threading.enumerate()}


def test_a_run_is_watched_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    @contextlib.contextmanager
    def watched() -> Iterator[None]:
        seen.append((tmp_path / "run").exists())
        yield
        seen.append(bool(list((tmp_path / "run").glob("tokenizer-*"))))

    monkeypatch.setattr(waiting, "watched", watched)
    (tmp_path / "r.toml").write_text(TOKENIZER)
    assert tropism("run", tmp_path / "r.toml", "--out", tmp_path / "run", "-q").code == 0
    assert seen == [False, True]
