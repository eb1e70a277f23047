"""A step of our `rl` stage and of TRL's trainer, with the same model, prompts, K and KL penalty, for `rl_step.py` and
`memory.py`. Each side imports its own libraries only when it is used, so that a process can hold one of them.

Both sides read the same tokens: a prompt is a document-start token and a text. Every answer has its full length, as stop
tokens are never sampled. Each side checks these lengths. TRL's best settings on a CPU: one forward pass for the whole
batch, no gradient checkpointing; the rest are its defaults. Ours are the `rl` stage's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import beside_trl as beside  # first: it sets what the libraries of Hugging Face read when they are imported
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

SHAPES = ((8, 128, 8, 32), (16, 16, 8, 32), (8, 16, 8, 128))  # prompts, tokens of each, K, tokens of each answer
NUMBERS = ("P", "PROMPT", "K", "ANSWER")  # of a shape
PEERS = ("grpo", "rloo")  # TRL 1.16 has no PPO
RATE, KL = 1e-5, 0.04


def prepare(folder: Path, source: Path | None, wide: bool) -> PreTrainedModel:
    """Writes the model and its tokenizer into a folder."""
    model, words = beside.loaded(source, wide)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return model


def load(folder: Path, side: str) -> Any:
    """A model of the side, `ours` or `trl`, whose libraries are imported; nothing is done with it."""
    if side == "ours":
        from tropism.stages import rl

        return rl.Weights().train_lm(str(folder), 0)
    import datasets as datasets
    import trl

    _ = trl.GRPOTrainer, trl.RLOOTrainer  # imported when they are named
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")


def texts(folder: Path, prompts: int, length: int) -> list[str]:
    """Texts that have so many tokens after the one that begins a document."""
    words, found = AutoTokenizer.from_pretrained(folder), []
    torch.manual_seed(0)
    for _ in range(100 * prompts):
        text = "".join(chr(97 + int(c)) for c in torch.randint(0, 26, (4 * length,)))
        ids = words(text, add_special_tokens=False)["input_ids"][: length - 1]
        again = str(words.decode(ids))
        if len(words(again, add_special_tokens=False)["input_ids"]) == length - 1:
            found.append(again)
        if len(found) == prompts:
            return found
    raise SystemExit(f"the tokenizer of {folder} gives no texts of {length - 1} tokens: give shapes with other prompts")


def scores(completions: Sequence[str]) -> list[float]:
    """A reward that differs within groups."""
    return [sum(map(ord, c)) % 7 / 7 for c in completions]


def score(completion: str) -> float:
    """The same for our judge."""
    return scores([completion])[0]


def ours(folder: Path, shape: Sequence[int], peer: str = "grpo") -> Callable[[], dict[str, float]]:
    """A function that makes one round of the `rl` stage and returns the seconds of its parts."""
    from tropism.algorithms.grpo import GRPO
    from tropism.algorithms.rloo import RLOO
    from tropism.engines.local import Local
    from tropism.judges.verifier import Verifier
    from tropism.models.halves import vocabulary_of
    from tropism.models.vocabulary import know
    from tropism.stages import rl
    from tropism.stages._rounds import State
    from tropism.text.chat import prompt_tokens
    from tropism.train.loop import Learner
    from tropism.train.optim import Optim
    from tropism.train.order import Order
    from tropism.types import Group, Message, SamplingParams

    prompts, length, k, answer = shape
    words: Any = AutoTokenizer.from_pretrained(folder)
    stage = rl.RL(
        policy=str(folder),
        prompts=None,  # type: ignore[arg-type]  # the groups are given
        judge=Verifier(function=score),
        algorithm=GRPO(kl=KL) if peer == "grpo" else RLOO(kl=KL),
        prompts_per_round=prompts,
        sampling=SamplingParams(n=k, max_tokens=answer),
        refills=0,
    )
    policy, reference = stage.train_lm(str(folder), 0), stage.freeze_lm(str(folder))
    engine = Local().open(policy, words, "policy@0")
    for model in (policy, reference):
        know(model, words)
        if model.__dict__["absent_V"] is None:
            model.__dict__["absent_V"] = torch.zeros(vocabulary_of(model), dtype=torch.bool, device=model.device)
        model.__dict__["absent_V"][[*engine.batch.stops]] = True
    optim = Optim(lr=RATE, schedule="constant")
    learner = Learner({"policy": policy}, optim, 1000, {}, stage.pass_tokens, stage.sampling)
    state = State(stage.algorithm, Order(prompts, 0), words, reference)
    groups = [Group(str(i), (Message("text", text),)) for i, text in enumerate(texts(folder, prompts, length))]
    assert {len(prompt_tokens(words, group.prompt)) for group in groups} == {length}
    work: Any = SimpleNamespace(seed=0, last_checkpoint=lambda: "")

    def step() -> dict[str, float]:
        parts: dict[str, float] = {}
        sampled = beside.clocked(engine, "generate", parts, "sample")
        filled = beside.clocked(rl, "annotate", parts, "reference")
        with sampled, filled, beside.clocked(learner, "update", parts, "update"):
            began = time.perf_counter()
            numbers = stage._round(work, learner, state, groups, engine)
            whole = time.perf_counter() - began
        assert numbers["tokens"] == answer, numbers["tokens"]
        return {**parts, "other": whole - sum(parts.values()), "whole": whole}

    return step


def theirs(folder: Path, shape: Sequence[int], steps: int, peer: str = "grpo") -> Any:
    """TRL's trainer, for `steps` steps and one more."""
    import datasets
    import trl

    prompts, length, k, answer = shape
    config, trainer = {"grpo": (trl.GRPOConfig, trl.GRPOTrainer), "rloo": (trl.RLOOConfig, trl.RLOOTrainer)}[peer]
    words = AutoTokenizer.from_pretrained(folder)
    begun = "" if words("")["input_ids"] else words.bos_token or words.eos_token  # many tokenizers leave it out
    asked = [{"prompt": begun + text} for text in texts(folder, prompts, length)]
    assert {len(words(one["prompt"])["input_ids"]) for one in asked} == {length}

    def rewards(completions: Sequence[str], completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
        assert {*map(len, completion_ids)} == {answer}, completion_ids
        return scores(completions)

    return trainer(
        model=AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa"),
        reward_funcs=rewards,
        args=config(
            per_device_train_batch_size=prompts * k,
            num_generations=k,
            max_completion_length=answer,
            generation_kwargs={"min_new_tokens": answer},
            beta=KL,
            **beside.settings(str(folder), steps, RATE),
        ),
        train_dataset=datasets.Dataset.from_list(asked * (steps + 1)),
        processing_class=words,
    )
