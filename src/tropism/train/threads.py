"""How many threads a run computes with: as many as there are processors free for it when it begins.

The threads of an operation wait for each other at its end. If another program has one of the processors, one thread is
late and the others wait for it at each of the thousands of operations of an update: beside four other processes on two
processors, two threads make a fraction of the updates of one. So a new run starts n threads for a moment, and measures
how much processor time they get; that many threads it uses. This also sees the limit of a container.

The number of threads changes roundings. It is in the run folder's recipe.json, and a run that continues keeps it, even if
the machine is idle by then. OMP_NUM_THREADS or MKL_NUM_THREADS in the environment decides instead, and so do several
processes (`train/parallel.py`).

Load that comes later does not change the number. `waiting.py` lets threads that wait sleep then; and from the start
`cli.py:main` has them wait for 20,000 turns in place of 300,000 (GOMP_SPINCOUNT), in which nobody else can use the
processor. docs/decisions/0059-threads.md has the measurements.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tropism.errors import TropismError
from tropism.store.folder import read_recipe
from tropism.store.progress import Reporter
from tropism.train import heap

CHOSEN = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # by the user
WINDOW_S, WINDOWS = 0.1, 5
SLACK = 0.25  # of a processor that other programs may use without costing the run a thread


def settle(folder: Path, reporter: Reporter, processes: int = 1) -> int:
    """Sets the number of threads of a run in `folder`, new or continued, and returns it; also how it keeps memory."""
    import torch

    heap.keep()
    most, before = torch.get_num_threads(), recorded(folder)
    chosen = processes > 1 or any(os.environ.get(name) for name in CHOSEN)
    number = most if chosen else min(before or free(most), most)
    if before and number != before:
        reporter.line(
            f"computes with {_threads(number)} and began with {before}: the last digits of its results may differ"
        )
    elif number < most:
        reporter.line(f"computes with {_threads(number)}, not {most}: other programs used the processors when it began")
    torch.set_num_threads(number)
    return number


def recorded(folder: Path) -> int:
    """The number of threads in the recipe.json of a run folder; 0 if there is none."""
    try:
        found = read_recipe(folder).get("threads")
    except TropismError:
        return 0
    return found if isinstance(found, int) and found > 0 else 0


def free(most: int, shares: Callable[[int], float] | None = None) -> int:
    """How many of `most` processors other programs leave free, at least 1. What lasts only a moment is not counted: if
    the first window finds too few, the median of several decides."""
    measure = shares or processors
    found: list[int] = []
    while len(found) < WINDOWS and (not found or found[0] < most) and most > 1:
        found.append(int(measure(most) + SLACK))
    return min(max(int(statistics.median(found or [1])), 1), most)


def processors(count: int, seconds: float = WINDOW_S) -> float:
    """The processors that `count` busy threads of this process get for some time, between 0 and `count`."""
    data, shares = bytes(1 << 21), [0.0] * count

    def work(number: int) -> None:
        began, own = time.perf_counter(), time.thread_time()
        while (passed := time.perf_counter() - began) < seconds:
            hashlib.sha256(data)  # without the interpreter's lock
        shares[number] = (time.thread_time() - own) / passed

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(shares)


def _threads(number: int) -> str:
    return f"{number} thread{'s' if number > 1 else ''}"
