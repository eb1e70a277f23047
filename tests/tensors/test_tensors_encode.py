"""Groups as tokens: what is trained, what is kept of a sample, what judgments mean as ranks."""

from __future__ import annotations

import dataclasses
import itertools
import time

import pytest

from tropism.errors import TropismError
from tropism.tensors.encode import TooLong, beaten, bounded, chunks, demonstration, question, ranks, spans, tree
from tropism.tensors.tree import Tree
from tropism.text.chat import completion_tokens, conversation, prompt_tokens, stop_tokens, text_of
from tropism.text.tokenizer import identity, train_tokenizer
from tropism.types import Completion, Group, Judgment, Message

ASK = (Message("user", "7 days"),)
TALK = (*ASK, Message("assistant", "7 jours"), Message("user", "in Malay?"))


def test_text_becomes_tokens_and_all_of_them_are_trained(words):
    item = tree(Group("g", ASK, (Completion("7 jours"), Completion("7"))), words, 64)
    assert item.prompt == tuple(prompt_tokens(words, ASK))
    assert item.completions == tuple(tuple(completion_tokens(words, t, ASK)) for t in ("7 jours", "7"))
    assert item.trained == tuple((True,) * len(c) for c in item.completions)
    assert item.logprobs is None


def test_a_sample_keeps_its_own_tokens(words):
    """Its text is never tokenised again: the spelling sampled need not be the one the tokenizer would choose."""
    spelt = tuple(words.encode(c, add_special_tokens=False)[0] for c in "7 jours")
    assert spelt != tuple(words.encode("7 jours"))
    sample = Completion("7 jours", spelt, (True, False) + (True,) * 5, (-0.5,) * 7, "length", "abc@1")
    item = tree(Group("g", ASK, (sample, dataclasses.replace(sample, sampled=None))), words, 64)
    assert item.completions == (spelt, spelt)
    assert item.trained == ((True, False, True, True, True, True, True), (True,) * 7)
    assert item.logprobs == ((-0.5,) * 7,) * 2
    assert item.ended == (False, False)


def test_log_probabilities_are_there_for_all_or_for_none(words):
    sample = Completion("7", (5,), (True,), (-0.5,))
    assert tree(Group("g", ASK, (sample, Completion("8"))), words, 64).logprobs is None


def test_a_demonstration_trains_every_assistant_turn(words):
    item = demonstration(Group("g", TALK, (Completion("7 hari"),)), words, 128)
    tokens, mask = conversation(words, (*TALK, Message("assistant", "7 hari")))
    assert list(item.prompt + item.completions[0]) == tokens
    trained = [x for x, keep in zip(item.completions[0], item.trained[0]) if keep]
    assert trained == [x for x, keep in zip(tokens, mask) if keep]
    assert text_of(words, trained) == "7 jours7 hari"
    assert item.prompt == tuple(prompt_tokens(words, ASK))
    single = Group("g", ASK, (Completion("7 jours"),))
    assert demonstration(single, words, 64) == tree(single, words, 64)


@pytest.mark.parametrize("length", [2, 5, 16, 1000])
def test_chunks_train_each_token_of_a_document_once(words, length: int):
    text = "7 days, 7 jours, 7 hari, 7 дней\n" * 3
    whole = tree(Group("doc", (), (Completion(text),)), words, 10**6)
    pieces = chunks(Group("doc", (), (Completion(text),)), words, length)
    assert tuple(x for p in pieces for x in p.completions[0]) == whole.completions[0]
    assert pieces[0].prompt == whole.prompt
    assert all(p.size <= length and all(p.trained[0]) for p in pieces)
    for before, after in itertools.pairwise(pieces):
        assert after.prompt == before.completions[0][-1:]
    assert [p.ended[0] for p in pieces] == [False] * (len(pieces) - 1) + [True]
    assert len({p.id for p in pieces}) == len(pieces)


@pytest.mark.parametrize("make", [tree, demonstration])
@pytest.mark.parametrize("prompt", [ASK, TALK], ids=["one turn", "two turns"])
def test_what_does_not_fit_is_named(words, make, prompt: tuple[Message, ...]):
    group = Group("the-long-one", prompt, (Completion("7 jours"),))
    item = make(group, words, 1000)
    assert make(group, words, item.size) == item
    with pytest.raises(TropismError, match=f"the-long-one needs {item.size} tokens .* {item.size - 1}") as error:
        make(group, words, item.size - 1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("count", [0, 2])
def test_a_demonstration_has_one_completion(words, count: int):
    with pytest.raises(TropismError, match=f"group g has {count} completions"):
        demonstration(Group("g", ASK, (Completion("7"),) * count), words, 64)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((0.1, 0.9, 0.5), (3, 1, 2)),
        ((1.0, 1.0, 0.0), (1, 1, 2)),
        ((None, 0.0, None), (0, 1, 0)),
        ((-2.0, None, 3.0, -2.0), (2, 0, 1, 2)),
        ((None, None), (0, 0)),
    ],
)
def test_scores_as_ranks(scores, expected: tuple[int, ...]):
    assert ranks(Judgment("j", scores)) == expected


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((-1.0, -2.0), (1.0, 0.0)),
        ((1.0, 1.0), (0.5, 0.5)),
        ((-2.0, -1.0, -3.0), (0.5, 1.0, 0.0)),
        ((-1.0, -2.0, None, -2.0), (1.0, 0.25, None, 0.25)),  # each of the tied loses once and draws once
        ((-7.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0), (0.0, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6)),
        ((-1.0, None), (None, None)),
    ],
)
def test_ranks_as_shares_beaten(scores, expected: tuple[float | None, ...]):
    assert beaten(Judgment("j", scores, "ordinal")) == pytest.approx(expected)


