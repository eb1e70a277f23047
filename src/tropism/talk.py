"""Using a model from the command line: a chat that streams, and a file of prompts answered."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from tropism.engines.local import LocalEngine
from tropism.formats.prompts import Prompts
from tropism.models.store import context_of, load_lm
from tropism.search._drive import drive
from tropism.stages._train import question
from tropism.store import files
from tropism.store import groups as store
from tropism.store.progress import Reporter
from tropism.text import tokenizer
from tropism.types import Group, Judge, Message, SamplingParams, Search, TropismError, to_json


def chat(model: str, system: str, temperature: float, seed: int, max_tokens: int, forget: bool = False) -> None:
    """Reads lines from standard input and streams answers to standard output. The conversation is remembered, unless
    `forget` makes each line one of its own (for models that were only ever asked one question).

    When it no longer fits the model's context, its oldest turns are forgotten; half the context is kept for an answer.
    """
    engine = LocalEngine(load_lm(model), tokenizer.load(model), model)
    enough = min(max_tokens, context_of(engine.model) // 2)
    opening = [Message("system", system)] if system else []
    turns: list[Message] = []
    prompting = sys.stdin.isatty()
    while True:
        if prompting:
            print("you> ", end="", flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        turns.append(Message("user", line))
        while len(turns) > 1 and engine.room([*opening, *turns]) < enough:
            turns = turns[2:]
        longest = max(1, min(max_tokens, engine.room([*opening, *turns])))
        params = SamplingParams(max_tokens=longest, temperature=temperature, seed=seed + len(turns))
        answer = ""
        for piece in engine.stream([*opening, *turns], params):
            print(piece, end="", flush=True)
            answer += piece
        print(flush=True)
        turns = [] if forget else [*turns, Message("assistant", answer)]


def generate(
    model: str,
    prompts: Path,
    out: Path,
    sampling: SamplingParams,
    reporter: Reporter,
    search: tuple[Search, Judge] | None = None,
) -> int:
    """Answers the prompts of a file; groups as JSON lines or Parquet, written whole or not at all.

    With a `search` and the judge it asks, each with the one completion that it finds, and the judge's score of it.
    """
    if out.suffix not in (".jsonl", ".parquet"):
        raise TropismError(f"{out} ends in neither .jsonl nor .parquet: name such a file")
    asked = list(Prompts(path=str(prompts)).groups())
    if search:
        search[1].judge([])  # a model that cannot be loaded shows before anything is sampled
    engine = LocalEngine(load_lm(model), tokenizer.load(model), model)
    for group in asked:
        question(group, engine.tokenizer, context_of(engine.model), sampling.max_tokens)
    done: list[Group] = []
    with reporter.progress("answering", len(asked), "tokens") as bar:
        for i in range(0, len(asked), 64):
            batch = asked[i : i + 64]
            if search:
                found = drive(search[0], batch, engine, search[1], sampling)
                done += [f.group for f in found]
                tokens = sum(f.tokens for f in found)
            else:
                answers = engine.generate([g.prompt for g in batch], sampling)
                done += [dataclasses.replace(g, completions=a) for g, a in zip(batch, answers)]
                tokens = sum(len(c.tokens or ()) for a in answers for c in a)
            bar.advance(len(batch), rated=tokens)
    with files.explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".jsonl":
        lines = (json.dumps(to_json(g), ensure_ascii=False) + "\n" for g in done)
        files.write_bytes(out, "".join(lines).encode())
    else:
        temporary = out.with_name(f".{out.name}.part")
        try:
            with files.explained(out):
                store.write(done, temporary)
                temporary.replace(out)
        finally:
            temporary.unlink(missing_ok=True)
    return len(done)
