"""Messages to tokens and back: the only file that knows where an answer begins and ends.

Contract: training and sampling both use the tokenizer's chat template. A prompt is `apply_chat_template(messages,
add_generation_prompt=True)`. A completion is what the template adds to that string for the assistant's turn, up to and
including the token that ends the turn. Prompt and completion are tokenised one by one, so that a trained completion has
the tokens that an engine, which starts from the prompt's tokens, would sample. The loss mask comes from these
differences of rendered strings, never from a search for content. The content of a message is data: a control token in
it is plain text (`text/content.py`).

Templates for reasoning end the prompt with `<think>`, and leave the thoughts out of all turns but the last one. After
such a prompt the completion is the thoughts, `</think>` and the answer, as a model would write them. A turn that the
template writes differently when other turns follow is trained only as the last turn.

Raw text (an empty prompt, or one message of the role `text`) uses no template: it is a document-start token, the text,
and a document-end token. There, too, a special token inside the text is plain text.

Left out: tool calls and message parts other than text (a message is a role and a string).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from tropism.errors import TropismError
from tropism.text.content import THINKING, encode, encode_raw, guarded, special_tokens
from tropism.text.template import DOCUMENT, REMEDY, Refused, rendered, spoken, template_of
from tropism.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Thinking = Literal["train", "keep", "drop"]
_OPEN, _CLOSE = THINKING
_ANSWER = "\ufdd1"  # placeholder for an answer; a noncharacter, like the mark of text/content.py


class Rewritten(TropismError):
    """A conversation that cannot be split into turns, as the template writes a turn differently when others follow."""


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """The tokens that an engine starts from: the chat with the generation prompt, or the start of a document."""
    if _is_raw(messages):
        start, _ = document_ends(tokenizer)
        return [start, *encode_raw(tokenizer, messages[0].content if messages else "")]
    return encode(tokenizer, rendered(tokenizer, tuple(messages), True))


def completion_tokens(tokenizer: PreTrainedTokenizerBase, text: str, messages: Sequence[Message]) -> list[int]:
    """The tokens of the answer `text`, the stop token last: they follow the `prompt_tokens` of `messages`."""
    return completion(tokenizer, text, messages)[0]


def completion(
    tokenizer: PreTrainedTokenizerBase, text: str, messages: Sequence[Message], thinking: Thinking = "train"
) -> tuple[list[int], list[bool]]:
    """The `completion_tokens`, and for each whether it is trained. "keep" keeps the thoughts but does not train them;
    "drop" leaves them out."""
    if _is_raw(messages):
        _, end = document_ends(tokenizer)
        tokens = [*encode_raw(tokenizer, text, messages[0].content if messages else ""), end]
        return tokens, [True] * len(tokens)
    turns = (
        _dropped((*messages, Message("assistant", text)))
        if thinking == "drop"
        else (*messages, Message("assistant", text))
    )
    before, answer, end = _turn(tokenizer, turns)
    return _spelt(tokenizer, answer + end, before, _thoughts(tokenizer, answer, turns[-1]) if thinking == "keep" else 0)


def conversation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], thinking: Thinking = "train"
) -> tuple[list[int], list[bool]]:
    """The tokens of a whole chat, and for each whether it is trained: assistant turns are, with their stop tokens.

    Raises Rewritten if the template writes an assistant's turn differently when later turns follow it.
    """
    if _is_raw(messages):
        raise TropismError("raw text has no turns: encode it with prompt_tokens and completion_tokens")
    turns = _dropped(messages) if thinking == "drop" else tuple(messages)
    whole = rendered(tokenizer, turns, False)
    tokens: list[int] = []
    mask: list[bool] = []
    done = 0  # characters of `whole`
    answers = [i for i, message in enumerate(turns) if message.role == "assistant"]
    for number, i in enumerate(answers, start=1):
        before, answer, end = _turn(tokenizer, turns[: i + 1])
        said = before + answer + end
        if i == len(turns) - 1 and whole.startswith(before + answer) and not whole.startswith(said):
            whole = said  # this template does not end the last turn
        if not whole.startswith(said):
            raise Rewritten(
                f"{spoken(tokenizer)} rewrites assistant turn {number} of {len(answers)} when later turns follow, so it "
                'is not what the model would have said: set train_on = "last"'
            )
        between = encode(tokenizer, before[done:], whole[:done])
        cut = _thoughts(tokenizer, answer, turns[i]) if thinking == "keep" else 0
        spelt, trained = _spelt(tokenizer, answer + end, before, cut)
        tokens += between + spelt
        mask += [False] * len(between) + trained
        done = len(said)
    rest = encode(tokenizer, whole[done:], whole[:done])
    return tokens + rest, mask + [False] * len(rest)


def stop_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids that end a completion: eos, the end of a raw document, the end of a turn in the template."""
    stops = [tokenizer.eos_token_id]
    if tokenizer.bos_token_id is not None or tokenizer.eos_token_id is not None:
        stops.append(document_ends(tokenizer)[1])
    if tokenizer.chat_template is not None and (end := _turn_end(tokenizer, template_of(tokenizer))):
        stops.append(tokenizer.convert_tokens_to_ids(end))
    return frozenset(stop for stop in stops if isinstance(stop, int))


def text_of(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """The text of `tokens`, special tokens left out."""
    text = tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)  # a list only for a batch
    return text


