"""Messages to tokens and back: the only file that knows special tokens.

Contract: whatever a tokenizer's chat template says is what is trained and what is sampled from. A prompt is
`apply_chat_template(messages, add_generation_prompt=True)`; a completion is what the template adds to that
string when the assistant's turn is there, up to and including the token that ends the turn. The pieces are
tokenised one by one, so that a trained completion is spelt as an engine, which starts from the prompt's
tokens, would spell it. The loss mask comes from these differences of rendered strings, never from a search
for content. What a message says is data: a control token that it spells is plain text (`text/content.py`).

Raw text (an empty prompt, or one message of the role `text`) touches no template: a document-start token, the
text, and a document-end token. There too a special token that the text happens to spell is plain text.

Left out: tool calls and message parts other than text (a message is a role and a string).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from tropism.text.content import encode, encode_raw, guarded, special_tokens
from tropism.types import Message, TropismError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DOCUMENT = "<|endoftext|>"  # begins and ends a raw document
PAD = "<|pad|>"
MARKERS = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")  # each begins a chat turn
END = "<|end|>"  # ends a chat turn

# One token a marker, and no line breaks, because a small vocabulary makes every token dear.
TEMPLATE = """\
{%- for message in messages -%}
    {%- if message['role'] == 'assistant' -%}
        <|assistant|>{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}
    {%- elif message['role'] in ('system', 'user', 'tool') -%}
        {{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}
    {%- else -%}
        {{ raise_exception('there is no role ' + message['role']) }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}
"""

_REMEDY = 'set chat_template = "tropism" on the sft stage'


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """The tokens an engine starts from: the chat with its generation prompt, or the start of a document."""
    if _is_raw(messages):
        start, _ = document_ends(tokenizer)
        text = messages[0].content if messages else ""
        return [start, *encode_raw(tokenizer, text)]
    return encode(tokenizer, _render(tokenizer, tuple(messages), True))


def completion_tokens(tokenizer: PreTrainedTokenizerBase, text: str, messages: Sequence[Message]) -> list[int]:
    """The tokens of the answer `text`, the stop token last: they follow the `prompt_tokens` of `messages`."""
    if _is_raw(messages):
        _, end = document_ends(tokenizer)
        return [*encode_raw(tokenizer, text, messages[0].content if messages else ""), end]
    before, answer = _turn(tokenizer, (*messages, Message("assistant", text)))
    return encode(tokenizer, answer, before)


def conversation(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """The tokens of a whole chat, and for each token whether an assistant wrote it (its stop token included).

    TropismError if the template writes an assistant's turn differently once later turns follow it.
    """
    if _is_raw(messages):
        raise TropismError("raw text has no turns: encode it with prompt_tokens and completion_tokens")
    whole = _render(tokenizer, tuple(messages), False)
    tokens: list[int] = []
    mask: list[bool] = []
    done = 0  # characters of `whole`

    def add(text: str, trained: bool) -> None:
        nonlocal done
        piece = encode(tokenizer, text, whole[:done])
        tokens.extend(piece)
        mask.extend([trained] * len(piece))
        done += len(text)

    turns = [i for i, message in enumerate(messages) if message.role == "assistant"]
    for number, i in enumerate(turns, start=1):
        before, answer = _turn(tokenizer, tuple(messages[: i + 1]))
        if not whole.startswith(before + answer):
            raise TropismError(
                f"{_template_of(tokenizer)} rewrites assistant turn {number} of {len(turns)} when later "
                "turns follow, so it is not what the model would have said: train on the last turn only"
            )
        add(before[done:], False)
        add(answer, True)
    add(whole[done:], False)
    return tokens, mask


def stop_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids that end a completion: eos, the end of a raw document, the end of a turn in the template."""
    stops = [tokenizer.eos_token_id, document_ends(tokenizer)[1]]
    if tokenizer.chat_template is not None:
        stops.append(tokenizer.convert_tokens_to_ids(_turn_end(tokenizer, _template(tokenizer))))
    return frozenset(stop for stop in stops if isinstance(stop, int))


def text_of(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    """The text of `tokens`, special tokens left out."""
    text = tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)  # a list only for a batch
    return text


def document_ends(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """The ids of the tokens that begin and end a raw document.

    It begins with bos, or with eos where there is no bos. It ends with eos, but with bos where there is no
    eos or where bos is `<|endoftext|>`, since eos may then be the end of a chat turn. TropismError if there
    is neither.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    start = eos if bos is None else bos
    end = bos if eos is None or tokenizer.bos_token == DOCUMENT else eos
    if not isinstance(start, int) or not isinstance(end, int):
        raise TropismError(
            f"the tokenizer {tokenizer.name_or_path} has neither a bos nor an eos token, so a document has "
            "no ends: name one in its tokenizer_config.json"
        )
    return start, end


def adopt_template(tokenizer: PreTrainedTokenizerBase) -> int:
    """Gives `tokenizer` the template above; returns by how many tokens it grew (so must the embeddings).

    Its own eos ends the turns, since the model and its configuration know that token as an end already; it
    gets `<|end|>` if it has none. Padding becomes a token of its own. A bos that stands before every text
    stands before the chat too.
    """
    size = len(tokenizer)
    first = tokenizer.encode("a")[:1]
    tokenizer.add_special_tokens({"extra_special_tokens": list(MARKERS)}, replace_extra_special_tokens=False)
    if tokenizer.eos_token_id is None:
        tokenizer.add_special_tokens({"eos_token": END})
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD})
    begins = tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]
    tokenizer.chat_template = "{{- bos_token -}}\n" + TEMPLATE if begins else TEMPLATE
    return len(tokenizer) - size


def _is_raw(messages: Sequence[Message]) -> bool:
    if len(messages) > 1 and any(message.role == "text" for message in messages):
        raise TropismError("a message of the role text stands among others: make it the only message of its prompt")
    return not messages or messages[0].role == "text"


def _turn(tokenizer: PreTrainedTokenizerBase, messages: tuple[Message, ...]) -> tuple[str, str]:
    """What stands before the last message, an assistant's, and that message up to the end of its turn."""
    if len(messages) == 1:
        raise TropismError(
            "a conversation begins with an assistant turn, which answers nothing: begin with a user turn"
        )
    end = _turn_end(tokenizer, _template(tokenizer))
    before = _render(tokenizer, messages[:-1], True)
    answer, found, _ = _rest(tokenizer, before, _render(tokenizer, messages, False)).partition(end)
    if not found:
        raise TropismError(
            f"{_template_of(tokenizer)} does not end the assistant turn after {len(messages) - 1} messages "
            f"with {end}: train on the last turn only or mend the template"
        )
    return before, answer + end


@lru_cache(maxsize=16)
def _turn_end(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """The special token that ends an assistant turn, as seen in a rendered question and its answer."""
    question, answer = Message("user", "Question?"), "Probe."
    before = _render(tokenizer, (question,), True)
    rest = _rest(tokenizer, before, _render(tokenizer, (question, Message("assistant", answer)), False))
    tail = rest[rest.rfind(answer) + len(answer) :]
    found = [token for token in special_tokens(tokenizer) if token in tail]
    if found:
        return min(found, key=tail.index)
    raise TropismError(
        f"{_template_of(tokenizer)} ends an assistant turn with no special token, so a model could not learn "
        f"to stop: write {{{{ eos_token }}}} after the content there, or {_REMEDY}"
    )


def _rest(tokenizer: PreTrainedTokenizerBase, before: str, after: str) -> str:
    if not after.startswith(before):
        raise TropismError(
            f"{_template_of(tokenizer)} does not put an answer right after its generation prompt: mend it, or {_REMEDY}"
        )
    return after[len(before) :]


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        return tokenizer.get_chat_template()
    except ValueError:  # none at all, or several and no default among them
        raise TropismError(f"the tokenizer {tokenizer.name_or_path} has no chat template: {_REMEDY}") from None


def _template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"the chat template of {tokenizer.name_or_path or 'the tokenizer'}"


def _render(tokenizer: PreTrainedTokenizerBase, messages: tuple[Message, ...], prompt: bool) -> str:
    return _rendered(tokenizer, _template(tokenizer), messages, prompt)


@lru_cache(maxsize=1024)  # K completions of a prompt render it once
def _rendered(tokenizer: PreTrainedTokenizerBase, template: str, messages: tuple[Message, ...], prompt: bool) -> str:
    from jinja2 import TemplateError

    turns = [{"role": m.role, "content": guarded(tokenizer, template, m)} for m in messages]
    try:
        text = tokenizer.apply_chat_template(
            turns, chat_template=template, add_generation_prompt=prompt, tokenize=False
        )
    except TemplateError as error:
        roles = ", ".join(message.role for message in messages)
        raise TropismError(
            f"{_template_of(tokenizer)} refuses the turns {roles} ({error}): change the messages"
        ) from None
    assert isinstance(text, str)  # tokens only with tokenize=True
    return text
