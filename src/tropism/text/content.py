"""Content is data: tokenises rendered text so that only the template, never the content of a message, can write control
tokens.

Control tokens are the special tokens, those of the form `<|…|>`, those that the chat template names, and `<think>`. If
a message contains one (`<|assistant|>` in a question, a file, a tool's output), `guarded` puts a mark after its first
character before the template sees it. `encode` cuts the rendered text at the marks and tokenises the pieces one by one.
So no tokenizer sees the whole string, and decoding the tokens still gives the same text. Text without control tokens
gets no mark, and its tokens are those of the tokenizer's own `apply_chat_template`.

In an assistant's turn `<think>` is a token, and so is any added token that is neither special nor of the form `<|…|>`:
models write these, and `text_of` shows them. Left out: control tokens of a single character.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from tropism.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THINKING = ("<think>", "</think>")  # around the reasoning in an answer
_MARK = "\ufdd0"  # a noncharacter, which texts should not contain; if one does, the mark is doubled there
_SHAPE = re.compile(r"^[<\[][|｜]|[|｜][>\]]$")
_ALONE = re.compile(f"(?<!{_MARK}){_MARK}(?!{_MARK})")


class _Control(NamedTuple):
    """`any` finds a control token; `first` finds the first character of each one, also of those that overlap."""

    any: re.Pattern[str]
    first: re.Pattern[str]


def guarded(tokenizer: PreTrainedTokenizerBase, template: str, message: Message) -> str:
    """The content of a message, with a mark in each control token that it contains."""
    return _marked(message.content, _control(tokenizer, len(tokenizer), template, message.role))


def encode(tokenizer: PreTrainedTokenizerBase, text: str, before: str = "") -> list[int]:
    """The tokens of rendered `text`, whose content is guarded, after the text `before`."""
    return _cut(tokenizer, text, before, raw=False)


def encode_raw(tokenizer: PreTrainedTokenizerBase, text: str, before: str = "") -> list[int]:
    """The tokens of `text` without a template: a control token in it is plain text."""
    return _cut(tokenizer, _marked(text, _control(tokenizer, len(tokenizer), "", "text")), before, raw=True)


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The special tokens, longest first."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return sorted({*added, *tokenizer.all_special_tokens}, key=len, reverse=True)


def _marked(text: str, control: _Control | None) -> str:
    text = text.replace(_MARK, _MARK * 2)
    if control is None or not control.any.search(text):
        return text
    return control.first.sub(r"\1" + _MARK, text)


def _cut(tokenizer: PreTrainedTokenizerBase, text: str, before: str, raw: bool) -> list[int]:
    if _MARK not in text:
        return _encode(tokenizer, text, before, raw) if text else []
    tokens: list[int] = []
    for piece in _ALONE.split(text):
        piece = piece.replace(_MARK * 2, _MARK)
        tokens += _encode(tokenizer, piece, before, raw)
        before = piece
    return tokens


@lru_cache(maxsize=64)
def _control(tokenizer: PreTrainedTokenizerBase, size: int, template: str, role: str) -> _Control | None:
    """The control tokens that content of this role may not write. A changed `size` renews the cache."""
    special = set(special_tokens(tokenizer))
    others = {token.content for token in tokenizer.added_tokens_decoder.values()} - special
    shaped = {token for token in others if _SHAPE.search(token)}
    named = {token for token in others if token.strip() and token in template}
    strings = {
        "text": shaped,  # `split_special_tokens` takes care of the special ones
        "assistant": (special | shaped) - set(THINKING),
    }.get(role, special | shaped | named | set(THINKING))
    if not (strings := {s for s in strings if len(s) > 1}):
        return None
    any_of = "|".join(map(re.escape, sorted(strings, key=len, reverse=True)))
    return _Control(re.compile(any_of), re.compile(f"(?s)(?={any_of})(.)"))


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, before: str, raw: bool = False) -> list[int]:
    """The tokens that `text` has after `before`: some added tokens swallow the blanks after them. SentencePiece-like
    tokenizers add a space before a text, and some also after a special token. To get the spaces of the whole text and
    no more, `text` is encoded after an anchor, whose tokens are then removed. The anchor is the special token that ends
    `before`, or else a line break."""

    def encode(piece: str) -> list[int]:
        return tokenizer.encode(piece, add_special_tokens=False, split_special_tokens=raw)

    if not raw and before.endswith(_swallowing(tokenizer)):
        text = text.lstrip()
    if before and _adds_space(tokenizer):
        ends = () if raw else (token for token in special_tokens(tokenizer) if before.endswith(token))
        anchor = next(iter(ends), "\n")
        head, tokens = encode(anchor), encode(anchor + text)
        if tokens[: len(head)] == head:
            return tokens[len(head) :]
    return encode(text)


@lru_cache(maxsize=16)
def _adds_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    alone, line_break, both = (tokenizer.encode(x, add_special_tokens=False) for x in ("a", "\n", "\na"))
    return both != line_break + alone


@lru_cache(maxsize=16)
def _swallowing(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    return tuple(token.content for token in tokenizer.added_tokens_decoder.values() if token.rstrip)
