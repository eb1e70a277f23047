"""A step of RL, samples and reference and update, against TRL's GRPO trainer at its best settings, in turns in one process.

    python bench/rl_step.py [--shape 8 128 8 32]… [--model FOLDER] [--steps 3] [--json]

It needs the extra `bench` (TRL 1.16).

A shape is prompts, tokens of each prompt, K, tokens of each answer. Both have the same model, prompts, K and a KL penalty,
and make one optimiser step on all samples of a round. Every answer has its full length: the stop token is never sampled.
TRL's best settings on a CPU: one forward pass for the whole batch, no gradient checkpointing; the rest are its defaults.
Ours are the `rl` stage's. A turn is a step of TRL, then one of ours; the first turn is a warm-up. `ratio` is the median of
the turns' ratios, `low` and `high` the extremes; `parts` are the seconds of our step.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}

import datasets
import torch
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_callback import PrinterCallback, TrainerCallback

from tropism.algorithms.grpo import GRPO
from tropism.engines.local import Local
from tropism.judges.verifier import Verifier
from tropism.models.architecture import Architecture
from tropism.models.vocabulary import know
from tropism.stages import rl
from tropism.stages._rounds import State
from tropism.text.chat import stop_tokens
from tropism.text.tokenizer import train_tokenizer
from tropism.train.loop import Learner
from tropism.train.optim import Optim
from tropism.train.order import Order
from tropism.types import Group, Message, SamplingParams

SHAPES = ((8, 128, 8, 32), (16, 16, 8, 32), (8, 16, 8, 128))
RATE, KL = 1e-5, 0.04


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = ("P", "PROMPT", "K", "ANSWER")
    parser.add_argument("--shape", type=int, nargs=4, action="append", metavar=numbers, help="may be given many times")
    parser.add_argument("--model", type=Path, help="a Hugging Face folder; without it a Llama of 1.97 M parameters")
    parser.add_argument("--wide", action="store_true", help="a Llama of 29 M parameters")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    rows = []
    for shape in args.shape or SHAPES:
        model, words = loaded(args.model, args.wide)
        rows.append(measure(model, words, tuple(shape), args.steps))
        if not args.json:
            print(said(rows[-1]), flush=True)
    if args.json:
        print(json.dumps(rows))


def loaded(folder: Path | None, wide: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if folder:
        words = AutoTokenizer.from_pretrained(folder)
        return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval(), words
    torch.manual_seed(0)
    words = train_tokenizer([chr(i) for i in range(32, 127)], 300)
    shape = Architecture(width=512, layers=8, heads=8) if wide else Architecture(width=192, layers=4, heads=6)
    config = shape.config(512)
    config.eos_token_id, config.pad_token_id = words.eos_token_id, words.pad_token_id
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval(), words


def texts(words: PreTrainedTokenizerBase, prompts: int, length: int) -> list[str]:
    """Different texts that come back from the tokenizer with so many tokens."""
    found: list[str] = []
    while len(found) < prompts:
        text = "".join(chr(97 + int(c)) for c in torch.randint(0, 26, (2 * length,)))
        ids = words(text, add_special_tokens=False)["input_ids"][: length - 1]
        found.append(str(words.decode(ids)))
    return found


def scores(completions: Sequence[str], **_: Any) -> list[float]:
    """A reward that differs within groups."""
    return [sum(map(ord, c)) % 7 / 7 for c in completions]


def score(completion: str) -> float:
    """The same for our judge."""
    return scores([completion])[0]


def measure(
    model: PreTrainedModel, words: PreTrainedTokenizerBase, shape: tuple[int, ...], steps: int
) -> dict[str, Any]:
    prompts, length, k, answer = shape
    asked = texts(words, prompts, length)
    parameters = model.num_parameters()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        step = ours(folder, words, asked, k, answer)
        theirs_s, ours_s, parts = turns(folder, words, asked, k, answer, step, steps)
    ratios = [t / o for t, o in zip(theirs_s, ours_s)]
    return {
        "model": parameters,
        "shape": list(shape),
        "ours_s": statistics.median(ours_s),
        "trl_s": statistics.median(theirs_s),
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "parts": {name: statistics.median(p[name] for p in parts) for name in parts[0]},
        "threads": torch.get_num_threads(),
    }


def ours(folder: str, words: PreTrainedTokenizerBase, asked: list[str], k: int, answer: int) -> Callable[[], dict]:
    """A function that makes one round of the `rl` stage and returns the seconds of its parts."""
    judge = Verifier(function=score)
    stage = rl.RL(
        policy=folder,
        prompts=None,  # type: ignore[arg-type]  # the groups are given
        judge=judge,
        algorithm=GRPO(kl=KL),
        prompts_per_round=len(asked),
        sampling=SamplingParams(n=k, max_tokens=answer),
        refills=0,
    )
    policy, reference = stage.train_lm(folder, 0), stage.freeze_lm(folder)
    for model in (policy, reference):
        know(model, words)
        if model.__dict__["absent_V"] is None:
            model.__dict__["absent_V"] = torch.zeros(model.config.vocab_size, dtype=torch.bool)
        model.__dict__["absent_V"][[*stop_tokens(words)]] = True
    learner = Learner(
        {"policy": policy}, Optim(lr=RATE, schedule="constant"), 1000, {}, stage.pass_tokens, stage.sampling
    )
    state = State(stage.algorithm, Order(len(asked), 0), words, reference)
    groups = [Group(str(i), (Message("text", text),)) for i, text in enumerate(asked)]
    engine = Local().open(policy, words, "policy@0")
    work = SimpleNamespace(seed=0, last_checkpoint=lambda: "")

    def step() -> dict[str, float]:
        parts: dict[str, float] = {}
        sampled, filled = clocked(engine, "generate", parts, "sample"), clocked(rl, "annotate", parts, "reference")
        with sampled, filled, clocked(learner, "update", parts, "update"):
            began = time.perf_counter()
            numbers = stage._round(work, learner, state, groups, engine)  # type: ignore[arg-type]
            whole = time.perf_counter() - began
        assert round(numbers["tokens"]) == answer, numbers["tokens"]
        return {**parts, "other": whole - sum(parts.values()), "whole": whole}

    return step


@contextlib.contextmanager
def clocked(owner: Any, name: str, parts: dict[str, float], part: str) -> Iterator[None]:
    """Adds the seconds of all calls of `owner.name` to `parts[part]`."""
    before = getattr(owner, name)

    def timed(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return before(*given, **named)
        finally:
            parts[part] = parts.get(part, 0.0) + time.perf_counter() - began

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, before)


class Turns(TrainerCallback):
    """Makes our step after each of TRL's, and notes the seconds of both."""

    def __init__(self, step: Callable[[], dict[str, float]]) -> None:
        self.step, self.theirs, self.parts = step, [], []
        self.began = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.theirs.append(time.perf_counter() - self.began)
        self.parts.append(self.step())
        self.began = time.perf_counter()


