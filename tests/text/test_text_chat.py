from __future__ import annotations

import copy
import random

import pytest
from text_tokenizers import CHATML, LLAMA2, TEXTS, as_dicts, byte_level, huggingface, sentencepiece_like
from transformers import PreTrainedTokenizerFast

from tropism.errors import TropismError
from tropism.text.chat import (
    Rewritten,
    completion,
    completion_tokens,
    conversation,
    prompt_tokens,
    stop_tokens,
    text_of,
)
from tropism.text.template import Refused, adopt_template, give_arguments
from tropism.text.tokenizer import train_tokenizer
from tropism.types import Message

ASK = Message("user", "Translate: 26 days")
ANSWER = Message("assistant", "26 jours")
TWO_TURNS = (ASK, ANSWER, Message("user", "And in English?"), Message("assistant", "26 days"))

STRIPS = (  # an earlier answer loses what stands before its first colon, as reasoning is dropped from earlier turns
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if loop.last or message.role == 'user' %}{{ message.content }}"
    "{% else %}{{ message.content.split(':') | last }}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def ours():
    return train_tokenizer(TEXTS, 320)


def random_chat(rng: random.Random) -> tuple[Message, ...]:
    def text() -> str:
        parts = ["26 jours", " ", "\n", "\n\n", "é", "日", " 7", "hello", "дней", "'s", "<|", "{{ x }}"]
        return "".join(rng.choice(parts) for _ in range(rng.randrange(6)))

    head = [Message("system", text())] if rng.random() < 0.5 else []
    turns = []
    for _ in range(rng.randrange(1, 4)):
        turns += [Message("user", text())]
        turns += [Message("tool", text())] if rng.random() < 0.3 else []
        turns += [Message("assistant", text())]
    return (*head, *turns)


def test_our_template_spelt_out(ours):
    end, user, assistant, system = (
        ours.convert_tokens_to_ids(t) for t in ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
    )

    def plain(text: str) -> list[int]:
        return ours.encode(text)

    messages = (Message("system", " Be brief.\n"), ASK)
    prompt = [system, *plain(" Be brief.\n"), end, user, *plain("Translate: 26 days"), end, assistant]
    answer = [*plain("26 jours"), end]
    assert prompt_tokens(ours, messages) == prompt
    assert completion_tokens(ours, "26 jours", messages) == answer
    assert conversation(ours, (*messages, ANSWER)) == (
        prompt + answer,
        [False] * len(prompt) + [True] * len(answer),
    )
    assert stop_tokens(ours) == {end, ours.convert_tokens_to_ids("<|endoftext|>")}


def test_tokens_and_mask_are_those_of_apply_chat_template(ours):
    rng = random.Random(1)
    for _ in range(200):
        messages = random_chat(rng)
        expected = ours.apply_chat_template(as_dicts(messages), return_dict=True, return_assistant_tokens_mask=True)
        tokens, mask = conversation(ours, messages)
        assert tokens == expected["input_ids"]
        assert mask == [bool(m) for m in expected["assistant_masks"]]
        prompt = prompt_tokens(ours, messages[:-1])
        assert prompt == huggingface(ours, messages[:-1], add_generation_prompt=True)
        assert prompt + completion_tokens(ours, messages[-1].content, messages[:-1]) == tokens


def test_text_of_gives_the_answer_back(ours):
    for text in ("26 jours", "", " \n7 дней\n", "日"):
        assert text_of(ours, completion_tokens(ours, text, (ASK,))) == text
        assert text_of(ours, completion_tokens(ours, text, ())) == text


def test_raw_text_is_a_document(ours):
    text = "a <|end|> of <|endoftext|>26"
    start = ours.convert_tokens_to_ids("<|endoftext|>")
    assert prompt_tokens(ours, ()) == [start]
    prompt = prompt_tokens(ours, (Message("text", text),))
    assert prompt[0] == start
    assert not set(prompt[1:]) & set(ours.all_special_ids)  # what the text spells is no special token
    assert ours.decode(prompt[1:]) == text
    document = completion_tokens(ours, text, ())
    assert document == [*prompt[1:], start]
    assert completion_tokens(ours, " days", (Message("text", "26"),)) == [*ours.encode(" days"), start]


