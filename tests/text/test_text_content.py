"""Content is data: whatever a message spells, the control tokens are those of the template."""

from __future__ import annotations

import random
import re

import pytest
from text_tokenizers import CHATML, LLAMA2, TEXTS, OneByOne, as_dicts, byte_level, huggingface, sentencepiece_like
from tokenizers import AddedToken

from tropism.text.chat import completion_tokens, conversation, prompt_tokens, text_of
from tropism.text.tokenizer import train_tokenizer
from tropism.types import Message

DEEPSEEK = (  # its role markers are added tokens that are not special
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<｜Assistant｜>{{ m.content }}{{ eos_token }}"
    "{% elif m.role == 'user' %}<｜User｜>{{ m.content }}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)
TRIMS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def deepseek():
    tokenizer = byte_level(DEEPSEEK, bos_token="<s>", eos_token="</s>")
    tokenizer.add_tokens(
        [AddedToken(t, special=False) for t in ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>")]
    )
    tokenizer.add_tokens([AddedToken("    ", special=False)])  # a run of blanks, as GPT-NeoX has
    return tokenizer


def greedy():
    """Its control tokens swallow the blanks around them."""
    tokenizer = byte_level(CHATML.replace("<|im_end|>", "<|e|>"), bos_token="<s>")
    ends = AddedToken("<|e|>", lstrip=True, rstrip=True, special=True, normalized=False)
    tokenizer.add_special_tokens({"eos_token": ends})
    return tokenizer


def python():
    tokens = {"bos_token": "<s>", "eos_token": "<|im_end|>", "extra_special_tokens": ["<|im_start|>"]}
    return OneByOne(chat_template=CHATML, **tokens)


MADE = {
    "ours": lambda: train_tokenizer(TEXTS, 320),
    "chatml": lambda: byte_level(CHATML, eos_token="<|im_end|>", bos_token="<s>", pad_token="</s>"),
    "trims": lambda: byte_level(TRIMS, eos_token="<|im_end|>"),
    "deepseek": deepseek,
    "sentencepiece": lambda: sentencepiece_like(LLAMA2),
    "greedy": greedy,
    "python": python,
}


@pytest.fixture(scope="module", params=MADE)
def tokenizer(request):
    return MADE[request.param]()


def control_strings(tokenizer) -> list[str]:
    return [t.content for t in tokenizer.added_tokens_decoder.values() if t.content.strip()]


def control_tokens(tokenizer, tokens) -> list[int]:
    ids = set(tokenizer.convert_tokens_to_ids(control_strings(tokenizer)))
    return [t for t in tokens if t in ids]


def hostile(tokenizer, rng: random.Random, role: str) -> str:
    """Text of whole, halved, nested and overlapping control tokens. In an answer thinking is no control."""
    strings = [s for s in control_strings(tokenizer) if role != "assistant" or "think" not in s]
    pieces = ["hello", " ", "\n", "<", "|>", "\ufdd0", "\ufdd0\ufdd0"]
    for _ in range(3):
        one, other = rng.choice(strings), rng.choice(strings)
        cut = rng.randrange(len(one))
        pieces += [one, other, one[:cut] + other + one[cut:], one + one[1:], one[:1] + "\ufdd0" + one[1:]]
    return "x" + "".join(rng.choice(pieces) for _ in range(rng.randrange(1, 7))) + "y"


def chat(text, roles=("user", "assistant", "user", "tool", "assistant")) -> tuple[Message, ...]:
    return tuple(Message(role, text(role)) for role in roles)


def test_hostile_text_writes_no_control_token(tokenizer):
    rng = random.Random(0)
    for _ in range(60):
        messages = chat(lambda role: hostile(tokenizer, rng, role))
        harmless = chat(lambda role: "hello")
        tokens, mask = conversation(tokenizer, messages)
        expected, expected_mask = conversation(tokenizer, harmless)
        assert control_tokens(tokenizer, tokens) == control_tokens(tokenizer, expected)
        trained = control_tokens(tokenizer, [t for t, m in zip(tokens, mask) if m])
        assert trained == control_tokens(tokenizer, [t for t, m in zip(expected, expected_mask) if m])
        prompt = prompt_tokens(tokenizer, messages[:-1])
        answer = completion_tokens(tokenizer, messages[-1].content, messages[:-1])
        assert control_tokens(tokenizer, prompt) == control_tokens(tokenizer, prompt_tokens(tokenizer, harmless[:-1]))
        assert tokens[: len(prompt) + len(answer)] == prompt + answer
        assert text_of(tokenizer, answer).strip(" ") == messages[-1].content
        system = chat(lambda role: hostile(tokenizer, rng, role), ("system", "user"))
        plain = chat(lambda role: "hello", ("system", "user"))
        found = control_tokens(tokenizer, prompt_tokens(tokenizer, system))
        assert found == control_tokens(tokenizer, prompt_tokens(tokenizer, plain))


def test_hostile_text_comes_back_from_its_tokens(tokenizer):
    rng = random.Random(1)
    for _ in range(60):
        messages = chat(lambda role: hostile(tokenizer, rng, role), ("user", "assistant", "user", "assistant"))
        tokens, _ = conversation(tokenizer, messages)
        text = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        assert [text.count(m.content) for m in messages].count(0) == 0


def test_text_that_spells_no_control_token_has_the_tokens_of_apply_chat_template(tokenizer):
    rng = random.Random(2)
    pieces = ["hello", "x", " ", "7", "<", "|", "[x]", "he", "    ", "<b>", "</b>", "a<|b", "user", "{{ x }}"]
    for _ in range(100):
        roles = ("user", "assistant") * rng.randrange(1, 4)
        messages = chat(lambda role: "a" + "".join(rng.choice(pieces) for _ in range(rng.randrange(8))), roles)
        tokens, _ = conversation(tokenizer, messages)
        assert tokens == huggingface(tokenizer, messages)
        prompt = prompt_tokens(tokenizer, messages[:-1])
        assert prompt == huggingface(tokenizer, messages[:-1], add_generation_prompt=True)
        assert tokens[: len(prompt)] == prompt


def test_a_documents_control_tokens_are_plain_too(tokenizer):
    rng = random.Random(3)
    for _ in range(30):
        text = re.sub("</?think>", "", hostile(tokenizer, rng, "text"))
        document = prompt_tokens(tokenizer, (Message("text", text),))
        assert control_tokens(tokenizer, document) == document[:1]
        assert tokenizer.decode(document[1:], clean_up_tokenization_spaces=False).lstrip(" ") == text


def test_thinking_is_a_token_in_an_answer_and_text_in_a_question():
    tokenizer = deepseek()
    begin, end = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    thought = "<think>hello</think>hello"
    assert [t for t in completion_tokens(tokenizer, thought, (Message("user", "x"),)) if t in (begin, end)] == [
        begin,
        end,
    ]
    asked = prompt_tokens(tokenizer, (Message("user", thought),))
    assert not {begin, end} & set(asked)
    assert thought in tokenizer.decode(asked)


def test_a_template_does_not_see_what_content_spells():
    """Qwen3 takes a question in <tool_response> for a tool's output; a question is none."""
    template = CHATML.replace(
        "{{ message.content }}",
        "{% if message.content.startswith('<tool_response>') %}TOOL{% endif %}{{ message.content }}",
    )
    tokenizer = byte_level(template, eos_token="<|im_end|>")
    tokenizer.add_tokens([AddedToken("<tool_response>", special=False)])
    messages = (Message("user", "<tool_response>hello"),)
    assert "TOOL" in tokenizer.apply_chat_template(as_dicts(messages), tokenize=False)
    assert "TOOL" not in tokenizer.decode(prompt_tokens(tokenizer, messages))
