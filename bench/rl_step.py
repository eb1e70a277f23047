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

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import beside_trl as beside  # first: it sets what the libraries of Hugging Face read when they are imported
import datasets
import torch
import trl
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from tropism.algorithms.grpo import GRPO
from tropism.engines.local import Local
from tropism.judges.verifier import Verifier
from tropism.models.vocabulary import know
from tropism.stages import rl
from tropism.stages._rounds import State
from tropism.text.chat import stop_tokens
from tropism.train.loop import Learner
from tropism.train.optim import Optim
from tropism.train.order import Order
from tropism.types import Group, Message, SamplingParams

SHAPES = ((8, 128, 8, 32), (16, 16, 8, 32), (8, 16, 8, 128))
RATE, KL = 1e-5, 0.04


def main() -> None:
    args = beside.arguments(__doc__, ("P", "PROMPT", "K", "ANSWER")).parse_args()
    rows = []
    for shape in args.shape or SHAPES:
        model, words = beside.loaded(args.model, args.wide)
        rows.append(measure(model, words, tuple(shape), args.steps))
        if not args.json:
            print(beside.said(rows[-1]), flush=True)
    if args.json:
        print(json.dumps(rows))


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
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        step = ours(folder, words, asked, k, answer)
        return turns(folder, words, asked, k, answer, step, steps).row(model, shape)


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
        sampled, filled = (
            beside.clocked(engine, "generate", parts, "sample"),
            beside.clocked(rl, "annotate", parts, "reference"),
        )
        with sampled, filled, beside.clocked(learner, "update", parts, "update"):
            began = time.perf_counter()
            numbers = stage._round(work, learner, state, groups, engine)  # type: ignore[arg-type]
            whole = time.perf_counter() - began
        assert round(numbers["tokens"]) == answer, numbers["tokens"]
        return {**parts, "other": whole - sum(parts.values()), "whole": whole}

    return step


def turns(
    folder: str, words: PreTrainedTokenizerBase, asked: list[str], k: int, answer: int, step: Callable, steps: int
) -> beside.Turns:
    config = trl.GRPOConfig(
        **beside.settings(folder, steps, RATE),
        per_device_train_batch_size=len(asked) * k,
        num_generations=k,
        max_completion_length=answer,
        generation_kwargs={"min_new_tokens": answer},
        beta=KL,
    )
    rows = datasets.Dataset.from_list([{"prompt": text} for text in asked] * (steps + 1))
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    taken = beside.Turns(step)
    taken.train(
        trl.GRPOTrainer(model=model, reward_funcs=scores, args=config, train_dataset=rows, processing_class=words)
    )
    return taken


if __name__ == "__main__":
    main()
