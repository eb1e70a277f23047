"""Every causal family of the installed transformers, tiny and random: what works with it. Writes docs/models.md.

    nice python bench/models.py [--out docs/models.md] [--only llama,mamba] [--results runs/models.jsonl]

A family is a key of transformers' table of causal LMs. Its model has two layers or few more, a width of 32, weights that
are moved far enough to prefer some tokens to others, and windows of 8 tokens, which the texts outgrow. What a column says
is compared with plain calls of the model, and with `generate`. Results are kept family by family: the script goes on from
there, and a crash is a row.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""
sys.path.insert(0, str(Path(__file__).parent))

import torch
import transformers
from tiny_models import LEFT_OUT, tiny
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from tropism.algorithms.dpo import DPO
from tropism.algorithms.grpo import GRPO
from tropism.engines._ways import way_of
from tropism.engines.local import LocalEngine
from tropism.errors import TropismError
from tropism.formats.chat import Chat
from tropism.formats.prompts import Prompts
from tropism.judges.verifier import Verifier
from tropism.models.folder import load_lm, load_scalar, save
from tropism.models.forward import predict_tokens
from tropism.models.masks import takes_trees
from tropism.stages.offline import Offline
from tropism.stages.reward import Reward
from tropism.stages.rl import RL
from tropism.stages.sft import SFT
from tropism.store.groups import write_groups
from tropism.store.progress import Reporter
from tropism.store.run import Run
from tropism.tensors.collate import collate
from tropism.tensors.tree import Tree
from tropism.text.chat import stop_tokens
from tropism.text.tokenizer import train_tokenizer
from tropism.types import Completion, Group, Judgment, Message, SamplingParams

COLUMNS = ("loads", "rows", "engine", "sft", "dpo", "grpo", "reward", "reloads")
WORDS = train_tokenizer([f"{n} days, {n} jours, {n} hari\n" for n in range(60)], 300)
CLOSE = 1e-5  # of log-probabilities in nats, relative above 1


def family(kind: str, folder: Path) -> dict[str, str]:
    """What each column says of a family: "yes" and more, or why not."""
    found: dict[str, str] = {}
    try:
        torch.manual_seed(0)
        save(sharpened(AutoModelForCausalLM.from_config(tiny(kind, len(WORDS))).eval()), WORDS, folder / "model")
        model = load_lm(folder / "model")
        found["loads"] = f"yes, {type(model).__name__}"
    except Exception as error:
        return {"loads": said(error, folder)}
    checks: dict[str, Callable[[], str]] = {
        "rows": lambda: rows(model),
        "engine": lambda: engine(model),
        "sft": lambda: stage(folder, "sft", sft),
        "dpo": lambda: stage(folder, "dpo", dpo),
        "grpo": lambda: stage(folder, "grpo", grpo),
        "reward": lambda: stage(folder, "reward", reward),
        "reloads": lambda: reloads(folder),
    }
    for column, check in checks.items():
        try:
            found[column] = check()
        except Exception as error:
            found[column] = said(error, folder)
    return found


def sharpened(model: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


YES = (True,) * 9
TREES = [
    Tree("a", tuple(range(40, 52)), (tuple(range(60, 69)), (12, 13), (90, 91)), (YES, YES[:2], YES[:2]), YES[:3]),
    Tree("b", (100, 101), ((110, 111, 112),), (YES[:3],), YES[:1]),
]


@torch.no_grad()
def rows(model: PreTrainedModel) -> str:
    """Log-probabilities of one row alone, in a batch of padded rows, and in shared rows, against the model's own call."""
    layouts = {"padded": False, **({"shared": True} if takes_trees(model) else {})}
    worst = 0.0
    for shared in layouts.values():
        batch = collate(TREES, shared=shared)
        found = predict_tokens(model, batch).need("logprobs_BT")
        number = 0
        for tree in TREES:
            for answer in tree.completions:
                text = tree.prompt + answer
                plain = model(input_ids=torch.tensor([text]), use_cache=False).logits[0].float().log_softmax(-1)
                expected = plain[torch.arange(len(tree.prompt) - 1, len(text) - 1), torch.tensor(answer)]
                mine = found[batch.completion_BT == number]
                alone = collate(
                    [replace(tree, completions=(answer,), trained=((True,) * len(answer),), ended=(True,))],
                    shared=False,
                )
                single = predict_tokens(model, alone).need("logprobs_BT")[alone.loss_mask_BT]
                for one in (mine, single):
                    worst = max(worst, float(((one - expected).abs() / expected.abs().clamp(min=1)).max()))
                number += 1
    if worst > CLOSE:
        raise ValueError(f"log-probabilities differ by {worst:.1e}")
    return "yes, shared" if "shared" in layouts else "yes, padded"