def turns(
    folder: str, words: PreTrainedTokenizerBase, asked: list[str], k: int, answer: int, step: Callable, steps: int
) -> tuple[list[float], list[float], list[dict[str, float]]]:
    """The seconds of TRL's steps and of ours, and the parts of ours, without the warm-up."""
    config = trl.GRPOConfig(
        output_dir=f"{folder}/trl",
        per_device_train_batch_size=len(asked) * k,
        num_generations=k,
        max_completion_length=answer,
        generation_kwargs={"min_new_tokens": answer},
        beta=KL,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        max_steps=steps + 1,
        gradient_checkpointing=False,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,
        logging_steps=10**6,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=0,
    )
    rows = datasets.Dataset.from_list([{"prompt": text} for text in asked] * (steps + 1))
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    taken = Turns(step)
    trainer = trl.GRPOTrainer(
        model=model, reward_funcs=scores, args=config, train_dataset=rows, processing_class=words, callbacks=[taken]
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return taken.theirs[1:], [p["whole"] for p in taken.parts[1:]], taken.parts[1:]


def said(row: dict[str, Any]) -> str:
    parts = "  ".join(f"{name} {seconds:.2f}" for name, seconds in row["parts"].items() if name != "whole")
    shape = " × ".join(map(str, row["shape"]))
    return (
        f"{shape}, {row['model']:,} parameters: TRL {row['trl_s']:.2f} s  tropism {row['ours_s']:.2f} s  ratio "
        f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})   {parts}"
    )


if __name__ == "__main__":
    main()
