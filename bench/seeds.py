"""What a recipe measures on several seeds: each figure's median and range, and a line a seed.

    python bench/seeds.py RECIPE --seeds 11 12 13 14 15 [--jobs 2] [--out runs/seeds] [--json]

Each seed is a run of its own, begun from raw text: weights, data order and samples are drawn anew. Runs that are finished
are read, those that were cut off go on. `--jobs` of them run at a time, with the cores shared out among them, so that the
seconds are those of a busy machine. For a recipe that compares methods the gain of each over the start is shown too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with ThreadPoolExecutor(args.jobs) as pool:
        reports = list(pool.map(lambda seed: run(args.recipe, seed, args.out, args.jobs), args.seeds))
    found = [dict(figures(report)) for report in reports]
    names = [name for name in found[0] if all(name in row for row in found)]
    table = {name: [row[name] for row in found] for name in names}
    flagged = {seed: hacking(report) for seed, report in zip(args.seeds, reports)}
    if args.json:
        print(json.dumps({"seeds": args.seeds, "figures": table, "over_optimise": flagged}, indent=1))
        return
    print(f"{'':34}{'median':>9}{'range':>20}   seeds {' '.join(map(str, args.seeds))}")
    for name, values in table.items():
        middle = statistics.median(v["value"] for v in values)
        ends = [end(v["value"] for v in values) for end in (min, max)]
        print(f"{name:34}{middle:9.3g}{f'{ends[0]:.3g} to {ends[1]:.3g}':>20}   {'  '.join(map(said, values))}")
    for seed, methods in flagged.items():
        if methods is not None:
            print(f"seed {seed}: over-optimise: {', '.join(methods) or 'none'}")


def run(recipe: str, seed: int, out: Path, jobs: int) -> dict[str, Any]:
    """The report of the recipe at this seed, run to its end."""
    folder = out / f"{Path(recipe).stem}-{seed}"
    command = [sys.executable, "-m", "tropism.cli", "run", recipe, "--set", f"seed={seed}", "--out", str(folder), "-q"]
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": threads})
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def figures(report: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, float]]]:
    """Every figure with an interval, by a name."""
    yield "seconds", {"value": sum(report["seconds"].values())}
    parts = [("reward_model", report.get("reward_model", {})), *report.get("models", {}).items()]
    for level in ("equal_spent", "equal_kl"):
        for name, row in report.get("comparison", {}).get(level, {}).get("methods", {}).items():
            parts.append((f"{level} {name}", {"truth": row["truth"], "over_start": row["over_start"]}))
    for part, values in parts:
        for key, value in values.items():
            if isinstance(value, Mapping) and {"value", "low", "high"} <= value.keys():
                yield f"{part} {key}", dict(value)


def hacking(report: Mapping[str, Any]) -> list[str] | None:
    """The methods that are said to over-optimise; None if the recipe compares none."""
    methods = report.get("comparison", {}).get("methods")
    return None if methods is None else [name for name, method in methods.items() if method["over_optimises"]]


def said(value: Mapping[str, float]) -> str:
    inside = f" [{value['low']:.3g}, {value['high']:.3g}]" if "low" in value else ""
    return f"{value['value']:.3g}{inside}"


if __name__ == "__main__":
    main()
