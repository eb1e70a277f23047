"""How long `import tropism` and `tropism --help` take, beside the bare interpreter: best of ten, in seconds.

    python bench/start.py

`wall` is what a person waits, `cpu` what the process itself takes, which other programs on the machine change less.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

COMMANDS = {
    "the interpreter": ("-c", "pass"),
    "import tropism": ("-c", "import tropism"),
    "tropism --help": ("-m", "tropism.cli", "--help"),
}


def best(arguments: tuple[str, ...], times: int = 10) -> tuple[float, float]:
    """The least wall and CPU seconds of a Python process with these arguments."""
    walls, cpus = [], []
    for _ in range(times):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
        walls.append(time.perf_counter() - start)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(walls), min(cpus)


def main() -> None:
    for name, arguments in COMMANDS.items():
        wall, cpu = best(arguments)
        print(f"{name:16} wall {wall:.3f} s   cpu {cpu:.3f} s")


if __name__ == "__main__":
    main()