def test_raw_text_among_turns_is_refused(ours):
    for messages in [(Message("text", "x"), ASK), (ASK, Message("text", "x"))]:
        for call in (prompt_tokens, conversation):
            with pytest.raises(TropismError, match="role text"):
                call(ours, messages)
    for messages in [(), (Message("text", "x"),)]:
        with pytest.raises(TropismError, match="raw text has no turns"):
            conversation(ours, messages)


def test_a_conversation_that_begins_with_an_answer_is_refused(ours):
    with pytest.raises(TropismError, match="begin with a user turn"):
        conversation(ours, (ANSWER, ASK, ANSWER))


def test_a_conversation_without_an_answer_trains_on_nothing(ours):
    assert conversation(ours, (ASK,)) == (huggingface(ours, (ASK,)), [False] * len(huggingface(ours, (ASK,))))


def test_an_answer_that_spells_its_end_goes_on_and_ends_once(ours):
    said = completion_tokens(ours, "26<|end|> jours", (ASK,))
    assert said == [*ours.encode("26<"), *ours.encode("|end|> jours"), ours.eos_token_id]
    assert text_of(ours, said) == "26<|end|> jours"
    tokens, mask = conversation(ours, (ASK, Message("assistant", "26<|end|> jours")))
    assert [t for t, m in zip(tokens, mask) if m] == said


def test_an_unknown_role_is_refused_by_the_template(ours):
    with pytest.raises(TropismError, match=r"refuses the turns user, judge .*no role judge"):
        prompt_tokens(ours, (ASK, Message("judge", "x")))  # type: ignore[arg-type]


def test_chatml():
    tokenizer = byte_level(CHATML, eos_token="<|im_end|>", pad_token="</s>")
    tokens, mask = conversation(tokenizer, TWO_TURNS)
    assert tokens == huggingface(tokenizer, TWO_TURNS)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    trained = [t for t, m in zip(tokens, mask) if m]
    assert trained == [*tokenizer.encode("26 jours"), end, *tokenizer.encode("26 days"), end]
    assert tokenizer.decode(tokens[-1]) == "\n"  # the line break after the stop token is not the assistant's
    assert not mask[-1]
    assert completion_tokens(tokenizer, "26 jours", (ASK,)) == [*tokenizer.encode("26 jours"), end]
    assert prompt_tokens(tokenizer, (ASK,)) == huggingface(tokenizer, (ASK,), add_generation_prompt=True)
    assert stop_tokens(tokenizer) == {end}


def test_an_answer_is_spelt_as_after_its_prompt_even_where_the_whole_would_be_merged_otherwise():
    tokenizer = byte_level(CHATML, eos_token="<|im_end|>")
    messages = (ASK, Message("assistant", "\n\n26"))
    tokens, _ = conversation(tokenizer, messages)
    prompt = huggingface(tokenizer, (ASK,), add_generation_prompt=True)
    assert tokens[: len(prompt)] == prompt
    assert huggingface(tokenizer, messages)[: len(prompt)] != prompt  # "\n\n" is one token there


def test_the_stop_token_is_found_where_eos_is_another():
    tokenizer = byte_level(CHATML, eos_token="</s>", bos_token="<s>")
    ids = {t: tokenizer.convert_tokens_to_ids(t) for t in ("</s>", "<|im_end|>")}
    assert stop_tokens(tokenizer) == set(ids.values())
    assert completion_tokens(tokenizer, "26", (ASK,))[-1] == ids["<|im_end|>"]
    closed = CHATML.replace("<|im_end|>", "</s>") + "{% if not add_generation_prompt %}<|im_end|>{% endif %}"
    tail = byte_level(closed, eos_token="<|im_end|>")  # a token of its own closes the chat
    tokens, mask = conversation(tail, TWO_TURNS)
    assert tokens == huggingface(tail, TWO_TURNS)
    assert [tail.decode(t) for t, m in zip(tokens, mask) if m and t < 4] == ["</s>", "</s>"]