QUESTIONS = [(Message("text", text),) for text in ("7 days", "19 hari, 19 jours and 19 days", "x")]


GREEDY: dict[str, Any] = {
    "max_new_tokens": 14,
    "do_sample": False,
    "pad_token_id": WORDS.pad_token_id,
    "forced_eos_token_id": None,  # some families' configs force an end at the limit
}


@torch.no_grad()
def engine(model: PreTrainedModel) -> str:
    """Greedy tokens against `generate`, sampled log-probabilities against plain calls."""
    stops = sorted(stop_tokens(WORDS))
    mine, departs = LocalEngine(model, WORDS, rows=4), ""
    for prompt, (answer,) in zip(QUESTIONS, mine.generate(QUESTIONS, SamplingParams(max_tokens=14, temperature=0))):
        start = torch.tensor([[WORDS.bos_token_id, *WORDS.encode(prompt[0].content)]])
        try:
            theirs = model.generate(start, attention_mask=torch.ones_like(start), eos_token_id=stops, **GREEDY)[0]
            expected, why = tuple(theirs[start.shape[1] :].tolist()), "; generate departs from plain calls"
        except Exception:  # the family's own, in transformers
            expected, why = None, "; generate fails"
        if answer.tokens != expected:
            plainly = model(input_ids=torch.cat([start, torch.tensor([answer.tokens])], 1), use_cache=False).logits[0]
            if plainly[start.shape[1] - 1 : -1].argmax(-1).tolist() != list(answer.tokens or ()):
                raise ValueError("greedy tokens are not those of generate")
            departs = why
    for prompt, row in zip(QUESTIONS, mine.generate(QUESTIONS, SamplingParams(n=2, max_tokens=14))):
        for answer in row:
            start = (WORDS.bos_token_id, *WORDS.encode(prompt[0].content))
            plain = model(input_ids=torch.tensor([start + (answer.tokens or ())]), use_cache=False)
            plain = plain.logits[0].float().log_softmax(-1)
            expected = plain[torch.arange(len(start) - 1, len(plain) - 1), torch.tensor(answer.tokens)]
            worst = float(((torch.tensor(answer.logprobs) - expected).abs() / expected.abs().clamp(min=1)).max())
            if worst > 10 * CLOSE:
                raise ValueError(f"log-probabilities of samples differ by {worst:.1e}")
    return f"yes, {way_of(model)}{departs}"


def stage(folder: Path, id: str, make: Callable[[Path], Any]) -> str:
    """Two updates of a stage; the losses are numbers."""
    with Run(folder / id, reporter=Reporter(quiet=True)) as run:
        run(make(folder))
    lines = [json.loads(x) for x in next((folder / id).glob("*/metrics.jsonl")).read_text().splitlines()]
    losses = [line["loss"] for line in lines if line.get("loss") is not None]
    if len(losses) < 2 or any(x != x for x in losses):
        raise ValueError(f"losses {losses}")
    return "yes"


def sft(folder: Path) -> SFT:
    chats = folder / "chats.jsonl"
    turns = [
        [{"role": "user", "content": f"{n} jours"}, {"role": "assistant", "content": f"{n} days"}] for n in range(4)
    ]
    chats.write_text("".join(json.dumps({"messages": turn}) + "\n" for turn in turns))
    return SFT(model=str(folder / "model"), data=Chat(path=str(chats)), steps=2, groups_per_step=2, held_out=0.0)


def judged(folder: Path) -> str:
    answers = (Completion("3 days"), Completion("hari"))
    made = [
        Group(f"g{n}", (Message("user", f"{n} jours"),), answers, (Judgment("people@1", (1.0, 0.0), "interval"),))
        for n in range(4)
    ]
    write_groups(made, folder / "groups.parquet")
    return str(folder / "groups.parquet")


def dpo(folder: Path) -> Offline:
    return Offline(
        policy=str(folder / "model"), groups=judged(folder), judge="people", algorithm=DPO(), groups_per_step=2
    )


def varied(completion: str) -> float:
    """A reward that hardly ever gives two completions the same."""
    return float(sum(map(ord, completion)) % 97)


def grpo(folder: Path) -> RL:
    sampling = SamplingParams(n=4, max_tokens=8, temperature=5.0)
    return RL(
        policy=str(folder / "model"), prompts=Prompts(prompts=("1 day", "2 days and a half")), judge=Verifier(varied),
        algorithm=GRPO(), rounds=2, prompts_per_round=2, sampling=sampling, refills=2,
    )  # fmt: skip


def reward(folder: Path) -> Reward:
    return Reward(model=str(folder / "model"), groups=judged(folder), judge="people", passes=1.0, groups_per_step=2)


