"""How long `import tropism` and `tropism --help` take, beside the bare interpreter: least and median, in seconds.

    python bench/start.py [--repeats 20] [--json]

`wall` is what a person waits, `cpu` what the process itself takes, which other programs on the machine change less.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from statistics import median

COMMANDS = {
    "the interpreter": ("-c", "pass"),
    "import tropism": ("-c", "import tropism"),
    "import typer": ("-c", "import typer"),
    "tropism --help": ("-m", "tropism.cli", "--help"),
}


def times(arguments: tuple[str, ...], repeats: int) -> tuple[list[float], list[float]]:
    """Wall and CPU seconds of Python processes with these arguments."""
    walls, cpus = [], []
    for _ in range(repeats):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
        walls.append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return walls, cpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = {}
    for name, arguments in COMMANDS.items():
        measured = dict(zip(("wall_s", "cpu_s"), times(arguments, args.repeats)))
        result[name] = {what: [min(found), median(found)] for what, found in measured.items()}
        if not args.json:
            wall, cpu = (f"{least:.3f} ({middle:.3f})" for least, middle in result[name].values())
            print(f"{name:16} wall {wall} s   cpu {cpu} s")
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