def test_llama2_has_one_bos_and_trains_its_stop_token():
    tokenizer = byte_level(LLAMA2, bos_token="<s>", eos_token="</s>", pad_token="<|im_end|>")
    tokens, mask = conversation(tokenizer, TWO_TURNS)
    assert tokens == huggingface(tokenizer, TWO_TURNS)
    assert tokens.count(tokenizer.bos_token_id) == 1
    end = tokenizer.eos_token_id
    trained = [t for t, m in zip(tokens, mask) if m]
    assert trained == [*tokenizer.encode(" 26 jours"), end, *tokenizer.encode(" 26 days"), end]
    assert prompt_tokens(tokenizer, (ASK,)) == tokenizer.encode("<s>[INST] Translate: 26 days [/INST]")
    assert stop_tokens(tokenizer) == {end}


@pytest.mark.parametrize("template", [LLAMA2, CHATML.replace("<|im_start|>", "<|").replace("<|im_end|>", "</s>")])
def test_a_tokenizer_that_puts_a_space_before_a_text_spells_an_answer_as_in_the_whole(template):
    tokenizer = sentencepiece_like(template)
    messages = (Message("user", "hello"), Message("assistant", "hello"), Message("user", "hello"))
    messages = (*messages, Message("assistant", "yes"))
    tokens, mask = conversation(tokenizer, messages)
    assert tokens == huggingface(tokenizer, messages)
    word = "▁hello" if template == LLAMA2 else "hello"
    assert tokenizer.convert_ids_to_tokens(completion_tokens(tokenizer, "hello", messages[:1])) == [word, "</s>"]
    assert [t for t, m in zip(tokens, mask) if m][:2] == completion_tokens(tokenizer, "hello", messages[:1])
    prompt = prompt_tokens(tokenizer, (Message("text", "he"),))
    assert tokenizer.convert_ids_to_tokens(prompt) == ["<s>", "▁he"]
    follows = completion_tokens(tokenizer, "hello", (Message("text", "he"),))
    assert tokenizer.convert_ids_to_tokens(follows) == ["hello", "</s>"]


def test_a_template_that_rewrites_earlier_turns_is_refused_by_turn():
    tokenizer = byte_level(STRIPS, eos_token="<|im_end|>")
    thinking = (ASK, ANSWER, ASK, Message("assistant", "think: 26"), ASK, Message("assistant", "think: 7"))
    with pytest.raises(Rewritten, match=r'rewrites assistant turn 2 of 3 .* set train_on = "last"'):
        conversation(tokenizer, thinking)
    last = completion_tokens(tokenizer, "think: 7", thinking[:-1])
    assert tokenizer.decode(last) == "think: 7<|im_end|>"
    assert prompt_tokens(tokenizer, thinking[:-1]) + last == huggingface(tokenizer, thinking)[:-1]


def test_a_tokenizer_without_a_chat_template_says_what_to_set():
    tokenizer = byte_level(None, eos_token="</s>")
    for call in (
        lambda: prompt_tokens(tokenizer, (ASK,)),
        lambda: completion_tokens(tokenizer, "26", (ASK,)),
        lambda: conversation(tokenizer, TWO_TURNS),
    ):
        with pytest.raises(TropismError, match='no chat template: set chat_template = "tropism" on the sft stage'):
            call()
    end = tokenizer.convert_tokens_to_ids("</s>")
    assert completion_tokens(tokenizer, "26", ()) == [*tokenizer.encode("26"), end]
    assert stop_tokens(tokenizer) == {end}


def test_a_template_that_ends_no_turn_is_sampled_from_and_ends_with_eos():
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    template += "{% if add_generation_prompt %}assistant: {% endif %}"
    endless = byte_level(template, eos_token="</s>")
    assert stop_tokens(endless) == {endless.eos_token_id}
    assert completion_tokens(endless, "26 ", (ASK,)) == [*endless.encode("26 "), endless.eos_token_id]
    with pytest.raises(Rewritten):
        conversation(endless, TWO_TURNS)
    without = byte_level(template)
    assert stop_tokens(without) == frozenset()
    with pytest.raises(TropismError, match="ends an assistant turn without a special token, and there is no eos token"):
        completion_tokens(without, "26", (ASK,))


