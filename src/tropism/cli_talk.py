"""`tropism chat` and `tropism generate`: using a model. As in `cli.py`, slow imports are inside the commands."""

from pathlib import Path
from typing import Annotated

import typer

from tropism.cli_options import QuietOpt, begin
from tropism.engines import MEMORY
from tropism.errors import TropismError

ModelArg = Annotated[str, typer.Argument(help="A model folder, a hub id, or a run folder (its last policy).")]
MemoryOpt = Annotated[str, typer.Option(help="For keys and values; as many samples run at a time as fit.")]


def chat(
    model: ModelArg,
    system: Annotated[str, typer.Option(help="A system message.")] = "",
    temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0.0)] = 0.0,
    seed: Annotated[int, typer.Option(help="Another seed, another answer.")] = 0,
    max_tokens: Annotated[int, typer.Option(help="The longest answer, in tokens.", min=1)] = 256,
    forget: Annotated[bool, typer.Option("--forget", help="Each line is a conversation of its own.")] = False,
    memory: MemoryOpt = MEMORY,
) -> None:
    """Talk to a model; answers stream. An empty line or Ctrl-D ends it."""
    begin(f"loading {model}")
    from tropism import talk
    from tropism.store.folder import policy_in

    talk.chat(policy_in(model), system, temperature, seed, max_tokens, forget, memory)


def generate(
    model: ModelArg,
    prompts: Annotated[Path, typer.Option(help="Prompts: .txt (one per line) or .jsonl with `prompt` or `messages`.")],
    out: Annotated[Path, typer.Option(help="Where to write: .jsonl or .parquet groups.")],
    n: Annotated[int, typer.Option("-n", help="Completions for each prompt.", min=1)] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens up to this share.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Keep the k likeliest tokens; 0 keeps all.")] = 0,
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.")] = 256,
    seed: Annotated[int, typer.Option(help="Another seed, other answers.")] = 0,
    best_of: Annotated[
        int | None, typer.Option(min=1, help="Sample this many and keep the one that --judge scores highest.")
    ] = None,
    judge: Annotated[str | None, typer.Option(help="A reward model for --best-of: a folder or a hub id.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file --out if it exists.")] = False,
    memory: MemoryOpt = MEMORY,
    quiet: QuietOpt = False,
) -> None:
    """Answer a file of prompts."""
    begin(f"loading {model}", quiet)
    from tropism import talk
    from tropism.judges.reward_model import RewardModel
    from tropism.recipe.build import build
    from tropism.search.best_of_n import BestOfN
    from tropism.store.folder import policy_in
    from tropism.store.progress import Reporter

    if (best_of is None) != (judge is None):
        raise TropismError("--best-of and --judge go together: give both, or neither")
    if best_of is not None and n != 1:
        raise TropismError(f"-n {n} keeps {n} completions but --best-of keeps one: leave one of them out")
    options = {"n": n, "max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    sampling = build(talk.SamplingParams, {**options, "seed": seed}, "generate")
    search = (BestOfN(best_of), RewardModel(judge)) if best_of and judge else None
    count = talk.generate(policy_in(model), prompts, out, sampling, Reporter(quiet), search, force, memory)
    if not quiet:
        print(f"{count} prompts answered in {out}")
