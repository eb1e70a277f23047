"""How fast groups come into a feedback store, in how much memory, and that a cut import goes on where it stopped.

    python bench/importing.py                         # 183,000 groups of 7 answers into SQLite: the size of Nectar
    python bench/importing.py --postgres --groups 20000

The import runs in a process of its own. It is killed (SIGKILL) after a third of the groups and started again, then run once
more over what is all there. Printed: groups and rows (groups and completions) a second of processor and of wall time, the
largest memory, and how many groups and completions there are in the end, which must be as many as asked for, each once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from local_postgres import database
from sqlalchemy import func, select

from tropism.feedback import importing
from tropism.feedback import project as projects
from tropism.feedback.schema import StoredCompletion, StoredGroup
from tropism.feedback.store import open_store
from tropism.types import Completion, Group, Message

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r", "s", "lo", "mi")]


def made_up(count: int, k: int, words: int, seed: int = 0) -> Iterator[Group]:
    """Groups whose answers have about so many words each, always the same for a seed."""
    rng = random.Random(seed)
    for number in range(count):
        prompt = " ".join(rng.choices(WORDS, k=20))
        texts = (" ".join(rng.choices(WORDS, k=rng.randint(words // 2, words * 3 // 2))) for _ in range(k))
        completions = tuple(Completion(text, policy=f"model-{n}@1") for n, text in enumerate(texts))
        meta = {"source": f"set{number % 5}", "category": f"kind{number % 8}", "split": "train"}
        yield Group(f"{number}", (Message("user", f"{number} {prompt}"),), completions, meta=meta)


def work(url: str, count: int, k: int, words: int, cut: int) -> None:
    """Imports, and kills itself with a batch half written after `cut` groups (0: never). Prints its figures as JSON."""

    def counted() -> Iterator[Group]:
        for number, group in enumerate(made_up(count, k, words)):
            if cut and number == cut:
                os.kill(os.getpid(), signal.SIGKILL)
            yield group

    store = open_store(url)
    start, cpu = time.perf_counter(), time.process_time()
    counts = importing.add_groups(store, "p", counted())
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"added": counts.added, "known": counts.known, "wall_s": wall, "cpu_s": cpu, "peak_MiB": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=183_000)
    parser.add_argument("--k", type=int, default=7)
    parser.add_argument("--words", type=int, default=60)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--work", nargs=2, metavar=("URL", "CUT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work[0], args.groups, args.k, args.words, int(args.work[1]))
        return
    with tempfile.TemporaryDirectory() as folder, database(Path(folder), args.postgres) as (url, _):
        store = open_store(url, create=True)
        with store.writing() as session:
            projects.create(session, "p", "rank", {}, 3, 0, "", store.now(session))
        shape = ["--groups", str(args.groups), "--k", str(args.k), "--words", str(args.words)]
        for name, cut in (("cut", args.groups // 3 + 500), ("continued", 0), ("again", 0)):
            command = [sys.executable, __file__, *shape, "--work", url, str(cut)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            print(name, f"status {done.returncode}", figures(done.stdout, args.k), flush=True)
        with store.reading() as session:
            groups = session.scalar(select(func.count()).select_from(StoredGroup))
            texts = session.scalar(select(func.count()).select_from(StoredCompletion))
        print(f"groups {groups:,} of {args.groups:,}, completions {texts:,} of {args.groups * args.k:,}")
        store.close()


def figures(line: str, k: int) -> str:
    if not line:
        return ""
    f = json.loads(line)
    took = f"added {f['added']:,}, known {f['known']:,}, {f['wall_s']:.0f} s, {f['cpu_s']:.0f} s of processor"
    rows = f["added"] * (1 + k) or f["known"] * (1 + k)
    rate = f"{rows / f['wall_s']:,.0f} rows/s, {rows / f['cpu_s']:,.0f} rows a second of processor"
    return f"{took}, {f['peak_MiB']:.0f} MiB, {rate}"


if __name__ == "__main__":
    main()
