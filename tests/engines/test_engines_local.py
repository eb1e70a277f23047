"""The local engine: what it samples, when it stops, what it says of it, and how little it computes."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from transformers import PreTrainedModel

from tropism.engines.local import LocalEngine
from tropism.errors import TropismError
from tropism.text.chat import prompt_tokens, stop_tokens, text_of
from tropism.types import Completion, Message, SamplingParams

ASK = (Message("user", "7 jours"),)
PROMPTS = [ASK, (Message("user", "a much longer question about 31 hari"),), (Message("text", "7 days"),)]


@pytest.fixture
def engine(llama: PreTrainedModel, words) -> LocalEngine:
    """Its model likes to stop: about one token in ten."""
    with torch.no_grad():
        llama.get_output_embeddings().weight[words.eos_token_id] *= 4
    engine = LocalEngine(llama, words, policy="abc@0")
    engine.generate([ASK], SamplingParams(max_tokens=1))  # at its first use a model is compared with itself
    return engine


def one(engine: LocalEngine, params: SamplingParams, prompt=ASK) -> Completion:
    return engine.generate([prompt], params)[0][0]


def varied(engine: LocalEngine, n: int = 24, **more) -> tuple[Completion, ...]:
    """Samples of which some stop early and some do not."""
    answers = engine.generate([ASK], SamplingParams(n=n, max_tokens=12, **more))[0]
    assert {a.finish_reason for a in answers} == {"stop", "length"}
    return answers


def test_one_tuple_of_n_completions_a_prompt_in_order(engine: LocalEngine):
    together = engine.generate(PROMPTS, SamplingParams(n=3, max_tokens=6, seed=1))
    assert [len(row) for row in together] == [3, 3, 3]
    assert len({a.tokens for row in together for a in row}) == 9  # no two streams are the same
    for prompt, row in zip(PROMPTS, together):
        assert [a.tokens for a in engine.generate([prompt], SamplingParams(n=3, max_tokens=6, seed=1))[0]] == [
            a.tokens for a in row
        ]
    assert engine.generate([], SamplingParams()) == []


def test_finish_reason_tells_a_stop_from_a_cut(engine: LocalEngine, words):
    stops = stop_tokens(words)
    for answer in varied(engine):
        assert answer.tokens is not None
        assert not stops & set(answer.tokens[:-1])
        if answer.finish_reason == "stop":
            assert answer.tokens[-1] in stops  # the stop token is part of the completion
        else:
            assert len(answer.tokens) == 12
            assert answer.tokens[-1] not in stops
        assert answer.text == text_of(words, answer.tokens)
        assert answer.sampled == (True,) * len(answer.tokens)
        assert answer.policy == "abc@0"


def test_a_stop_token_at_the_limit_is_a_stop(engine: LocalEngine):
    answers = varied(engine)
    number = next(i for i, a in enumerate(answers) if a.finish_reason == "stop" and len(a.tokens or ()) > 2)
    limit = len(answers[number].tokens or ())
    again = engine.generate([ASK], SamplingParams(n=len(answers), max_tokens=limit))[0][number]
    assert again.tokens == answers[number].tokens
    assert again.finish_reason == "stop"


def test_a_stop_string_ends_the_completion_where_it_first_appears(engine: LocalEngine, words):
    for seed in range(99):  # the first that does not stop at once
        free = one(engine, SamplingParams(max_tokens=40, seed=seed))
        if len(free.text) > 12:
            break
    stop = free.text[5:8]
    tokens = free.tokens or ()
    shortest = next(n for n in range(1, 41) if stop in text_of(words, tokens[:n]))
    assert shortest < len(tokens)
    cut = one(engine, SamplingParams(max_tokens=40, seed=seed, stop=("never", stop)))
    assert cut.text == free.text[: free.text.index(stop)]
    assert cut.tokens == tokens[:shortest]
    assert cut.finish_reason == "stop"
    assert len(cut.logprobs or ()) == shortest


def test_a_sample_is_its_seed_and_its_number(engine: LocalEngine):
    four = engine.generate([ASK], SamplingParams(n=4, max_tokens=8, seed=3))[0]
    eight = engine.generate([ASK], SamplingParams(n=8, max_tokens=8, seed=3))[0]
    other = engine.generate([ASK], SamplingParams(n=4, max_tokens=8, seed=-4))[0]
    assert [a.tokens for a in eight[:4]] == [a.tokens for a in four]
    assert not {a.tokens for a in four} & {a.tokens for a in other}
    longer = engine.generate([ASK], SamplingParams(n=4, max_tokens=12, seed=3))[0]
    assert all((long.tokens or ())[:8] == short.tokens for long, short in zip(longer, four))


@pytest.mark.parametrize(
    "shape",
    [{"top_k": 6}, {"top_k": 6, "temperature": 0.6}, {"top_p": 0.5}],
    ids=str,
)
def test_first_tokens_follow_the_distribution(engine: LocalEngine, words, shape: dict):
    """Pearson's test at the 0.1 % point, over the tokens that are expected at least five times."""
    n = 2000
    answers = engine.generate([ASK], SamplingParams(n=n, max_tokens=1, **shape))[0]
    seen = Counter((a.tokens or (-1,))[0] for a in answers)
    logits = engine.model(torch.tensor([prompt_tokens(words, ASK)])).logits[0, -1].detach().double()
    p = (logits / shape.get("temperature", 1.0)).softmax(-1)
    order = p.argsort(descending=True).tolist()
    kept = order[: shape["top_k"]] if "top_k" in shape else []
    while "top_p" in shape and sum(float(p[i]) for i in kept) < shape["top_p"]:
        kept.append(order[len(kept)])
    assert set(seen) <= set(kept)
    mass = sum(float(p[i]) for i in kept)
    expected = {i: n * float(p[i]) / mass for i in kept if n * float(p[i]) / mass >= 5}
    assert len(expected) > 3
    chi2 = sum((seen[i] - e) ** 2 / e for i, e in expected.items())
    degrees = len(expected)  # one too many at most: the test is a little lenient
    bound = degrees * (1 - 2 / (9 * degrees) + 3.09 * math.sqrt(2 / (9 * degrees))) ** 3  # Wilson and Hilferty
    assert chi2 < bound
    uniform = sum((seen[i] - n / len(kept)) ** 2 / (n / len(kept)) for i in kept)
    assert uniform > 3 * bound  # the test has power: the same counts do not look uniform


