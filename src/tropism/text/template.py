"""Chat templates: tropism's own one, fixed arguments of a template, and rendering messages as text.

A template belongs to a tokenizer and is saved with it. So are its arguments (`enable_thinking = false`): they are
written into the template. Every stage, `chat`, and any other program that opens the folder then renders the same text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tropism.errors import TropismError
from tropism.text.content import THINKING, guarded
from tropism.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DOCUMENT = "<|endoftext|>"  # begins and ends a raw document
PAD = "<|pad|>"
MARKERS = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")  # each begins a chat turn
END = "<|end|>"  # ends a chat turn

# One token for each marker, and no line breaks: with a small vocabulary texts are long anyway.
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

REMEDY = 'set chat_template = "tropism" on the sft stage'


class Refused(TropismError):
    """A conversation that the chat template does not accept."""


def adopt_template(tokenizer: PreTrainedTokenizerBase) -> int:
    """Gives `tokenizer` the template above; returns how many tokens were added (the embeddings must grow by as many).

    Its own eos ends the turns, since the model and its configuration already use that token as an end; if it has
    none, it gets `<|end|>`. Padding gets a token of its own. If the tokenizer puts a bos before every text, the
    template puts one before the chat.
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


def give_arguments(tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any]) -> None:
    """Writes arguments into the chat template, so that every rendering uses them."""
    template = template_of(tokenizer)
    for name in arguments:
        if not re.fullmatch(r"[A-Za-z_]\w*", name) or not re.search(rf"\b{name}\b", template):
            raise TropismError(f"{spoken(tokenizer)} has no argument {name!r}: remove it, or look in the template")
    lines = (f"{{%- set {name} = {json.dumps(value, ensure_ascii=False)} -%}}" for name, value in arguments.items())
    written = "\n".join((*lines, template))
    several = tokenizer.chat_template
    tokenizer.chat_template = {**several, "default": written} if isinstance(several, dict) else written


def template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        return tokenizer.get_chat_template()
    except ValueError:  # none at all, or several without a default
        raise TropismError(f"the tokenizer {tokenizer.name_or_path} has no chat template: {REMEDY}") from None


def spoken(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"the chat template of {tokenizer.name_or_path or 'the tokenizer'}"


def rendered(tokenizer: PreTrainedTokenizerBase, messages: tuple[Message, ...], prompt: bool) -> str:
    """The chat as the template writes it, with or without the generation prompt; the messages are `guarded`.

    Raises Refused if the template does not accept these messages.
    """
    return _rendered(tokenizer, template_of(tokenizer), messages, prompt)


@lru_cache(maxsize=1024)  # K completions of a prompt render it once
def _rendered(tokenizer: PreTrainedTokenizerBase, template: str, messages: tuple[Message, ...], prompt: bool) -> str:
    from jinja2 import TemplateSyntaxError

    turns = [_fields(template, m.role, guarded(tokenizer, template, m)) for m in messages]
    try:
        text = tokenizer.apply_chat_template(
            turns, chat_template=template, add_generation_prompt=prompt, tokenize=False
        )
    except TemplateSyntaxError as error:
        raise TropismError(
            f"{spoken(tokenizer)} is not valid Jinja (line {error.lineno}: {error.message}): fix it, or {REMEDY}"
        ) from None
    except Exception as error:  # whatever the template's own expressions raise
        roles = ", ".join(message.role for message in messages)
        reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
        raise Refused(f"{spoken(tokenizer)} refuses the turns {roles} ({reason}): change the messages") from None
    assert isinstance(text, str)  # tokens only with tokenize=True
    return text


def _fields(template: str, role: str, content: str) -> dict[str, str]:
    """A message as a template expects it. Thoughts go into the template's field for them, if it has one and does not
    search the content for `</think>`."""
    opening, closing = THINKING
    if role == "assistant" and closing in content and not re.search(rf"""['"]{closing}['"]\s*(in\b|\))""", template):
        field = next(
            (f for f in ("reasoning_content", "thinking") if re.search(rf"message\b.*\b{f}\b", template)), None
        )
        if field:
            thought, _, answer = content.partition(closing)
            return {"role": role, "content": answer.lstrip("\n"), field: thought.rpartition(opening)[2].strip("\n")}
    return {"role": role, "content": content}
