"""Group → Tree: the bridge from text to tokens, and what judgments mean to a trainer."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from tropism.errors import TropismError
from tropism.tensors.tree import Tree
from tropism.text.chat import Thinking, completion, completion_tokens, conversation, prompt_tokens, stop_tokens, text_of
from tropism.text.template import Refused
from tropism.text.tokenizer import identity
from tropism.types import Completion, Group, Judgment, Message

WORTH_A_LOOK = 1_000_000  # characters; a second's encoding


class TooLong(TropismError):
    """A group that does not fit the model's context."""


def bounded(group: Group, tokenizer: PreTrainedTokenizerBase, context: int) -> None:
    """Raises TooLong for a text so long that no tokens of the vocabulary could make it fit, before it is encoded."""
    signs = sum(len(m.content) for m in group.prompt) + max((len(c.text) for c in group.completions), default=0)
    if signs > WORTH_A_LOOK and signs > context * max(map(len, tokenizer.get_vocab())):
        raise TooLong(
            f"group {group.id} has {signs:,} characters, which cannot fit the model's context of {context} tokens: "
            "shorten it, leave it out, or use a model with a longer context"
        )


@contextmanager
def named(group: Group) -> Iterator[None]:
    """A template's refusal says which group it is about."""
    try:
        yield
    except Refused as error:
        raise Refused(f"group {group.id}: {error}") from None


def tree(group: Group, tokenizer: PreTrainedTokenizerBase, context: int) -> Tree:
    """A group with its completions as tokens.

    Those that were sampled with this tokenizer keep their own tokens and log-probabilities; others are read as text.
    Raises if the prompt and a completion do not fit into `context` tokens.
    """
    bounded(group, tokenizer, context)
    completions = [
        c if c.tokens is not None and _own(c, tokenizer) else Completion(c.text, finish_reason=c.finish_reason)
        for c in group.completions
    ]
    with named(group):
        prompt = tuple(prompt_tokens(tokenizer, group.prompt))
        tokens = tuple(
            tuple(completion_tokens(tokenizer, c.text, group.prompt)) if c.tokens is None else c.tokens
            for c in completions
        )
    _check(group.id, len(prompt) + max(map(len, tokens), default=0), context)
    logprobs = [c.logprobs for c in completions]
    return Tree(
        id=group.id,
        prompt=prompt,
        completions=tokens,
        trained=tuple(c.sampled or (True,) * len(t) for c, t in zip(completions, tokens)),
        ended=tuple(c.finish_reason == "stop" for c in completions),
        logprobs=None if None in logprobs else tuple(x for x in logprobs if x is not None),
    )


