"""Peak memory of one PPO update with four roles, on one frozen base with adapters against four models of their own.

    python bench/memory_roles.py [--width 640 --layers 19 --vocabulary 8192 --r 8] [--json]

The model is a randomly initialised Llama of about 100 M parameters. Each way runs in a process of its own: policy,
reference, critic and reward model are loaded as the rl stage loads them, the reward model scores a few completions,
reference and critic annotate them, and one update of PPO trains policy and critic. Few tokens, so that what is measured
is weights, gradients and optimiser. `base` is a process that only imports: it is subtracted for the ratio of the rest.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from tropism.algorithms.ppo import PPO
from tropism.models.adapters import Adapter
from tropism.models.architecture import Architecture
from tropism.models.folder import frozen_scalar, save
from tropism.models.forward import predict_scores, predict_tokens
from tropism.models.layout import layout
from tropism.models.weights import Weights
from tropism.tensors.tree import Tree
from tropism.text.tokenizer import train_tokenizer
from tropism.train.loop import Learner
from tropism.train.optim import Optim
from tropism.train.rollouts import annotate
from tropism.types import SamplingParams

WAYS = ("base", "full", "lora")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("width", 640), ("layers", 19), ("vocabulary", 8192), ("r", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", choices=(*WAYS, "prepare"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way == "prepare":
        print(prepare(args))
        return
    if args.way:
        if args.way != "base":
            update(Weights(adapter=Adapter(r=args.r) if args.way == "lora" else Adapter()), args.folder / args.way)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)  # Linux counts in KiB
        return
    with tempfile.TemporaryDirectory() as folder:  # prepared in a process too, as a new process starts at our peak
        parameters = said_by("prepare", folder, args)
        peak = {way: said_by(way, folder, args) for way in WAYS}
    result = {
        "parameters": parameters,
        "r": args.r,
        **{f"{way}_bytes": peak[way] for way in WAYS},
        "ratio": round(peak["lora"] / peak["full"], 3),
        "ratio_without_imports": round((peak["lora"] - peak["base"]) / (peak["full"] - peak["base"]), 3),
    }
    if args.json:
        print(json.dumps(result))
        return
    print(f"one update of PPO, {parameters:,} parameters, adapters of rank {args.r}; peak memory of the process")
    for way, what in zip(WAYS, ("imports only", "four models", "one base, adapters")):
        print(f"{what:<20}{peak[way] / 2**30:8.2f} GiB")
    print(f"ratio {result['ratio']}, without imports {result['ratio_without_imports']}")


def said_by(way: str, folder: str, args: argparse.Namespace) -> int:
    """The number that a fresh process prints: its peak resident bytes, or the parameters of what it prepared."""
    shape = [f"--{name}={getattr(args, name)}" for name in ("width", "layers", "vocabulary", "r")]
    command = [sys.executable, __file__, "--way", way, "--folder", folder, *shape]
    return int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.split()[-1])


def prepare(args: argparse.Namespace) -> int:
    """Folders with the policy and the reward model of each way, as earlier stages leave them; the model's parameters."""
    words = train_tokenizer(["26 days\n"], 300)
    torch.manual_seed(0)
    shape = Architecture(width=args.width, layers=args.layers, heads=10)
    model = AutoModelForCausalLM.from_config(shape.config(args.vocabulary))
    base = args.folder / "full" / "policy"
    save(model, words, base)
    for way, weights in (("full", Weights()), ("lora", Weights(adapter=Adapter(r=args.r)))):
        save(weights.train_scalar(str(base), 0), words, args.folder / way / "reward")
    (args.folder / "lora" / "policy").symlink_to(base)
    return model.num_parameters()


def update(weights: Weights, folder: Path) -> None:
    """Loads the four roles, annotates four prompts with two completions each, and trains on them once."""
    policy_path, reward_path = str(folder / "policy"), str(folder / "reward")
    policy, critic = weights.train_lm(policy_path, 0), weights.train_scalar(reward_path, 1)
    reference, reward = weights.freeze_lm(policy_path), frozen_scalar(reward_path)
    learner = Learner({"policy": policy, "critic": critic}, Optim(lr=1e-5), 1)
    trees = [tree(number) for number in range(4)]
    batch = layout(trees, policy)
    with torch.no_grad():
        old = predict_tokens(policy, batch).need("logprobs_BT")
        scores = predict_scores(reward, batch)
    batch = batch.replace(old_logprobs_BT=old, reward_N=scores, scored_N=torch.ones(batch.n, dtype=torch.bool))
    ppo = PPO()
    sampling = SamplingParams(n=2)
    batch = annotate(batch, ppo.needs, reference, critic, sampling, 0)
    learner.update(ppo, ppo.credit(batch))


def tree(number: int) -> Tree:
    tokens = torch.randint(0, 256, (24,)).tolist()
    answers = tuple(tuple(tokens[8 + i * 8 : 16 + i * 8]) for i in range(2))
    return Tree(str(number), tuple(tokens[:8]), answers, ((True,) * 8,) * 2, (True,) * 2)


if __name__ == "__main__":
    main()
