"""The share of the machine's matrix rate that an update of pretraining reaches.

    python bench/pretrain.py [--width 128 --layers 3 --heads 8 --vocabulary 512 --tokens 2048 --row 128] [--adamw] [--json]

The default is the base stage of the demo. An update takes documents, lays them out, runs forward and backward pass and the
optimiser, as the stage does. Its operations are counted by torch's `FlopCounterMode` in an update with torch's products
(what it does not know, such as attention on a CPU, counts as nothing). The machine's rate is that of products of 512 × 512
matrices, measured between the updates. `model` counts forward and backward pass only, over the time of the whole update;
`all` counts Muon's products too. Medians of `--repeats` turns of some updates each, and ranges.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import unittest.mock
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from tropism.algorithms.nll import NLL
from tropism.models.architecture import Architecture, placed
from tropism.models.layout import layout
from tropism.stages._fit import PASS_TOKENS, Data
from tropism.tensors import matrices
from tropism.tensors.tree import Tree
from tropism.train import heap
from tropism.train.loop import Learner, values
from tropism.train.optim import Optim
from tropism.train.order import Order

UPDATES, DOCUMENTS = 10, 500
SIZES = {"width": 128, "layers": 3, "heads": 8, "vocabulary": 512, "tokens": 2048, "row": 128, "repeats": 7}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--adamw", action="store_true", help="no Muon")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    heap.keep()  # as a run does
    torch.manual_seed(0)
    shape = Architecture("llama", args.width, args.layers, args.heads)
    model = placed(AutoModelForCausalLM.from_config(shape.config(args.vocabulary)))
    learner = Learner({"policy": model}, Optim(lr=1e-3, muon=not args.adamw), 10**6, pass_tokens=PASS_TOKENS)
    data = Data([document(i, args.row, args.vocabulary) for i in range(DOCUMENTS)], 10**6, tokens=args.tokens)
    order, spent = Order(DOCUMENTS, 0, 0), {"data": 0.0, "model": 0.0, "optimiser": 0.0}
    timed(spent, "optimiser", learner.optimizer)

    def update() -> None:
        began = time.perf_counter()
        batch = layout(data.take(order), model, NLL().predicts, learner.layout)
        spent["data"] += time.perf_counter() - began
        values(learner.update(NLL(), NLL().credit(batch)))

    for _ in range(3):
        update()
    counted = {"all": operations(update), "optimiser": operations(learner.optimizer.step, learner)}
    flops = {"all": counted["all"], "model": counted["all"] - counted["optimiser"]}
    spent.update(dict.fromkeys(spent, 0.0))
    rates: dict[str, list[float]] = {"matmul": [], "seconds": []}
    for _ in range(args.repeats):
        rates["matmul"].append(matmul())
        began = time.perf_counter()
        for _ in range(UPDATES):
            update()
        rates["seconds"].append((time.perf_counter() - began) / UPDATES)
    seconds = sum(rates["seconds"]) * UPDATES
    spent["model"] = seconds - spent["data"] - spent["optimiser"]
    result: dict[str, Any] = {
        "parameters": model.num_parameters(),
        "threads": torch.get_num_threads(),
        "tokens_a_second": round(args.tokens / statistics.median(rates["seconds"])),
        "ms_an_update": round(1e3 * statistics.median(rates["seconds"]), 1),
        "matmul_gflops": round(statistics.median(rates["matmul"]) / 1e9, 1),
        "parts": {name: round(part / seconds, 3) for name, part in spent.items()},
    }
    for name, count in flops.items():
        found = [count / s / m for s, m in zip(rates["seconds"], rates["matmul"])]
        result[f"share_{name}"] = [round(f(found), 3) for f in (statistics.median, min, max)]
        result[f"gflop_{name}"] = round(count / 1e9, 2)
    print(json.dumps(result) if args.json else "\n".join(f"{name:16} {value}" for name, value in result.items()))


def document(number: int, size: int, vocabulary: int) -> Tree:
    tokens = tuple(torch.randint(0, vocabulary, (size,)).tolist())
    return Tree(str(number), (), (tokens,), ((True,) * size,), (True,))


def timed(spent: dict[str, float], name: str, optimizer: torch.optim.Optimizer) -> None:
    """Adds the seconds of each step of the optimiser to `spent`."""
    step: Callable[[], Any] = optimizer.step

    def measured() -> Any:
        began = time.perf_counter()
        found = step()
        spent[name] += time.perf_counter() - began
        return found

    optimizer.step = measured  # type: ignore[method-assign]


def operations(run: Callable[[], Any], learner: Learner | None = None) -> int:
    """The floating-point operations of matrix products; of an optimiser's step, with a gradient for each parameter."""
    for model in learner.models.values() if learner else ():
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
    with unittest.mock.patch.object(matrices, "usable", return_value=False), FlopCounterMode(display=False) as counter:
        run()
    if learner:
        learner.optimizer.zero_grad(set_to_none=True)
    return counter.get_total_flops()


def matmul(size: int = 512, repeats: int = 40) -> float:
    """Operations a second of a matrix product."""
    a, b, out = (torch.randn(size, size) for _ in range(3))
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        torch.mm(a, b, out=out)
        times.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(times)


if __name__ == "__main__":
    main()
