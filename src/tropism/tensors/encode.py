"""Group → Tree: turns texts into tokens, and judgments into ranks and rewards."""

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

WORTH_A_LOOK = 1_000_000  # characters; encoding them takes about a second


class TooLong(TropismError):
    """A group that does not fit the model's context."""


def bounded(group: Group, tokenizer: PreTrainedTokenizerBase, context: int) -> None:
    """Raises TooLong, before encoding, for a text that would be too long even in the longest tokens of the
    vocabulary."""
    signs = sum(len(m.content) for m in group.prompt) + max((len(c.text) for c in group.completions), default=0)
    if signs > WORTH_A_LOOK and signs > context * max(map(len, tokenizer.get_vocab())):
        raise TooLong(
            f"group {group.id} has {signs:,} characters, which cannot fit the model's context of {context} tokens: "
            "shorten it, leave it out, or use a model with a longer context"
        )


@contextmanager
def named(group: Group) -> Iterator[None]:
    """Adds the group to the message when a template refuses it."""
    try:
        yield
    except Refused as error:
        raise Refused(f"group {group.id}: {error}") from None


def tree(group: Group, tokenizer: PreTrainedTokenizerBase, context: int) -> Tree:
    """A group with its completions as tokens.

    Completions that were sampled with this tokenizer keep their tokens and log-probabilities; the text of others is
    encoded. Raises TropismError if the prompt and a completion do not fit into `context` tokens.
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
    """Whether the completion's tokens are from this tokenizer. If the completion does not say, the tokens must decode
    to its whole text, and a completion that stopped must end with a stop token."""
    if completion.tokenizer:
        return completion.tokenizer == identity(tokenizer)
    tokens = completion.tokens or ()
    stopped = completion.finish_reason == "stop"
    if not tokens or max(tokens) >= len(tokenizer) or (stopped and tokens[-1] not in stop_tokens(tokenizer)):
        return False
    return text_of(tokenizer, tokens) == completion.text and (stopped or completion.text != "")


def question(group: Group, tokenizer: PreTrainedTokenizerBase, context: int, max_tokens: int) -> Tree:
    """The prompt of a group as a Tree without completions. Raises TooLong if an answer would not fit after it."""
    bounded(group, tokenizer, context)
    with named(group):
        prompt = prompt_tokens(tokenizer, group.prompt)
    if len(prompt) + max_tokens > context:
        raise TooLong(
            f"the prompt of group {group.id} has {len(prompt)} tokens, and with sampling.max_tokens = {max_tokens} that "
            f"exceeds the model's context of {context}: shorten the prompt or lower sampling.max_tokens"
        )
    return Tree(group.id, tuple(prompt), (), (), ())


def demonstration(
    group: Group,
    tokenizer: PreTrainedTokenizerBase,
    context: int,
    train_on: Literal["all", "last"] = "all",
    thinking: Thinking = "train",
) -> Tree:
    """A conversation as a Tree with one completion. Every assistant turn is trained, or only the last one, with stop
    tokens. Raises Rewritten if all are to be trained and the template cannot be split into turns."""
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

    The prompt of the first chunk is the document-start token; that of a later chunk is the last token before it.
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
    """The tree with the rewards of steps in the group's newest judgment, placed on the tokens where the steps end.

    A step ends at the first token with which the text so far contains the whole step. If the policy did not choose that
    token, the step ends at the last token before it that the policy chose, or else at the first one that it chose."""
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
    """The index of the first token with which the text so far begins with `text`; of the last token if it never
    does."""
    at = bisect_left(range(len(tokens)), True, key=lambda i: text_of(tokenizer, tokens[: i + 1])[: len(text)] == text)
    return min(at, len(tokens) - 1)


def beaten(judgment: Judgment) -> tuple[float | None, ...]:
    """For each scored completion the share of the others that it beats, ties counting half: 1 is best, 0 worst, more
    than 0.5 is above the median. None if there are no others."""
    present = [s for s in judgment.scores if s is not None]
    others = len(present) - 1

    def share(score: float | None) -> float | None:
        if score is None or not others:
            return None
        return (sum(s < score for s in present) + (present.count(score) - 1) / 2) / others

    return tuple(map(share, judgment.scores))


def pick(found: Tree, keep: Sequence[int]) -> Tree:
    """The tree with only the completions `keep`."""
    of_each = ("completions", "trained", "ended", "logprobs", "reward", "rank", "steps")
    picked: dict[str, Any] = {
        name: tuple(values[k] for k in keep) for name in of_each if (values := getattr(found, name)) is not None
    }
    return dataclasses.replace(found, **picked)


PASS_TOKENS = 16_384  # of trees in one pass, by default


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