@torch.no_grad()
def reloads(folder: Path) -> str:
    """What the sft and reward stages left is read again, the language model by transformers, the reward model too where
    it has the class."""
    policy, scorer = (next((folder / id).glob("*/out")) for id in ("sft", "reward"))
    ours, theirs = load_lm(policy), AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32).eval()
    tokens = torch.arange(40, 60)[None]
    if not torch.allclose(*(m(input_ids=tokens, use_cache=False).logits for m in (ours, theirs)), atol=1e-5):
        raise ValueError("transformers reads another model than was saved")
    kind = type(load_scalar(scorer))
    known = getattr(transformers, kind.__name__, None) is kind
    return "yes" if known else "yes, the reward model by tropism alone"


def said(error: Exception, folder: Path) -> str:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0].replace(str(folder), "…")
    return first if isinstance(error, (TropismError, ValueError)) else f"{type(error).__name__}: {first}"


def work(kinds: list[str], results: Path) -> None:
    """Tries families one after another, a line each."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    for kind in kinds:
        began = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            found = family(kind, Path(folder))
        found["seconds"] = f"{time.process_time() - began:.1f}"
        with open(results, "a", encoding="utf-8") as file:
            file.write(json.dumps({"family": kind, **found}) + "\n")
        print(kind, found, flush=True)


def read(results: Path) -> dict[str, dict[str, str]]:
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    return {row.pop("family"): row for row in map(json.loads, lines)}


def works(row: dict[str, str]) -> bool:
    return all(row.get(column, "").startswith("yes") for column in COLUMNS)


def page(rows: dict[str, dict[str, str]]) -> str:
    """docs/models.md."""
    good = sum(map(works, rows.values()))
    refused = {k: v for k, v in rows.items() if not works(v)}
    out = [
        "# Models",
        "",
        "Made by `bench/models.py`, which says how each column is tried: every family of the causal language models of",
        f"transformers {transformers.__version__}, with a tiny model of random weights and windows of 8 tokens.",
        "",
        f"**{good} of {len(rows)} families that were tried work in every column ({good / len(rows):.0%})**, of "
        f"{len(rows) + len(LEFT_OUT)} in transformers' table. What does not is below, with what was said; so is what was",
        "not tried.",
        "",
        "- rows: a sequence alone, padded in a batch and, where it says *shared*, in rows that the completions of a prompt",
        "  share has the log-probabilities of one plain call, to 1e-5.",
        "- engine: greedy tokens are those of `generate` (of plain calls where `generate` departs from them or fails),",
        "  sampled log-probabilities those of a plain call. *pages*: rows",
        "  of any age side by side; *cached*: prompts of one length together, on the model's own cache; *again*: each",
        "  token from the whole text.",
        "- sft, dpo, grpo, reward: two updates of the stage; reloads: transformers reads what the stages left.",
        "",
        "| family | class | rows | engine | sft | dpo | grpo | reward | reloads |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in sorted(k for k in rows if k not in refused):
        row = rows[kind]
        cells = [short(row[column]) for column in COLUMNS]
        out.append(f"| {kind} | " + " | ".join(cells) + " |")
    out += ["", "## Not in every column", "", "| family | column | what was said |", "|---|---|---|"]
    for kind in sorted(refused):
        for column in COLUMNS:
            if (cell := refused[kind].get(column, "")) and not cell.startswith("yes"):
                out.append(f"| {kind} | {column} | {cell.replace('|', '/')} |")
    out += ["", "## Not tried", "", "| family | why |", "|---|---|"]
    out += [f"| {kind} | {why} |" for kind, why in sorted(LEFT_OUT.items())]
    return "\n".join(out) + "\n"


def short(cell: str) -> str:
    return cell.removeprefix("yes, ") if cell != "yes" else "yes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/models.md"))
    parser.add_argument("--results", type=Path, default=Path("runs/models.jsonl"))
    parser.add_argument("--only", default="")
    parser.add_argument("--worker", action="store_true")
    args = parser.parse_args()
    kinds = args.only.split(",") if args.only else [k for k in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if k not in LEFT_OUT]
    if args.worker:
        work(kinds, args.results)
        return
    args.results.parent.mkdir(parents=True, exist_ok=True)
    while left := [k for k in kinds if k not in read(args.results)]:
        command = [sys.executable, __file__, "--worker", "--results", str(args.results), "--only", ",".join(left)]
        code = subprocess.run(command).returncode
        if code and (crashed := next((k for k in left if k not in read(args.results)), None)):
            with open(args.results, "a", encoding="utf-8") as file:
                file.write(json.dumps({"family": crashed, "loads": f"the process ended with status {code}"}) + "\n")
    rows = {k: v for k, v in read(args.results).items() if k in kinds}
    args.out.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
