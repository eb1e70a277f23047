"""A whole recipe that runs in two seconds, and ways to run it: in this process, and in one that can be killed."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

TOKENIZER = """
[[stage]]
id = "tokenizer"
kind = "tokenizer"
data = { kind = "phrasebook", part = "documents", count = 60 }
vocab_size = 300
"""
BASE = """
[[stage]]
id = "base"
kind = "pretrain"
tokenizer = "tokenizer"
data = { kind = "phrasebook", part = "documents", count = 60 }
model = { width = 16, layers = 1, heads = 2, context = 256 }
steps = 5
tokens_per_step = 256
held_out = 0.1
"""
SFT = """
[[stage]]
id = "sft"
kind = "sft"
model = "base"
data = { kind = "phrasebook", part = "demonstrations", count = 40 }
steps = 5
groups_per_step = 4
held_out = 0.1
"""
SAMPLES = """
[[stage]]
id = "samples"
kind = "collect"
policy = "sft"
prompts = { kind = "phrasebook", part = "prompts", count = 24 }
sampling = { n = 3, max_tokens = 8 }
prompts_at_once = 8
"""
RANKINGS = """
[[stage]]
id = "rankings"
kind = "label"
groups = "samples"
test = 0.25
judges = [{ kind = "annotator" }, { kind = "verifier", function = "tropism.phrasebook.quality:quality", name = "truth" }]
"""
REWARD = """
[[stage]]
id = "reward"
kind = "reward"
model = "sft"
groups = "rankings"
judge = "annotator"
passes = 1.0
groups_per_step = 4
"""
PPO = """
[[stage]]
id = "ppo"
kind = "rl"
policy = "sft"
critic = "reward"
prompts = { kind = "phrasebook", part = "prompts", count = 24 }
judge = { kind = "reward_model", model = "reward" }
truth = { kind = "verifier", function = "tropism.phrasebook.quality:quality" }
algorithm = { kind = "ppo", kl = 0.05, kl_target = 0.1, kl_horizon = 100 }
rounds = 4
prompts_per_round = 4
sampling = { n = 2, max_tokens = 8 }
epochs = 2
minibatches = 2
optim = { lr = 0.01, schedule = "constant" }
"""
EVALUATION = """
[[stage]]
id = "evaluation"
kind = "evaluate"
models = { base = "base", sft = "sft", ppo = "ppo" }
prompts = { kind = "phrasebook", part = "held_out", count = 8 }
completes = { kind = "phrasebook", part = "glossary", count = 8 }
judge = { kind = "verifier", function = "tropism.phrasebook.quality:quality" }
proxy = { kind = "reward_model", model = "reward" }
reward = "reward"
sampling = { n = 2, max_tokens = 8 }
"""
CIRCLE = TOKENIZER + BASE + SFT + SAMPLES + RANKINGS + REWARD + PPO + EVALUATION

COARSE = """
def parity(completion):
    return float(len(completion) % 2)  # about half of all groups of two score alike