def test_a_turn_that_the_next_one_ends():
    """As in GLM-4 MoE: <|im_start|> begins the next turn and so ends an answer, the last one too."""
    marks = byte_level(CHATML.replace("<|im_end|>\n", "").replace("assistant\n", "assistant\n"), eos_token="</s>")
    end = marks.convert_tokens_to_ids("<|im_start|>")
    assert stop_tokens(marks) == {end, marks.eos_token_id}
    tokens, mask = conversation(marks, TWO_TURNS)
    assert tokens == [*huggingface(marks, TWO_TURNS), end]
    trained = [t for t, m in zip(tokens, mask) if m]
    assert trained == [*marks.encode("26 jours"), end, *marks.encode("26 days"), end]


def test_a_last_turn_that_the_template_leaves_open_is_ended():
    only_first = byte_level(
        CHATML.replace("<|im_end|>", "{% if loop.index < 3 %}<|im_end|>{% endif %}"), eos_token="</s>"
    )
    tokens, mask = conversation(only_first, TWO_TURNS)
    assert only_first.decode([t for t, m in zip(tokens, mask) if m]) == "26 jours<|im_end|>26 days<|im_end|>"


@pytest.mark.parametrize("opening", ["<think>", "<think>\n"])
def test_a_prompt_that_opens_thinking_is_answered_from_there(opening):
    """As in DeepSeek-R1: the prompt opens <think>, a finished turn is written without its thoughts."""
    ends = "{{ message.content.split('</think>') | last | trim }}"
    template = CHATML.replace("{{ message.content }}", ends).replace("assistant\n", "assistant\n" + opening)
    tokenizer = byte_level(template, eos_token="<|im_end|>")
    gap = opening[7:]

    def said(text: str, thinking: str) -> tuple[str, str]:
        tokens, mask = completion(tokenizer, text, (ASK,), thinking)
        return tokenizer.decode(tokens), tokenizer.decode([t for t, m in zip(tokens, mask) if m])

    thought = f"<think>{gap}hm{gap}</think>7"
    assert said(thought, "train") == (f"hm{gap}</think>7<|im_end|>",) * 2
    assert said(thought, "keep") == (f"hm{gap}</think>7<|im_end|>", "7<|im_end|>")
    nothing = f"{gap}</think>{gap * 2}7<|im_end|>"
    assert said(thought, "drop") == (nothing,) * 2 == said("7", "train")
    assert said("7", "keep") == (nothing, f"{gap * 2}7<|im_end|>")
    assert tokenizer.decode(prompt_tokens(tokenizer, (ASK,))).endswith("assistant\n" + opening)
    assert stop_tokens(tokenizer) == {tokenizer.eos_token_id}


def test_thinking_in_earlier_turns_is_trained_kept_or_dropped(ours):
    think = Message("assistant", "<think>hm</think>26 jours")
    messages = (ASK, think, ASK, think)

    def said(thinking: str) -> tuple[str, str]:
        tokens, mask = conversation(ours, messages, thinking)
        return ours.decode(tokens), ours.decode([t for t, m in zip(tokens, mask) if m])

    whole = ours.apply_chat_template(as_dicts(messages), tokenize=False)
    assert said("train") == (whole, "<think>hm</think>26 jours<|end|>" * 2)
    assert said("keep") == (whole, "26 jours<|end|>" * 2)
    assert said("drop") == (whole.replace("<think>hm</think>", ""), "26 jours<|end|>" * 2)