def _own(completion: Completion, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the completion's tokens are this tokenizer's. Where nobody wrote down whose they are, they must spell its
    text from first to last, and an answer that stopped must end with a stop token."""
    if completion.tokenizer:
        return completion.tokenizer == identity(tokenizer)
    tokens = completion.tokens or ()
    stopped = completion.finish_reason == "stop"
    if not tokens or max(tokens) >= len(tokenizer) or (stopped and tokens[-1] not in stop_tokens(tokenizer)):
        return False
    return text_of(tokenizer, tokens) == completion.text and (stopped or completion.text != "")


def question(group: Group, tokenizer: PreTrainedTokenizerBase, context: int, max_tokens: int) -> Tree:
    """The prompt of a group as a Tree without completions. Raises TooLong if an answer would not fit behind it."""
    bounded(group, tokenizer, context)
    with named(group):
        prompt = prompt_tokens(tokenizer, group.prompt)
    if len(prompt) + max_tokens > context:
        raise TooLong(
            f"the prompt of group {group.id} has {len(prompt)} tokens, and with sampling.max_tokens = {max_tokens} that "
            f"exceeds the model's context of {context}: shorten the prompt, lower sampling.max_tokens"
        )
    return Tree(group.id, tuple(prompt), (), (), ())


def demonstration(
    group: Group,
    tokenizer: PreTrainedTokenizerBase,
    context: int,
    train_on: Literal["all", "last"] = "all",
    thinking: Thinking = "train",
) -> Tree:
    """A conversation as a Tree of one completion: every assistant turn is trained, or the last one only, stop tokens
    included. Rewritten if the template cannot be split into turns and all are asked for."""
    if len(group.completions) != 1:
        raise TropismError(f"group {group.id} has {len(group.completions)} completions: a demonstration has one")
    answer = group.completions[0]
    if answer.tokens is not None:
        return tree(group, tokenizer, context)
    bounded(group, tokenizer, context)
    with named(group):
        if train_on == "all" and any(m.role == "assistant" for m in group.prompt):
            tokens, mask = conversation(tokenizer, (*group.prompt, Message("assistant", answer.text)), thinking)
            first = mask.index(True)
            prompt, tokens, mask = tokens[:first], tokens[first:], mask[first:]
        else:
            tokens, mask = completion(tokenizer, answer.text, group.prompt, thinking)
            prompt = prompt_tokens(tokenizer, group.prompt)
    _check(group.id, len(prompt) + len(tokens), context)
    return Tree(group.id, tuple(prompt), (tuple(tokens),), (tuple(mask),), (answer.finish_reason == "stop",))


def chunks(group: Group, tokenizer: PreTrainedTokenizerBase, length: int) -> list[Tree]:
    """A document as trees of at most `length` tokens, each token trained exactly once.

    The first chunk's prompt is the document-start token; each later chunk's is the last token before it.
    """
    whole = tree(group, tokenizer, 10**12)
    tokens = whole.prompt + whole.completions[0]
    pieces = []
    for i in range(0, len(tokens) - 1, length - 1):
        answer = tokens[i + 1 : i + length]
        ended = i + length >= len(tokens)
        pieces.append(Tree(f"{group.id}@{i}", (tokens[i],), (answer,), ((True,) * len(answer),), (ended,)))
    return pieces


def ranks(judgment: Judgment) -> tuple[int, ...]:
    """Scores as ranks: 1 is best, equal scores share a rank, None is 0 (unranked)."""
    present = sorted({s for s in judgment.scores if s is not None}, reverse=True)
    place = {score: i + 1 for i, score in enumerate(present)}
    return tuple(0 if s is None else place[s] for s in judgment.scores)


def stepped(found: Tree, group: Group, tokenizer: PreTrainedTokenizerBase) -> Tree:
    """The tree with the rewards that the group's newest judgment gives to steps, on the tokens that complete them.

    A step ends with the first token whose text, with that of all before it, holds the step; where a token was forced on
    the policy, with the last one before it that the policy chose, or the first one if there is none."""
    said = group.judgments[-1].steps
    if said is None:
        return found
    laid = []
    for tokens, trained, answer, steps in zip(found.completions, found.trained, group.completions, said):
        chosen = [i for i, own in enumerate(trained) if own]
        ends = [_completes(tokenizer, tokens, answer.text[: step.end]) for step in steps or ()]
        at = [max((i for i in chosen if i <= end), default=chosen[0] if chosen else end) for end in ends]
        laid.append(tuple((i, step.reward) for i, step in zip(at, steps or ())))
    return dataclasses.replace(found, steps=tuple(laid))


def _completes(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], text: str) -> int:
    """The number of the first token at which the tokens so far say `text`, or of the last token if they never do."""
    at = bisect_left(range(len(tokens)), True, key=lambda i: text_of(tokenizer, tokens[: i + 1])[: len(text)] == text)
    return min(at, len(tokens) - 1)


def beaten(judgment: Judgment) -> tuple[float | None, ...]:
    """For each scored completion the share of the others that it beats, ties counting half: 1 is best, 0 worst, above
    0.5 is above the median. None where there is nothing to beat."""
    present = [s for s in judgment.scores if s is not None]
    others = len(present) - 1

    def share(score: float | None) -> float | None:
        if score is None or not others:
            return None
        return (sum(s < score for s in present) + (present.count(score) - 1) / 2) / others

    return tuple(map(share, judgment.scores))


def pick(found: Tree, keep: Sequence[int]) -> Tree:
    """The tree with these of its completions only."""
    of_each = ("completions", "trained", "ended", "logprobs", "reward", "rank", "steps")
    picked: dict[str, Any] = {
        name: tuple(values[k] for k in keep) for name in of_each if (values := getattr(found, name)) is not None
    }
    return dataclasses.replace(found, **picked)


PASS_TOKENS = 16_384  # of trees in one pass, where nothing else is asked for


def spans(trees: Sequence[Tree], tokens: int) -> Iterator[list[Tree]]:
    """Consecutive trees in runs of at most `tokens` tokens (at least one tree)."""
    run: list[Tree] = []
    size = 0
    for item in trees:
        if run and size + item.size > tokens:
            yield run
            run, size = [], 0
        run.append(item)
        size += item.size
    if run:
        yield run


def _check(id: str, length: int, context: int) -> None:
    if length > context:
        raise TooLong(
            f"group {id} needs {length} tokens and the model's context is {context}: shorten it, leave it out, or use "
            "a model with a longer context"
        )
