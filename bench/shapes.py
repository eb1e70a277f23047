"""What a step of RL costs while its prompt, K, answer or width changes and the rest stays, beside the least time it needs.

    python bench/shapes.py [--json] [--out docs/cost-by-shape.svg] [--quick]
    python bench/shapes.py --shape 8 128 8 32 [--wide] [--json]

The steps are those of `bench/rl_step.py`: samples, the reference's pass, an update; `--shape` measures given shapes
(prompts, tokens of each, K, tokens of each answer) instead. The least time is a roofline of the machine the step ran on.
G prompts of P tokens with K answers of A tokens, a Llama of L layers, width D, feed-forward F and vocabulary V: the last
token of an answer is predicted and never read, so a forward pass has

    tokens = G (P + K (A − 1))                                    each goes through L (4 D² + 3 D F) weights
    states = G (1 + K (A − 1))                                    each goes through the head, D V weights
    pairs  = G (P (P + 1) / 2 + K (P (A − 1) + A (A − 1) / 2))    of a query and a key, in each layer
    FLOP   = 2 L (4 D² + 3 D F) tokens + 2 D V states + 4 D L pairs

with each prompt once for all its answers. Samples need one forward pass, the reference one, the update three (a backward
pass is two). Decoding also reads keys and values: at least those of a prompt once and those of K answers in each of its
A − 1 steps, G (P + K i) of 2 D L float32 numbers in step i. Then

    samples ≥ max(FLOP of the prompts / wide + FLOP of the answers / narrow, bytes / copy)
    reference ≥ FLOP / wide      update ≥ 3 FLOP / wide

`wide` and `narrow` are the rates of the products of one layer, measured next to the step: all tokens of a pass at once,
and the G K rows of a decoding step; torch's or our own, whichever is faster. `copy` is the rate, bytes read and written, at
which as many bytes are copied as an average decoding step reads. Left out of the least time: norms, rotations, softmax,
the optimiser, all reading of weights.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from picture import framed
from rl_sides import ours, prepare
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from tropism.models.architecture import Architecture
from tropism.report.axes import Axis
from tropism.report.plots import Series, lines
from tropism.report.words import plain
from tropism.tensors import matrices, native

HEAD, VOCABULARY = 32, 512
VARIED = {
    "prompt": (16, 64, 256, 512),
    "k": (2, 4, 8, 16),
    "answer": (16, 32, 64, 128, 256),
    "width": (64, 128, 192, 384),
}
TITLES = {
    "prompt": "tokens of the prompt",
    "k": "answers to a prompt",
    "answer": "tokens of an answer",
    "width": "width",
}
CURVES = {"whole": "the step", "least": "least time of the step", "sample": "samples", "reference": "reference"}
CURVES |= {"update": "update"}


@dataclass(frozen=True)
class Case:
    """A step and its model."""

    prompts: int = 8
    prompt: int = 64
    k: int = 8
    answer: int = 64
    width: int = 192
    layers: int = 4

    @property
    def architecture(self) -> Architecture:
        return Architecture(width=self.width, layers=self.layers, heads=self.width // HEAD)


@dataclass(frozen=True)
class Need:
    """FLOP of a forward pass over the prompts and over the answers, bytes of keys and values that decoding reads."""

    prompts: float
    answers: float
    read: float


def need(case: Case, inner: int, vocabulary: int) -> Need:
    """The formula of this file; `inner` is the width of the feed-forward layers."""
    g, p, k, more, d = case.prompts, case.prompt, case.k, case.answer - 1, case.width
    layers = case.layers
    linear, head, pair = 2 * layers * (4 * d**2 + 3 * d * inner), 2 * d * vocabulary, 4 * d * layers
    own = more * (more + 1) // 2  # pairs of an answer's tokens
    return Need(
        prompts=g * (linear * p + head + pair * p * (p + 1) // 2),
        answers=g * k * (linear * more + head * more + pair * (p * more + own)),
        read=g * (p * more + k * own) * 2 * d * layers * 4,
    )


def least(needed: Need, wide: float, narrow: float, copy: float) -> dict[str, float]:
    """Seconds of the parts of a step at these rates, and of the whole."""
    forward = (needed.prompts + needed.answers) / wide
    sample = max(needed.prompts / wide + needed.answers / narrow, needed.read / copy)
    return {"sample": sample, "reference": forward, "update": 3 * forward, "whole": sample + 4 * forward}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="the drawing, an SVG")
    parser.add_argument("--steps", type=int, default=3, help="of each case, after a warm-up")
    parser.add_argument("--quick", action="store_true", help="two small cases of each, one step")
    parser.add_argument("--shape", type=int, nargs=4, action="append", metavar=("P", "PROMPT", "K", "ANSWER"))
    parser.add_argument("--wide", action="store_true", help="shapes on a Llama of 25.6 M parameters in place of 1.87 M")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    disable_progress_bar()
    measured: dict[Case, dict[str, Any]] = {}
    rows = []
    for name, case in cases(args):
        if case not in measured:
            measured[case] = measure(case, 1 if args.quick else args.steps)
        rows.append({"varied": name, **measured[case]})
        if not args.json:
            print(said(rows[-1]), flush=True)
    if args.json:
        print(json.dumps(rows))
    if args.out and not args.shape:
        args.out.write_text(picture(rows), encoding="utf-8")


def cases(args: argparse.Namespace) -> list[tuple[str, Case]]:
    """What is varied, "" for a given shape, and the case."""
    if args.shape:
        size = {"width": 512, "layers": 8} if args.wide else {}
        return [("", Case(*shape, **size)) for shape in args.shape]
    middle, varied = Case(), VARIED
    if args.quick:
        middle = Case(prompts=2, prompt=16, k=2, answer=8, width=64)
        varied = {name: (getattr(middle, name), 2 * getattr(middle, name)) for name in VARIED}
    return [(name, replace(middle, **{name: value})) for name, values in varied.items() for value in values]


def measure(case: Case, steps: int) -> dict[str, Any]:
    """Medians of the seconds of so many steps; the best rates of the machine between them."""
    inner = case.architecture.config(VOCABULARY).intermediate_size
    needed = need(case, inner, VOCABULARY)
    tokens = case.prompts * (case.prompt + case.k * (case.answer - 1))
    rates: dict[str, Callable[[], float]] = {
        "wide": lambda: products(tokens, case.width, inner),
        "narrow": lambda: products(case.prompts * case.k, case.width, inner),
        "copy": lambda: copied(int(needed.read / (case.answer - 1))),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = written(folder, case.architecture)
        step = ours(folder, (case.prompts, case.prompt, case.k, case.answer))
        step()
        made, best = [], dict.fromkeys(rates, 0.0)
        for _ in range(steps):
            made.append(step())
            best = {name: max(best[name], rate()) for name, rate in rates.items()}
    parts = {part: statistics.median(one[part] for one in made) for part in made[0]}
    floor = least(needed, **best)
    return {
        "shape": [case.prompts, case.prompt, case.k, case.answer],
        "width": case.width,
        "model": parameters,
        "parts": parts,
        "least": floor,
        "share": {part: floor[part] / parts[part] for part in floor},
        "gflop": 5 * (needed.prompts + needed.answers) / 1e9,
        "wide_gflops": best["wide"] / 1e9,
        "narrow_gflops": best["narrow"] / 1e9,
        "copy_gbs": best["copy"] / 1e9,
        "threads": torch.get_num_threads(),
    }


def written(folder: Path, architecture: Architecture) -> int:
    """Writes a new model and its tokenizer; the model's parameters."""
    prepare(folder, None, False)
    words: Any = AutoTokenizer.from_pretrained(folder)
    config = architecture.config(VOCABULARY)
    config.eos_token_id, config.pad_token_id = words.eos_token_id, words.pad_token_id
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    return model.num_parameters()


