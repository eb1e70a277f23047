"""Lets the threads of a run sleep while they wait, as long as other programs want the processors.

A thread that waits for the others of its operation keeps its processor for GOMP_SPINCOUNT turns before it sleeps. That is
fastest on an idle machine, and several times slower than sleeping beside busy programs. libgomp reads the number once, but
it waits only 100 turns while it has more threads than there are processors, counted over all teams. So a team that does
nothing makes every thread of the process sleep at once, and its end undoes that. Operations keep their number of threads,
so results stay the same bit for bit.

Linux tells whether others want the processors: how long threads of this process were ready to run and had none.
docs/decisions/0067-waiting.md has the measurements.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

PERIOD_S = 0.5  # between two looks
CROWDED = 0.1  # processors that the threads of this process wanted and did not get
CALM = 4  # looks after which others are taken to be gone
TASKS = Path("/proc/self/task")


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Watches in a thread of its own while the block runs, if there is something to gain; not against OMP_WAIT_POLICY."""
    library = _libgomp()
    if library is None or torch.get_num_threads() == 1 or "OMP_WAIT_POLICY" in os.environ or not lost():
        yield
        return
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(library, ended), name="waiting", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


@contextlib.contextmanager
def sleeping(library: ctypes.CDLL) -> Iterator[None]:
    """In this block threads that wait sleep almost at once, in the whole process."""
    ended, begun = threading.Event(), threading.Event()

    def hold() -> None:  # a team lasts as long as the thread that began it
        nothing = ctypes.cast(library.omp_get_num_threads, ctypes.c_void_p)
        library.GOMP_parallel(nothing, None, library.omp_get_num_procs() + 1, 0)
        begun.set()
        ended.wait()

    holder = threading.Thread(target=hold, name="sleeping", daemon=True)
    holder.start()
    begun.wait()
    try:
        yield
    finally:
        ended.set()
        holder.join()


def lost() -> dict[str, int]:
    """Nanoseconds that each thread of this process was ready to run and had no processor; empty where nobody tells."""
    found = {}
    with contextlib.suppress(OSError):
        for task in os.listdir(TASKS):
            with contextlib.suppress(OSError, IndexError, ValueError):  # a thread may have ended
                found[task] = int((TASKS / task / "schedstat").read_text().split()[1])
    return found


def looks_calm(calm: int, before: dict[str, int], now: dict[str, int], seconds: float) -> int:
    """For how many looks in a row nobody else wanted the processors, CALM at most."""
    more = sum(now[task] - before[task] for task in now.keys() & before.keys())
    return 0 if more > CROWDED * seconds * 1e9 else min(calm + 1, CALM)


def _watch(library: ctypes.CDLL, ended: threading.Event) -> None:
    calm, before, began = CALM, lost(), time.perf_counter()
    with contextlib.ExitStack() as team:
        while not ended.wait(PERIOD_S):
            was, now, at = calm, lost(), time.perf_counter()
            calm, before, began = looks_calm(calm, before, now, at - began), now, at
            if calm < CALM == was:
                team.enter_context(sleeping(library))
            elif was < CALM == calm:
                team.close()


def _libgomp() -> ctypes.CDLL | None:
    """The one that torch has loaded; None if it uses another library."""
    try:
        return ctypes.CDLL("libgomp.so.1", mode=getattr(os, "RTLD_NOLOAD", 0) | os.RTLD_NOW)
    except OSError:
        return None