def test_judged_takes_the_newest_and_names_what_is_missing():
    group = Group("g", ASK, (Completion("a"), Completion("b")))
    old, new = Judgment("rater@1", (0.0, 1.0)), Judgment("rater@2", (1.0, 0.0))
    assert dataclasses.replace(group, judgments=(old, new)).judged("rater") is new
    with pytest.raises(TropismError, match=r"no judgment by 'other' \(it has: rater\)"):
        dataclasses.replace(group, judgments=(old,)).judged("other")
    short = dataclasses.replace(group, judgments=(Judgment("rater@1", (1.0,)),))
    with pytest.raises(TropismError, match="1 scores for 2 completions"):
        short.judged("rater")


def test_spans_hold_all_trees_within_the_bound():
    trees = [Tree(str(n), (1,) * n, (), (), ()) for n in (3, 4, 9, 1, 1, 5)]
    assert [[t.size for t in run] for run in spans(trees, 7)] == [[3, 4], [9], [1, 1, 5]]
    assert list(spans([], 7)) == []


def test_tokens_that_do_not_spell_the_text_are_another_tokenizers(words):
    own = Completion("ab", tokens=tuple(completion_tokens(words, "ab", ())), logprobs=None)
    strange = Completion("ab", tokens=(60, 61, 62), sampled=(True,) * 3, logprobs=(-1.0,) * 3, finish_reason="length")
    beyond = Completion("ab", tokens=(10**6,), sampled=(True,), logprobs=(-1.0,))
    more = Completion("a", tokens=own.tokens[:2], sampled=(True,) * 2, logprobs=(-1.0,) * 2, finish_reason="length")
    made = tree(Group("g", (), (own, strange, beyond, more)), words, 100)
    assert made.completions == (*(own.tokens,) * 3, tuple(completion_tokens(words, "a", ())))
    assert made.logprobs is None and made.ended == (True, False, True, False)


@pytest.mark.parametrize("reason", ["stop", "length"])
@pytest.mark.parametrize("named", [True, False], ids=["named", "nobody wrote whose"])
def test_an_empty_answer_of_another_tokenizer_is_spelt_anew(words, reason, named: bool):
    """Its one token, the other's stop token, is <|user|> here; every text begins with an empty one."""
    other = train_tokenizer(["hello"], 270)
    other.add_special_tokens({"eos_token": "<|user|>"})
    stop = other.eos_token_id
    assert text_of(words, (stop,)) == "" and stop not in stop_tokens(words)
    empty = Completion("", (stop,), (True,), (-1.0,), reason, tokenizer=identity(other) if named else "")
    made = tree(Group("g", ASK, (empty,)), words, 100)
    assert made.completions == ((words.eos_token_id,),) and made.logprobs is None
    kept = tree(Group("g", ASK, (empty,)), other, 100)
    if named or reason == "stop":
        assert kept.completions == ((stop,),) and kept.logprobs == ((-1.0,),)


def test_tokens_cut_at_a_stop_string_are_kept_by_the_tokenizer_that_made_them(words):
    """The text ends where the stop string begins, the tokens go on: here the text is empty and they spell a line break."""
    tokens = tuple(words.encode("\n", add_special_tokens=False))
    cut = Completion("", tokens, (True,) * len(tokens), (-1.0,) * len(tokens), "stop", tokenizer=identity(words))
    assert tree(Group("g", ASK, (cut,)), words, 100).completions == (tokens,)
    strange = dataclasses.replace(cut, tokenizer="0123456789abcdef")
    assert tree(Group("g", ASK, (strange,)), words, 100).completions == ((words.eos_token_id,),)


@pytest.mark.parametrize("where", ["prompt", "answer", "earlier answer"])
def test_sixty_megabytes_are_refused_in_a_second(words, where: str):
    long, short = "word " * 12_000_000, "x"
    asked: tuple[Message, ...] = (Message("user", long if where == "prompt" else short),)
    if where == "earlier answer":
        asked = (*asked, Message("assistant", long), *asked)
    group = Group("g", asked, (Completion(long if where == "answer" else short),))
    start = time.process_time()
    for make in (demonstration, tree):
        with pytest.raises(TooLong, match=r"group g has 60,000,00\d characters, which cannot fit the model's context"):
            make(group, words, 128)
    if where == "prompt":
        with pytest.raises(TooLong, match="group g has 60,000,001 characters"):
            question(group, words, 128, 8)
    assert time.process_time() - start < 1


def test_a_long_text_that_may_fit_is_not(words):
    group = Group("g", (Message("user", "x"),), (Completion("word " * 400_000),))
    longest = max(len(token) for token in words.get_vocab())
    bounded(group, words, -(-2_000_001 // longest))
    with pytest.raises(TooLong):
        bounded(group, words, 2_000_000 // longest)
