"""The demo with people in the loop: simulated people rank its samples over HTTP, and its reward model learns from them.

    python bench/people_loop.py [--seed 21] [--start RUN] [--per-group 1] [--out runs/people_loop]

The recipe is `quickstart` up to its reward model, with the judge `people` in the place of the simulated annotators. The run
ends with `Waiting`; the store is served; three people whose noise differs (NOISE: the demo's own annotators have 0.15) take
groups and rank them through the interface for scripts, each in a thread; then the same run goes on. The figure is the
share of held-out pairs that the reward model orders as the truth does, beside that of the demo's own reward model.

`--start` is a finished run of `quickstart` with the same seed: its samples are used again, and its reward model is the one
compared with. Without it both are made here. People see the answers in the order of the slots, as `judges/annotator.py` has
it: utility = quality + noise + position_bias * (1 - slot / (K - 1)).
"""

from __future__ import annotations

import argparse
import dataclasses
import http.client
import json
import random
import shutil
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvicorn

from tropism.errors import Waiting
from tropism.feedback import people
from tropism.feedback import project as projects
from tropism.feedback.place import place
from tropism.feedback.store import Store, open_store
from tropism.phrasebook.quality import quality
from tropism.recipe.read import Recipe, load
from tropism.store.folder import latest
from tropism.store.groups import read_groups
from tropism.store.run import run_recipe
from tropism.web.app import Config, create_app

NOISE = {"careful": 0.05, "usual": 0.15, "hasty": 0.4}
TIE_MARGIN, POSITION_BIAS = 0.03, 0.04  # those of judges/annotator.py
TRUTH = '{ kind = "verifier", function = "tropism.phrasebook.quality:quality", name = "truth" }'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--start", type=Path, help="a finished run of quickstart with this seed")
    parser.add_argument("--per-group", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/people_loop"))
    args = parser.parse_args()
    if args.start and not args.out.exists():
        shutil.copytree(args.start, args.out)
    if not args.start:
        run_recipe(upto_reward([f"seed={args.seed}"]), args.out)
    demo = accuracy(latest(args.start or args.out)["reward"])
    judges = f'[{{ kind = "people", per_group = {args.per_group} }}, {TRUTH}]'
    recipe = upto_reward([f"seed={args.seed}", f"rankings.judges={judges}", 'reward.judge="people"'])
    seconds, judgments = 0.0, {}
    try:
        run_recipe(recipe, args.out)
    except Waiting as waiting:
        print(waiting, file=sys.stderr, flush=True)
        began = time.perf_counter()
        judgments = labelled(args.out, args.seed)
        seconds = time.perf_counter() - began
        run_recipe(recipe, args.out)
    found = accuracy(latest(args.out)["reward"])
    print(
        json.dumps(
            {
                "labelling_seconds": round(seconds, 1),
                "judgments": judgments,
                "demo": demo,
                "people": found,
                "inside": demo["low"] <= found["value"] <= demo["high"],
            },
            indent=1,
        )
    )


def upto_reward(overrides: list[str]) -> Recipe:
    whole = load("quickstart", overrides)
    ids = list(whole.stages)
    return dataclasses.replace(whole, stages={id: whole.stages[id] for id in ids[: ids.index("reward") + 1]})


def accuracy(reward: Path) -> dict[str, float]:
    """The share of held-out pairs that a reward model orders as the truth does, with its interval over prompts."""
    from tropism import statistics

    right, pairs = [], []
    for group in read_groups(reward / "out" / "held_out.parquet"):
        truth, score = (group.judged(name).scores for name in ("truth", "reward_model"))
        ordered = [(i, j) for i in range(len(truth)) for j in range(len(truth)) if (truth[i] or 0) > (truth[j] or 0)]
        right.append(float(sum((score[i] or 0) > (score[j] or 0) for i, j in ordered)))
        pairs.append(float(len(ordered)))
    figure = statistics.ratio(right, pairs, statistics.SHARE)
    return {**figure, "pairs": sum(pairs)}


def labelled(run: Path, seed: int) -> dict[str, int]:
    """Serves the run's store until everyone says that nothing is left; how many groups each has judged."""
    targets = {g.prompt[-1].content: g.target or "" for g in read_groups(latest(run)["samples"] / "out")}
    store = open_store(place(run))
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(create_app(store, Config()), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    keys = {name: key(store, name) for name in NOISE}
    with ThreadPoolExecutor(len(NOISE)) as pool:
        done = pool.map(lambda name: annotate(port, keys[name], name, seed, targets), NOISE)
        counts = dict(zip(NOISE, done))
    server.should_exit = True
    thread.join()
    store.close()
    return counts


def key(store: Store, name: str) -> str:
    with store.writing() as session:
        now = store.now(session)
        person = people.add(session, name, now)
        people.grant(session, projects.find(session, "rankings"), person, "annotator")
        return people.new_key(session, person, now)


def annotate(port: int, key: str, name: str, seed: int, targets: dict[str, str]) -> int:
    """Ranks until nothing is left for this person."""
    connection, count = http.client.HTTPConnection("127.0.0.1", port, timeout=600), 0
    while (given := call(connection, key, "/api/projects/rankings/next")) is not None:
        group = given["group"]
        texts = [one["text"].strip() for one in sorted(group["completions"], key=lambda one: one["slot"])]
        rng = random.Random(f"{name} {seed} {group['prompt'][-1]['content']}")
        ranks = ranked(texts, targets[group["prompt"][-1]["content"]], NOISE[name], rng)
        call(connection, key, f"/api/leases/{given['lease']}", {"ranks": ranks, "seconds": 1.0})
        count += 1
    return count


def ranked(texts: list[str], target: str, noise: float, rng: random.Random) -> list[int]:
    """Ranks by slot; equal texts share one, as do utilities less than TIE_MARGIN below a rank's first."""
    utility: dict[str, float] = {}
    for slot, text in enumerate(texts):
        bias = POSITION_BIAS * (1 - slot / max(len(texts) - 1, 1))
        utility.setdefault(text, quality(text, target) + rng.gauss(0.0, noise) + bias)
    rank, first, ranks = 0, float("inf"), {}
    for text in sorted(utility, key=utility.__getitem__, reverse=True):
        if utility[text] < first and first - utility[text] >= TIE_MARGIN:
            rank, first = rank + 1, utility[text]
        ranks[text] = rank
    return [ranks[text] for text in texts]


def call(connection: http.client.HTTPConnection, key: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """The JSON of an answer, None for 204."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection.request("POST", path, json.dumps(body) if body is not None else None, headers)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status not in (200, 201, 204):
        raise RuntimeError(f"{path}: {answer.status} {text.decode()}")
    return json.loads(text) if text else None


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


if __name__ == "__main__":
    main()
