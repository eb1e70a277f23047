"""Using a model from the command line: a chat that streams, and answering a file of prompts."""

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from tropism.asking.search import Found, drive
from tropism.engines import MEMORY
from tropism.engines.local import Local, LocalEngine
from tropism.formats.prompts import Prompts
from tropism.models.folder import context_of, load_lm
from tropism.outside import plain
from tropism.protocols import Judge, Search
from tropism.store.groups import refuse_out, save_groups
from tropism.store.progress import Reporter
from tropism.tensors.encode import question
from tropism.text.tokenizer import load_tokenizer
from tropism.train.rollouts import apart, repeats, sample
from tropism.types import Group, Message, SamplingParams

AT_ONCE = 64  # prompts in one call of the engine


def chat(
    model: str,
    system: str,
    temperature: float,
    seed: int,
    max_tokens: int,
    forget: bool = False,
    memory: str = MEMORY,
) -> None:
    """Reads lines from standard input and streams answers to standard output. The conversation is remembered; with
    `forget` each line is a new conversation (for models that were trained only on single questions).

    When it no longer fits the model's context, the oldest turns are removed (`fitting`).
    """
    engine = Local(memory).open(load_lm(model), load_tokenizer(model), model)
    opening = [Message("system", system)] if system else []
    turns: list[Message] = []
    prompting = sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # so that input that is not UTF-8 does not end the chat
    while True:
        if prompting:
            print("you> ", end="", flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            return
        turns.append(Message("user", line))
        turns, longest = fitting(engine, opening, turns, max_tokens)
        params = SamplingParams(max_tokens=longest, temperature=temperature, seed=seed + len(turns))
        answer = ""
        for piece in engine.stream([*opening, *turns], params):
            print(plain(piece), end="", flush=True)
            answer += piece
        print(flush=True)
        turns = [] if forget else [*turns, Message("assistant", answer)]


def fitting(
    engine: LocalEngine, opening: list[Message], turns: Sequence[Message], max_tokens: int
) -> tuple[list[Message], int]:
    """The newest turns that leave room for an answer, and how long it may be.

    Half the context is kept for the answer, if `max_tokens` wants that much.
    """
    kept = list(turns)
    enough = min(max_tokens, context_of(engine.model) // 2)
    while len(kept) > 1 and engine.room([*opening, *kept]) < enough:
        kept = kept[2:]
    return kept, max(1, min(max_tokens, engine.room([*opening, *kept])))


def generate(
    model: str,
    prompts: Path,
    out: Path,
    sampling: SamplingParams,
    reporter: Reporter,
    search: tuple[Search, Judge] | None = None,
    force: bool = False,
    memory: str = MEMORY,
) -> int:
    """Answers the prompts of a file; writes groups as JSON lines or Parquet, completely or not at all.

    A file that exists is replaced only with `force`.

    With a `search` and its judge, each group has the one completion that the search chose, and the judge's score of it.
    """
    refuse_out(out, force)  # raises before anything is sampled if the file cannot be written
    asked = list(Prompts(path=str(prompts)).groups())
    if search:
        search[1].judge([])  # raises before anything is sampled if its model cannot be loaded
    done = _answered(model, asked, sampling, reporter, search, memory)
    return save_groups(done, out)


def _answered(
    model: str,
    asked: list[Group],
    sampling: SamplingParams,
    reporter: Reporter,
    search: tuple[Search, Judge] | None,
    memory: str,
) -> list[Group]:
    engine = Local(memory).open(load_lm(model), load_tokenizer(model), model)
    for group in asked:
        question(group, engine.tokenizer, context_of(engine.model), sampling.max_tokens)
    done: list[Group] = []
    with reporter.progress("answering", len(asked), "tokens") as bar:
        times = [*repeats(asked)]
        for i in range(0, len(asked), AT_ONCE):
            batch, before = asked[i : i + AT_ONCE], times[i : i + AT_ONCE]
            if search:
                found: dict[int, Found] = {}
                for at, seeded in apart(before, sampling):
                    found |= zip(at, drive(search[0], [batch[k] for k in at], engine, search[1], seeded))
                done += [found[k].group for k in range(len(batch))]
                tokens = sum(f.tokens for f in found.values())
            else:
                answers = sample(batch, engine, sampling, before)
                done += [dataclasses.replace(g, completions=a) for g, a in zip(batch, answers)]
                tokens = sum(len(c.tokens or ()) for a in answers for c in a)
            bar.advance(len(batch), rated=tokens)
    return done
