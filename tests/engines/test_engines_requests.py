"""Requests enter and leave between any two steps, and nobody's tokens change; memory follows what is held."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tropism.engines._row import Root
from tropism.engines._store import Store
from tropism.engines.local import Local, LocalEngine
from tropism.errors import TropismError
from tropism.models.architecture import Architecture, create
from tropism.types import Message, SamplingParams

TEXTS = ["7 jours", "31 hari and more", "a long question about 19 days, 18 days and 17 days " * 2, "x"]


def ask(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def store_of(engine: LocalEngine) -> Store:
    assert isinstance(engine.batch.way, Store)
    return engine.batch.way


@pytest.mark.parametrize("seed", range(6))
def test_admission_and_cancel_at_random_moments_change_nobodys_tokens(
    seed: int, llama: PreTrainedModel, words: PreTrainedTokenizerFast
) -> None:
    """With few rows and little memory, so that rows wait, lose their memory and come back."""
    rng = random.Random(seed)
    asked = [
        (
            ask(f"{rng.choice(TEXTS)}{i}"),
            SamplingParams(
                n=rng.randrange(1, 4), max_tokens=rng.choice([3, 20, 40]), seed=i, temperature=rng.choice([0.0, 1.0])
            ),
        )
        for i in range(10)
    ]
    alone = [LocalEngine(llama, words, cache=False).generate([prompt], params)[0] for prompt, params in asked]
    page = 16 * 2 * 2 * 32 * 4  # tokens, keys and values, layers, width, bytes
    memory = f"{rng.choice([14, 30, 400]) * page / 1024}KiB"
    engine = LocalEngine(llama, words, rows=rng.choice([2, 5, 20]), memory=memory, cache=rng.random() < 0.5)
    requests: dict[int, Root] = {}
    cancelled: set[int] = set()
    left = [*range(10)]
    while left or not engine.batch.idle:
        if left and rng.random() < 0.4:
            i = left.pop(0)
            requests[i] = engine.request(*asked[i])
            engine.submit(requests[i])
        if requests and rng.random() < 0.06:
            i = rng.choice([*requests])
            rows = [row for row in requests[i].rows if not row.finished]
            engine.cancel(requests[i])
            cancelled.add(i)
            assert all(row.sequence not in store_of(engine).sequences and not row.sequence.own for row in rows)
        engine.step()
        assert len(engine.batch.live) <= engine.batch.rows
    assert not store_of(engine).sequences and store_of(engine).busy() == 0
    for i, request in requests.items():
        rows = sorted(request.rows, key=lambda row: row.sequence.number)
        for row in rows:
            expected = alone[i][row.sequence.number].tokens or ()
            assert tuple(row.tokens) == (expected if row.finished else expected[: len(row.tokens)])
        assert i in cancelled or [row.finished for row in rows] == [c.finish_reason for c in alone[i]]


def test_memory_follows_what_is_held(words: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of 40 tokens on average, the longest 256: at the peak at most 1.5 times the bytes of the tokens held."""
    monkeypatch.setattr("tropism.engines._pages.SMALL", 1 << 15)  # this model's keys and values would all be few
    model = create(Architecture(width=32, layers=2, heads=2, context=512), words, 0)
    with torch.no_grad():
        model.get_output_embeddings().get_parameter("weight")[words.eos_token_id] = 0
    engine = LocalEngine(model, words, rows=48)
    store, rng = store_of(engine), random.Random(1)
    lengths = [min(256, 1 + int(rng.expovariate(1 / 40))) for _ in range(160)] + [256]
    requests = [
        engine.request(ask(str(i)), SamplingParams(max_tokens=length, seed=i)) for i, length in enumerate(lengths)
    ]
    for request in requests:
        engine.submit(request)
    peak = most = 0
    while not engine.batch.idle:
        engine.step()
        held = sum(row.sequence.held for row in engine.batch.live)  # nothing is shared here
        assert store.tokens == held
        peak, most = max(peak, store.bytes), max(most, held)
    assert most > 48 * 20
    assert peak <= 1.5 * most * (2 * 2 * 32 * 4)
    assert store.bytes == 0 and store.own.keys[0].count_nonzero() == 0  # and what is not held is given back


