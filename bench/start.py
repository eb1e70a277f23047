"""How long `import tropism` and `tropism --help` take, beside the bare interpreter: least and median of twenty, in seconds.

    python bench/start.py

`wall` is what a person waits, `cpu` what the process itself takes, which other programs on the machine change less.
"""

from __future__ import annotations

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


def times(arguments: tuple[str, ...], repeats: int = 20) -> tuple[list[float], list[float]]:
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
    for name, arguments in COMMANDS.items():
        said = [f"{min(found):.3f} ({median(found):.3f})" for found in times(arguments)]
        print(f"{name:16} wall {said[0]} s   cpu {said[1]} s")


if __name__ == "__main__":
    main()