"""  # to be written to coarse.py beside a recipe with METHODS
LEARNED = '{ kind = "reward_model", model = "reward" }'
QUALITY = '{ kind = "verifier", function = "tropism.phrasebook.quality:quality" }'
PROBE = (
    'probe = { prompts = { kind = "phrasebook", part = "held_out", count = 3 }, '
    f"judge = {LEARNED}, truth = {QUALITY}, every = 400, sampling = {{ n = 2, max_tokens = 8 }} }}"
)


def rl(id: str, algorithm: str, *more: str, judge: str = LEARNED) -> str:
    """An rl stage of four rounds, probed on the way."""
    prompts = 'prompts = { kind = "phrasebook", part = "prompts", count = 24 }\nprompts_per_round = 4\nrounds = 4'
    small = 'sampling = { n = 2, max_tokens = 8 }\noptim = { lr = 0.01, schedule = "constant" }'
    first = f'[[stage]]\nid = "{id}"\nkind = "rl"\npolicy = "sft"\njudge = {judge}\nalgorithm = {algorithm}'
    return "\n".join(("", first, prompts, small, PROBE, *more, ""))


def offline(id: str, algorithm: str) -> str:
    """An offline stage of four updates, probed on the way."""
    first = f'[[stage]]\nid = "{id}"\nkind = "offline"\npolicy = "sft"\ngroups = "rankings"\njudge = "annotator"'
    small = f"algorithm = {algorithm}\ngroups_per_step = 4\noptim = {{ lr = 0.01 }}"
    return "\n".join(("", first, small, PROBE, ""))


def rest(id: str, algorithm: str, *more: str) -> str:
    """A rest stage of two Grow steps with two Improve steps each, probed on the way."""
    first = f'[[stage]]\nid = "{id}"\nkind = "rest"\npolicy = "sft"\njudge = {LEARNED}\ntruth = {QUALITY}'
    prompts = 'prompts = { kind = "phrasebook", part = "prompts", count = 8 }\nsampling = { n = 3, max_tokens = 8 }'
    small = f"algorithm = {algorithm}\ngrows = 2\nthresholds = [0.3, 0.6]\nsteps = 2\ngroups_per_step = 4"
    return "\n".join(("", first, prompts, small, "optim = { lr = 0.01 }", PROBE, *more, ""))


def distill(id: str, algorithm: str, *more: str) -> str:
    """A distill stage of four updates, half of its answers the policy's own, probed on the way."""
    first = f'[[stage]]\nid = "{id}"\nkind = "distill"\npolicy = "sft"\nteacher = "base"\nalgorithm = {algorithm}'
    data = 'data = { kind = "phrasebook", part = "demonstrations", count = 24 }\non_policy = 0.5\ngroups_per_step = 4'
    small = "steps = 4\nsampling = { n = 2, max_tokens = 8 }\noptim = { lr = 0.01 }"
    return "\n".join(("", first, data, small, PROBE, *more, ""))


METHODS = {
    "ppo": rl(
        "ppo",
        '{ kind = "ppo", kl_target = 0.1, kl_horizon = 100 }',
        "shaping = { scale = true, clip = 2.0, length_cost = 0.01 }",
        "epochs = 2\nminibatches = 2",
        'mix = { data = { kind = "phrasebook", part = "documents", count = 9 }, coefficient = 0.5, tokens = 64 }',
    ),
    "apa": rl("apa", '{ kind = "apa" }', "shaping = { scale = true }", 'keep = "best"'),
    "grpo": rl("grpo", '{ kind = "grpo" }', judge='{ kind = "coarse:parity" }'),
    "rloo": rl("rloo", '{ kind = "rloo" }', "budget = 2600"),
    "dpo": offline("dpo", '{ kind = "dpo" }'),
    "kto": offline("kto", '{ kind = "kto" }'),
    "gkd": distill("gkd", '{ kind = "gkd" }'),
    "rest": rest("rest", '{ kind = "nll" }'),
    "rest_awr": rest("rest_awr", '{ kind = "awr" }', 'by = "quantile"\nper_prompt = 2'),
}
PREFIX = TOKENIZER + BASE + SFT + SAMPLES + RANKINGS + REWARD


@dataclass(frozen=True)
class Said:
    """What a command left behind: its exit status and what it printed."""

    code: int
    out: str
    err: str


def tropism(*words: object) -> Said:
    """`tropism WORDS` in this process, as the entry point runs it."""
    from tropism.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    before, sys.argv = sys.argv, ["tropism", *map(str, words)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
    return Said(code, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Kill:
    """The n-th time that a process gives a file or folder its name (or only: a checkpoint): just before, or just after."""

    n: int
    after: bool
    checkpoint: bool = False


def start(*words: object, kill: Kill | None = None) -> BaseProcess:
    """`tropism WORDS` in a process of its own, forked from one that has imported everything: it can be killed at once.

    With `kill` it kills itself.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tropism.plan", "tropism.report.build", "tropism.report.summary", "tropism.talk"])
    process = context.Process(target=_command, args=(tuple(map(str, words)), kill))
    process.start()
    return process


def _command(words: tuple[str, ...], kill: Kill | None) -> None:
    from tropism.cli import main

    if kill:
        _arm(kill)
    sys.argv = ["tropism", *words]
    main()


def _arm(kill: Kill) -> None:
    rename, calls = os.replace, 0

    def replace(source: Any, target: Any) -> None:
        nonlocal calls
        calls += Path(target).parent.name == "checkpoints" or not kill.checkpoint
        if calls == kill.n and not kill.after:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)
        if calls == kill.n:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace  # type: ignore[assignment]


def weights(folder: Path) -> dict[str, bytes]:
    """The safetensors files of a run, by the stage folder and name."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.glob("*/out/*.safetensors"))}