def test_a_prompt_is_held_once_for_its_samples(llama: PreTrainedModel, words: PreTrainedTokenizerFast) -> None:
    engine = LocalEngine(llama, words, cache=False)
    request = engine.request(ask(TEXTS[2]), SamplingParams(n=20, max_tokens=4))
    engine.submit(request)
    for _ in range(3):
        engine.step()
    pages = len(request.rows[0].sequence.shared)
    assert pages >= 3 and store_of(engine).busy() <= pages + 20
    engine.cancel(request)
    assert store_of(engine).busy() == 0 and engine.batch.idle


def test_the_cache_changes_no_token_and_new_weights_empty_it(
    llama: PreTrainedModel, words: PreTrainedTokenizerFast, make_model: Callable[..., PreTrainedModel]
) -> None:
    params, prompts = SamplingParams(n=2, max_tokens=8), [ask(TEXTS[2] + end) for end in ("", " and so on", "?")]
    plain = LocalEngine(llama, words, cache=False)
    engine = LocalEngine(llama, words)
    run, tokens = engine.batch.way.run, []
    engine.batch.way.run = lambda s, counts: tokens.append(sum(counts)) or run(s, counts)  # type: ignore[method-assign]

    def served(prompt: tuple[Message, ...]) -> list[tuple[int, ...]]:
        request = engine.request(prompt, params)
        engine.submit(request)
        while not engine.batch.idle:
            engine.step()
        return [tuple(row.tokens) for row in sorted(request.rows, key=lambda row: row.sequence.number)]

    for prompt in (*prompts, *prompts):
        assert served(prompt) == [c.tokens for c in plain.generate([prompt], params)[0]]
    longest = max(tokens)
    assert sorted(tokens)[-1] == longest > 64 and sorted(tokens)[-2] < 32  # the first prompt, then only ends of prompts
    state = {name: value.clone() for name, value in make_model("llama", 9).state_dict().items()}
    with torch.no_grad():  # without a word to the engine
        for name, parameter in llama.named_parameters():
            parameter.copy_(state[name])
    assert served(prompts[0]) == [c.tokens for c in LocalEngine(llama, words).generate(prompts[:1], params)[0]]
    assert tokens.count(longest) == 2


def test_a_long_prompt_enters_in_parts_while_others_decode(
    llama: PreTrainedModel, words: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tropism.engines._batch.CHUNK", 16)
    params = SamplingParams(max_tokens=20, seed=4)
    expected = [LocalEngine(llama, words).generate([ask(t)], params)[0][0].tokens for t in TEXTS]
    engine = LocalEngine(llama, words)
    run, widest = engine.batch.way.run, []
    engine.batch.way.run = lambda s, counts: widest.append(max(counts)) or run(s, counts)  # type: ignore[method-assign]
    found = engine.generate([ask(t) for t in TEXTS], params)
    assert [row[0].tokens for row in found] == expected
    assert max(widest) == 16


def test_streams_side_by_side_are_streams_alone(llama: PreTrainedModel, words: PreTrainedTokenizerFast) -> None:
    params = SamplingParams(max_tokens=12, seed=2)
    expected = ["".join(LocalEngine(llama, words).stream(ask(t), params)) for t in TEXTS[:2]]
    engine = LocalEngine(llama, words)
    streams, said = [engine.stream(ask(t), params) for t in TEXTS[:2]], ["", ""]
    third = engine.stream(ask(TEXTS[3]), params)
    next(third, None)
    third.close()  # type: ignore[attr-defined]  # nobody reads on
    for _ in range(13):
        for i, stream in enumerate(streams):
            said[i] += next(stream, "")
    assert said == expected and engine.batch.idle and not store_of(engine).sequences


def test_a_size_is_a_number_and_a_unit() -> None:
    assert Local(memory="512MiB").memory == "512MiB"
    for wrong in ("4", "4GB", "GiB", "-1GiB", "nanGiB", "infGiB", "0MiB"):
        with pytest.raises(TropismError, match="is no size: write a number and a unit"):
            Local(memory=wrong)