def test_a_template_that_leaves_answers_out_or_is_broken_is_refused():
    mute = byte_level(CHATML.replace("{{ message.content }}", ""), eos_token="<|im_end|>")
    mute.chat_template = mute.chat_template.replace("assistant\n{% endif", "assistant: {% endif")
    with pytest.raises(TropismError, match="leaves out the assistant's messages"):
        completion_tokens(mute, "26", (ASK,))
    broken = byte_level("{% for m in messages %}", eos_token="</s>")
    with pytest.raises(TropismError, match="is not valid Jinja") as caught:
        prompt_tokens(broken, (ASK,))
    assert not isinstance(caught.value, Refused)  # no record's fault
    wrong = byte_level("{{ 1 + 'a' }}", eos_token="</s>")
    with pytest.raises(Refused, match="refuses the turns user"):
        prompt_tokens(wrong, (ASK,))


def test_arguments_are_given_for_good(tmp_path):
    template = "{% if enable_thinking is defined and not enable_thinking %}no{% endif %}{{ tone }}|" + CHATML
    tokenizer = byte_level(template, eos_token="<|im_end|>")
    asked = as_dicts((ASK,))
    expected = tokenizer.apply_chat_template(asked, tokenize=False, enable_thinking=False, tone='say "ça"\n')
    give_arguments(tokenizer, {"enable_thinking": False, "tone": 'say "ça"\n'})
    tokenizer.save_pretrained(tmp_path)
    back = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert back.apply_chat_template(asked, tokenize=False) == expected
    assert back.decode(prompt_tokens(back, (ASK,)), clean_up_tokenization_spaces=False).startswith(expected)
    for name in ("enable_thinkin", "mess ages", "%}"):
        with pytest.raises(TropismError, match="has no argument"):
            give_arguments(tokenizer, {name: 1})


def test_adopting_our_template_adds_what_is_missing():
    tokenizer = byte_level(None, bos_token="</s>", eos_token="</s>", pad_token="</s>")  # as GPT-2 and GPT-NeoX
    before = len(tokenizer)
    assert adopt_template(tokenizer) == 5 == len(tokenizer) - before  # four markers and the pad
    assert tokenizer.eos_token == "</s>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    tokens, mask = conversation(tokenizer, TWO_TURNS)
    assert tokens == huggingface(tokenizer, TWO_TURNS)
    assert tokenizer.decode(tokens).startswith("<|user|>Translate: 26 days</s><|assistant|>26 jours</s><|user|>")
    assert tokenizer.decode([t for t, m in zip(tokens, mask) if m]) == "26 jours</s>26 days</s>"
    assert text_of(tokenizer, tokens).startswith("Translate: 26 days26 jours")
    assert adopt_template(tokenizer) == 0


def test_adopting_keeps_a_bos_that_stands_before_every_text_and_names_a_missing_end(tmp_path):
    from tokenizers import processors

    tokenizer = byte_level(None, bos_token="<s>", pad_token="<|im_end|>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 0)])
    assert adopt_template(tokenizer) == 5  # four markers and the end of a turn
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|end|>", "<|im_end|>")
    prompt = prompt_tokens(tokenizer, (ASK,))
    assert tokenizer.decode(prompt) == "<s><|user|>Translate: 26 days<|end|><|assistant|>"
    assert prompt == huggingface(tokenizer, (ASK,), add_generation_prompt=True)
    tokenizer.save_pretrained(tmp_path)
    back = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert conversation(back, TWO_TURNS) == conversation(tokenizer, TWO_TURNS)


def test_a_prompt_is_rendered_once_for_all_its_completions(ours, monkeypatch):
    tokenizer, calls = copy.deepcopy(ours), []
    render = type(tokenizer).apply_chat_template

    def counted(self, *args, **options):
        calls.append(options["add_generation_prompt"])
        return render(self, *args, **options)

    monkeypatch.setattr(type(tokenizer), "apply_chat_template", counted)
    messages = (Message("user", "only here"),)
    stop_tokens(tokenizer)
    calls.clear()
    prompt_tokens(tokenizer, messages)
    for n in range(20):
        completion_tokens(tokenizer, f"{n} jours", messages)
    assert (calls.count(True), calls.count(False)) == (1, 20)