def document_ends(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """The ids of the tokens that begin and end a raw document.

    It begins with bos, or with eos if there is no bos. It ends with eos, but with bos if there is no eos or if
    bos is `<|endoftext|>`, since eos may then be the end of a chat turn. Raises TropismError if there is neither.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    start = eos if bos is None else bos
    end = bos if eos is None or tokenizer.bos_token == DOCUMENT else eos
    if not isinstance(start, int) or not isinstance(end, int):
        raise TropismError(
            f"the tokenizer {tokenizer.name_or_path} has neither a bos nor an eos token to begin and end a "
            "document: name one in its tokenizer_config.json"
        )
    return start, end


def _is_raw(messages: Sequence[Message]) -> bool:
    if len(messages) > 1 and any(message.role == "text" for message in messages):
        raise TropismError("a prompt has a message of the role text and others: make it the only message")
    return not messages or messages[0].role == "text"


def _dropped(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages without the assistant's thoughts."""
    return tuple(
        Message(m.role, m.content.partition(_CLOSE)[2].lstrip()) if m.role == "assistant" and _CLOSE in m.content else m
        for m in messages
    )


def _thoughts(tokenizer: PreTrainedTokenizerBase, said: str, message: Message) -> int:
    """The number of characters in the rendered assistant turn `said` before the answer itself begins."""
    if _CLOSE in said:
        return said.rfind(_CLOSE) + len(_CLOSE)
    if _CLOSE not in message.content:
        return 0
    content = guarded(tokenizer, template_of(tokenizer), message)  # the template writes something else for <think>
    return max(said.rfind(content.partition(_CLOSE)[2].strip()), 0)


def _spelt(tokenizer: PreTrainedTokenizerBase, said: str, before: str, cut: int) -> tuple[list[int], list[bool]]:
    """The tokens of the rendered assistant turn `said`; those after its first `cut` characters are trained."""
    thought = encode(tokenizer, said[:cut], before) if cut else []
    rest = encode(tokenizer, said[cut:], before + said[:cut])
    return thought + rest, [False] * len(thought) + [True] * len(rest)


def _turn(tokenizer: PreTrainedTokenizerBase, messages: tuple[Message, ...]) -> tuple[str, str, str]:
    """Of the last message, an assistant's: its prompt, what the model writes after that, the token that ends the
    turn."""
    if len(messages) == 1:
        raise TropismError("a conversation begins with an assistant turn: begin with a user turn")
    end = _turn_end(tokenizer, template_of(tokenizer))
    if not end:
        raise TropismError(
            f"{spoken(tokenizer)} ends an assistant turn without a special token, and there is no eos token, so a "
            f"model could not learn to stop: name one in tokenizer_config.json, or {REMEDY}"
        )
    before, after = rendered(tokenizer, messages[:-1], True), rendered(tokenizer, messages, False)
    if after.startswith(before):
        said = after[len(before) :]
    else:
        said = _opened(tokenizer, messages, before)
    answer, found, _ = said.partition(end)
    return before, answer if found else answer.removesuffix(_tail(tokenizer, template_of(tokenizer))), end


def _opened(tokenizer: PreTrainedTokenizerBase, messages: tuple[Message, ...], before: str) -> str:
    """The last message and its end, as a model writes them after a prompt that a finished turn does not begin with.
    Such a prompt mostly ends with `<think>`."""
    asked = rendered(tokenizer, (*messages[:-1], Message("assistant", _ANSWER)), False)
    _, found, tail = asked.rpartition(_ANSWER)
    if not found:
        raise TropismError(f"{spoken(tokenizer)} leaves out the assistant's messages: fix it, or {REMEDY}")
    content = guarded(tokenizer, template_of(tokenizer), messages[-1])
    if before.rstrip().endswith(_OPEN):
        new_line = "\n" if before.endswith("\n") else ""
        if content.lstrip().startswith(_OPEN):
            content = content.lstrip()[len(_OPEN) :].removeprefix(new_line)
        elif _CLOSE not in content:  # there are no thoughts
            content = new_line + _CLOSE + new_line * 2 + content
    return content + tail


@lru_cache(maxsize=16)
def _turn_end(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """The special token that ends an assistant turn: the one that the template writes after an answer, preferably eos.
    Without one, the token that begins the next turn; else eos, which a model can learn although the template does not
    write it; "" if there is no eos."""
    eos = tokenizer.eos_token if isinstance(tokenizer.eos_token, str) else ""
    last, between = (_special_in(tokenizer, text) for text in _around(tokenizer))
    if eos in last and eos in between:
        return eos
    return next(iter(last + between), eos)


@lru_cache(maxsize=16)
def _tail(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """What a template that has no token to end turns writes after the last answer."""
    return _around(tokenizer)[0]


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """What the template writes after an answer in the last turn, and what between an answer and the next question."""
    first, answer, second = Message("user", "Question?"), Message("assistant", "Probe."), Message("user", "Another?")
    texts = []
    for messages in ((first, answer), (first, answer, second)):
        try:
            text = rendered(tokenizer, messages, False).rpartition(answer.content)[2]
        except Refused:
            text = ""
        texts.append(text.partition(second.content)[0])
    return texts[0], texts[1]


def _special_in(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    return sorted((token for token in special_tokens(tokenizer) if token in text), key=text.index)