def products(rows: int, width: int, inner: int) -> float:
    """FLOP a second of the seven products of a layer with so many rows, by torch or by our own products."""
    x, y = torch.randn(rows, width), torch.randn(rows, inner)
    square, out, back = torch.randn(width, width), torch.randn(inner, width), torch.randn(width, inner)

    def layer(linear: Callable[[Tensor, Tensor], object]) -> None:
        for weight in (square, square, square, square, out, out):
            linear(x, weight)
        linear(y, back)

    def gated() -> None:
        matrices.linears(x, square, square, square, square)
        matrices.mlp(x, out, out, back)

    ways = [lambda: layer(torch.nn.functional.linear)]
    if matrices.usable(x, square, out, back):
        ways += [gated, lambda: layer(matrices.linears)]
    if native.has("linear_rows"):
        ways.append(lambda: layer(lambda given, weight: native.linear(given, weight, None)))
    return 2 * rows * (4 * width**2 + 3 * width * inner) / min(map(fastest, ways))


def copied(size: int) -> float:
    """Bytes a second, read and written, of copying so many bytes."""
    source = torch.randn(max(size // 4, 1))
    target = torch.empty_like(source)
    return 2 * 4 * len(source) / fastest(lambda: target.copy_(source))


@torch.inference_mode()
def fastest(do: Callable[[], object], seconds: float = 0.1) -> float:
    """The shortest time of one call, within so many seconds."""
    do()
    shortest, began = math.inf, time.perf_counter()
    while (start := time.perf_counter()) - began < seconds:
        do()
        shortest = min(shortest, time.perf_counter() - start)
    return shortest


class Doubling(Axis):
    """An axis of logarithms with base 2, whose ticks show the numbers."""

    def shown(self, value: float, digits: int = 3) -> str:
        return plain(2**value, digits)


def picture(rows: list[dict[str, Any]]) -> str:
    """A panel for each quantity that is varied, both axes logarithmic: a distance is a ratio."""
    panels = []
    for name, title in TITLES.items():
        found = [row for row in rows if row["varied"] == name]
        at = [math.log2(number(row, name)) for row in found]
        series = []
        for style, (part, label) in enumerate(CURVES.items()):
            seconds = [row["least"]["whole"] if part == "least" else row["parts"][part] for row in found]
            series.append(Series(label, [(x, math.log2(s)) for x, s in zip(at, seconds)], style))
        panels.append(
            (f"{title[0].upper()}{title[1:]}", lines(title, series, Doubling(title, whole=True), Doubling("seconds")))
        )
    return framed(list(CURVES.values()), panels)


def number(row: dict[str, Any], name: str) -> int:
    """The quantity `name` of a row."""
    return row["width"] if name == "width" else row["shape"][["prompts", "prompt", "k", "answer"].index(name)]


def said(row: dict[str, Any]) -> str:
    parts = "  ".join(f"{part} {row['parts'][part]:.2f} ({row['least'][part]:.3f})" for part in row["least"])
    rates = f"{row['wide_gflops']:.0f}, {row['narrow_gflops']:.0f} GFLOP/s, copy {row['copy_gbs']:.0f} GB/s"
    shape = " × ".join(map(str, row["shape"]))
    return f"{shape}, width {row['width']}: seconds (least)  {parts}  share {row['share']['whole']:.2f}  at {rates}"


if __name__ == "__main__":
    main()
