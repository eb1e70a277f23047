"""Updates a second of the demo's base stage, alone and beside busy processes, as `tropism run` computes it by default and
with one thread.

    python bench/busy.py [--busy 4] [--seconds 8] [--repeats 3] [--json]

`default` is what a user gets: the number of threads is measured when the run begins (`train/threads.py`). `one` is one
thread. `torch` is as many threads as torch takes, waiting as long as it waits. They take turns, in new run folders and
processes; medians of `repeats`, and ranges. Beside busy processes `default` should be at least 0.8 of `one`; without, at
least 0.97 of `torch`. `later` is `default` in a run that begins before the processes are busy (`train/waiting.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

RECIPE = """
[[stage]]
id = "tokenizer"
kind = "tokenizer"
data = { kind = "phrasebook", part = "documents", count = 1500 }
vocab_size = 512

[[stage]]
id = "base"
kind = "pretrain"
tokenizer = "tokenizer"
data = { kind = "phrasebook", part = "documents", count = 1500 }
model = { kind = "llama", width = 128, layers = 3, heads = 8 }
steps = 399
tokens_per_step = 1024
row_tokens = 128
optim = { lr = 7e-3, weight_decay = 0.01, muon = true }
"""  # with fewer than 400 updates each has its line in metrics.jsonl
SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
WAYS: dict[str, dict[str, str]] = {
    "default": {},
    "one": {"OMP_NUM_THREADS": "1"},
    "torch": {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))), "GOMP_SPINCOUNT": "300000"},
}
WARM = 5  # updates before the clock runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, default=4, help="busy processes; 0: only the idle machine is measured")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    rates: dict[str, dict[str, list[float]]] = {"idle": {}, "busy": {}}
    with tempfile.TemporaryDirectory() as folder:
        (recipe := Path(folder, "base.toml")).write_text(RECIPE)
        tokenizer = Path(folder, "tokenizer.toml")
        tokenizer.write_text(RECIPE.partition("\n\n[[stage]]")[0] + "\n")
        subprocess.run(command(tokenizer, Path(folder, "first")), check=True)
        for turn in range(args.repeats):
            for state, ways in (("idle", ("default", "torch", "one")), ("busy", ("default", "one", "later", "torch"))):
                for way in ways if args.busy or state == "idle" else ():
                    out = Path(folder, f"{state}-{way}-{turn}")
                    found = rate(recipe, out, way, args.busy if state == "busy" else 0, args.seconds)
                    rates[state].setdefault(way, []).append(found)
    result = {
        state: {way: [round(f(all), 2) for f in (statistics.median, min, max)] for way, all in found.items()}
        for state, found in rates.items()
    }
    ratios = (("idle", "default", "torch"), ("busy", "default", "one"), ("busy", "later", "one"))
    shares = {
        f"{state}: {a} over {b}": round(result[state][a][0] / result[state][b][0], 3)
        for state, a, b in ratios
        if result[state]
    }
    if args.json:
        print(json.dumps({"busy_processes": args.busy, "updates_a_second": result, "share": shares}))
        return
    for state, found in result.items():
        for way, (middle, low, high) in found.items():
            print(f"{state}   {way:8} {middle:6.2f} updates a second ({low} to {high})")
    for name, share in shares.items():
        print(f"{name}: {share}")


def command(recipe: Path, out: Path) -> list[str]:
    first = out.parent / "first"
    reuse = ["--reuse", str(first)] if out != first else []
    return [sys.executable, "-m", "tropism.cli", "run", str(recipe), "--out", str(out), "--quiet", *reuse]


def rate(recipe: Path, out: Path, way: str, busy: int, seconds: float) -> float:
    """Updates a second of a new run beside `busy` processes, which are busy before it begins, or `later` than that."""
    bare = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    with contextlib.ExitStack() as stack:
        if way != "later":
            stack.enter_context(others(busy))
        run = subprocess.Popen(command(recipe, out), env=bare | WAYS.get(way, {}))
        stack.callback(ended, run)
        reached(out, run, WARM)
        if way == "later":
            stack.enter_context(others(busy))
        count = first = reached(out, run, updates(out) + 1)
        began = last = time.perf_counter()
        while time.perf_counter() < began + seconds and run.poll() is None:
            time.sleep(0.01)
            if (now := updates(out)) > count:
                count, last = now, time.perf_counter()
    return (count - first) / (last - began)


@contextlib.contextmanager
def others(count: int) -> Iterator[None]:
    """Processes that do nothing but compute."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.3 if count else 0)
        yield
    finally:
        for process in started:
            ended(process)


def ended(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


def updates(out: Path) -> int:
    """How many updates the base stage of a run has logged."""
    return sum(file.read_bytes().count(b"\n") for file in out.glob("base-*/metrics.jsonl"))


def reached(out: Path, run: subprocess.Popen, count: int) -> int:
    """Waits until the run has made so many updates; how many it has made then."""
    while (made := updates(out)) < count:
        if run.poll() is not None:
            raise SystemExit(f"the run in {out} ended after {made} updates")
        time.sleep(0.01)
    return made


if __name__ == "__main__":
    main()
