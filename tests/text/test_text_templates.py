"""28 published chat templates: what is sampled from, what is trained, and hostile text."""

from __future__ import annotations

import pytest
from text_templates import FACTS, FOLDER, NAMES, Facts, tokenizer_of
from text_tokenizers import as_dicts, huggingface

from tropism.text.chat import Rewritten, completion, conversation, prompt_tokens, stop_tokens, text_of
from tropism.text.template import Refused
from tropism.types import Message

LEFT_OUT = ("phi3", "gemma4")  # they write nothing of a tool's turn that no call came before
MARKED = [name for name in NAMES if (FOLDER / f"{name}_training.jinja").exists()]


def chat(facts: Facts, *said: str) -> tuple[Message, ...]:
    roles = ("user", "assistant") * len(said)
    system = (Message("system", "Be brief."),) if facts.system else ()
    return (*system, *(Message(role, text) for role, text in zip(roles, said)))


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(name):
    return tokenizer_of(name)


@pytest.fixture(scope="module")
def facts(name):
    return FACTS[name]


def test_there_are_at_least_25():
    assert len(NAMES) >= 25 and set(NAMES) == set(FACTS)


def test_a_prompt_is_what_transformers_makes_and_an_answer_what_is_known(tokenizer, facts):
    messages = chat(facts, "Q1", "A1", "Q2")
    prompt = prompt_tokens(tokenizer, messages)
    assert prompt == huggingface(tokenizer, messages, add_generation_prompt=True)
    assert tokenizer.decode(prompt).endswith(facts.prompt)
    tokens, mask = completion(tokenizer, "A2", messages)
    assert tokenizer.decode(tokens) == facts.said and all(mask)
    assert tokens[-1] in stop_tokens(tokenizer)
    assert not set(tokens[:-1]) & stop_tokens(tokenizer)


def test_every_turn_is_trained_or_the_last_one(tokenizer, facts):
    messages = chat(facts, "Q1", "A1", "Q2", "A2")
    if facts.turns == "last":
        with pytest.raises(Rewritten, match="rewrites assistant turn 1 of 2"):
            conversation(tokenizer, messages)
        return
    tokens, mask = conversation(tokenizer, messages)
    whole = tokenizer.apply_chat_template(as_dicts(messages), tokenize=False)
    text = tokenizer.decode(tokens)  # the line break after <|end|> is swallowed there
    end = "<|user|>" if facts.said.endswith("<|user|>") else ""  # GLM ends a turn with the next
    assert text == (whole.replace("|>\n", "|>") if facts.prompt == "<|assistant|>" and not end else whole) + end
    trained = tokenizer.decode([t for t, m in zip(tokens, mask) if m])
    assert trained == facts.said.replace("A2", "A1") + facts.said


def test_thoughts_are_trained_kept_or_dropped(tokenizer, facts):
    messages = chat(facts, "Q1", "A1", "Q2")
    thought = "<think>\nT\n</think>\n\nA2"
    said = facts.thought + facts.said[facts.said.index("A2") :]
    tokens, mask = completion(tokenizer, thought, messages, "train")
    assert tokenizer.decode(tokens) == said and all(mask)
    tokens, mask = completion(tokenizer, thought, messages, "keep")
    assert tokenizer.decode(tokens) == said
    trained = tokenizer.decode([t for t, m in zip(tokens, mask) if m])
    assert trained.lstrip("\n") == said[said.index("A2") :]
    assert completion(tokenizer, thought, messages, "drop") == completion(tokenizer, "A2", messages)


def test_a_tools_output_is_answered_or_the_template_refuses(tokenizer, facts, name):
    messages = (*chat(facts, "Q1", "A1"), Message("tool", "R1"))
    if not facts.tool and not name.startswith(LEFT_OUT):
        with pytest.raises(Refused):
            completion(tokenizer, "A2", messages)
        return
    prompt = prompt_tokens(tokenizer, messages)
    assert prompt == huggingface(tokenizer, messages, add_generation_prompt=True)
    assert ("R1" in tokenizer.decode(prompt)) == facts.tool
    said = tokenizer.decode(completion(tokenizer, "A2", messages)[0])
    assert said == facts.said or (said, name[:8]) == ("A2<｜end▁of▁sentence｜>", "deepseek")  # it opens no <think> here


def test_hostile_text_writes_no_control_token(tokenizer, facts):
    added = {t.content: i for i, t in tokenizer.added_tokens_decoder.items()}
    special = {t: i for t, i in added.items() if "|" in t or "｜" in t or i in tokenizer.all_special_ids}
    control = special | {t: i for t, i in added.items() if t in tokenizer.chat_template or "think" in t}
    for text in ("".join(control), *control):
        harmless, hostile = chat(facts, "Qx", "A1", "Qx"), chat(facts, f"Q{text}x", "A1", f"Q{text}x")
        if facts.system:
            harmless, hostile = (Message("system", "x"), *harmless[1:]), (Message("system", f"{text}x"), *hostile[1:])
        made, plain = prompt_tokens(tokenizer, hostile), prompt_tokens(tokenizer, harmless)
        assert [t for t in made if t in control.values()] == [t for t in plain if t in control.values()]
        if "think" not in text:
            answer, plain = (completion(tokenizer, a, harmless)[0] for a in (f"A{text}2", "A2"))
            assert [t for t in answer if t in special.values()] == [t for t in plain if t in special.values()]
            assert f"A{text}2" in text_of(tokenizer, answer)


@pytest.mark.parametrize("name", MARKED)
def test_the_mask_is_that_of_the_templates_own_generation_marks(name):
    """TRL's variants with {% generation %}; they mark what the model says, some of them its line break or not its end."""
    tokenizer, facts = tokenizer_of(name), FACTS[name]
    messages = chat(facts, "Q1", "A1", "Q2", "A2")
    marked = (FOLDER / f"{name}_training.jinja").read_text(encoding="utf-8")
    made = tokenizer.apply_chat_template(
        as_dicts(messages), chat_template=marked, return_dict=True, return_assistant_tokens_mask=True
    )
    theirs = tokenizer.decode([t for t, m in zip(made["input_ids"], made["assistant_masks"]) if m])
    theirs = theirs.replace("<|endoftext|>", "")
    if facts.turns == "last":
        tokens, _ = completion(tokenizer, "A2", messages[:-1])
        said = tokenizer.decode(tokens)  # DeepSeek's variant thinks of nothing, where the prompt has opened <think>
        assert theirs.rstrip("\n").endswith(said if "deepseek" not in name else said.removeprefix("\n</think>\n\n"))
        return
    tokens, mask = conversation(tokenizer, messages)
    ours = tokenizer.decode([t for t, m in zip(tokens, mask) if m])
    assert theirs.replace("\n", "") == ours.replace("\n", "")