def test_greedy_is_certain(engine: LocalEngine):
    first, second = engine.generate([ASK], SamplingParams(n=2, max_tokens=8, temperature=0))[0]
    assert first == second
    assert first.logprobs == (0.0,) * len(first.tokens or ())


def test_top_k_one_is_greedy(engine: LocalEngine):
    greedy = one(engine, SamplingParams(max_tokens=8, temperature=0))
    assert one(engine, SamplingParams(max_tokens=8, top_k=1)).tokens == greedy.tokens
    assert one(engine, SamplingParams(max_tokens=8, top_p=1e-6)).tokens == greedy.tokens


@pytest.mark.parametrize("stop", [(), ("1", "ab", "xyz")])
def test_stream_adds_up_to_the_completion(engine: LocalEngine, stop: tuple[str, ...]):
    for seed in range(6):
        params = SamplingParams(max_tokens=20, seed=seed, stop=stop)
        assert "".join(engine.stream(ASK, params)) == one(engine, params).text
    assert len(list(engine.stream(ASK, SamplingParams(max_tokens=20, temperature=0.3)))) > 1


def test_stream_holds_back_what_may_be_a_stop_string(engine: LocalEngine):
    for seed in range(99):
        free = one(engine, SamplingParams(max_tokens=40, seed=seed)).text
        if len(free) > 12:
            break
    params = SamplingParams(max_tokens=40, seed=seed, stop=(free[6:11],))
    assert "".join(engine.stream(ASK, params)) == free[:6]


def test_a_prompt_that_does_not_fit_is_one_sentence(engine: LocalEngine, words):
    length = len(prompt_tokens(words, ASK))
    fits = SamplingParams(max_tokens=128 - length)
    assert one(engine, fits).finish_reason in ("stop", "length")
    with pytest.raises(TropismError, match=f"{length} tokens and max_tokens = {129 - length} .* 128 tokens") as error:
        engine.generate([PROMPTS[2], ASK], SamplingParams(max_tokens=129 - length))
    assert "\n" not in str(error.value)


def test_load_takes_weights_and_the_policy_name(engine: LocalEngine, make_model):
    params = SamplingParams(n=2, max_tokens=8)
    before = engine.generate([ASK], params)[0]
    new = make_model("llama", 9)
    expected = LocalEngine(new, engine.tokenizer).generate([ASK], params)[0]
    engine.load(new.state_dict(), "abc@1")
    after = engine.generate([ASK], params)[0]
    assert [a.tokens for a in after] == [a.tokens for a in expected] != [a.tokens for a in before]
    assert after[0].policy == "abc@1"
    engine.load(None, "abc@2")
    assert [a.tokens for a in engine.generate([ASK], params)[0]] == [a.tokens for a in after]


def test_a_prompt_is_run_once_and_finished_samples_leave(engine: LocalEngine, words, monkeypatch: pytest.MonkeyPatch):
    shapes: list[tuple[int, int]] = []
    counted: list[int] = []
    step = engine.step
    monkeypatch.setattr(engine, "step", lambda *most: counted.append(len(step(*most))))
    hook = engine.model.get_input_embeddings().register_forward_hook(
        lambda _m, args, _out: shapes.append(tuple(args[0].shape))
    )
    answers = varied(engine)
    hook.remove()
    lengths = [len(a.tokens or ()) for a in answers]
    running = [sum(length > step for length in lengths) for step in range(max(lengths))]
    assert shapes == [(1, len(prompt_tokens(words, ASK))), *((1, count) for count in running[1:])]
    assert counted == running


def test_waiting_prompts_take_the_slots_of_finished_ones(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch):
    """A step makes as many tokens as there are rows while anything waits, and no token costs a row twice."""
    engine.batch.rows = 4
    made: list[int] = []
    run: list[int] = []
    step = engine.step
    monkeypatch.setattr(engine, "step", lambda *most: made.append(len(step(*most))))
    engine.model.get_input_embeddings().register_forward_hook(lambda _m, args, _out: run.append(args[0].numel()))
    prompts = [(Message("user", str(n)),) for n in range(30)]
    answers = [row[0] for row in engine.generate(prompts, SamplingParams(max_tokens=12))]
    lengths = [len(a.tokens or ()) for a in answers]
    assert len(set(lengths)) > 3
    assert sum(made) == sum(lengths)
    assert set(made[: len(made) * 3 // 4]) == {4}
    asked = sum(len(prompt_tokens(engine.tokenizer, prompt)) for prompt in prompts)
    assert sum(run) == asked + sum(lengths) - len(lengths)  # the first token of each comes with its prompt
