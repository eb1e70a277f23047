"""The tree of sequences: forks, forced tokens, rollbacks and scores say what the model says of the whole text."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GptOssConfig, MambaConfig, PreTrainedModel, PreTrainedTokenizerFast

from tropism.engines._store import Store
from tropism.engines._ways import way_of
from tropism.engines.local import LocalEngine
from tropism.errors import TropismError
from tropism.tensors import native
from tropism.text.chat import prompt_tokens, stop_tokens
from tropism.types import Message, SamplingParams

ASK = (Message("user", "7 jours and some more words, so that there are several pages"),)
GREEDY = SamplingParams(max_tokens=6, temperature=0)


def plainly(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    """(T, V) log-probabilities of a plain call."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].log_softmax(-1)


@pytest.fixture(
    params=[
        "llama",
        "gpt2",
        "sliding",
        "gpt_oss",
        "mamba",
        "llama by products",
        "sliding by products",
        "gpt_oss by products",
    ]
)
def engine(
    request: pytest.FixtureRequest,
    words: PreTrainedTokenizerFast,
    make_model: Callable[..., PreTrainedModel],
    monkeypatch: pytest.MonkeyPatch,
) -> LocalEngine:
    """Pages with and without rotary positions, with a window of 24 tokens, with it on every other layer and scores without
    a value and shared keys, and a model without pages; by products: as without a compiler."""
    kind, _, products = request.param.partition(" ")
    if products:
        monkeypatch.setattr(native, "library", lambda: None)
    if kind == "mamba":
        torch.manual_seed(3)
        config = MambaConfig(vocab_size=len(words), hidden_size=32, state_size=4, num_hidden_layers=1)
        model = AutoModelForCausalLM.from_config(config).eval()
    elif kind == "gpt_oss":
        shape: dict[str, Any] = {"hidden_size": 32, "head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
        more: dict[str, Any] = {
            "intermediate_size": 32,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "sliding_window": 24,
        }
        config = GptOssConfig(vocab_size=len(words), num_hidden_layers=2, **shape, **more)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.2)
        assert way_of(model) == "pages"
    else:
        model = request.getfixturevalue("sliding") if kind == "sliding" else make_model(kind)
    return LocalEngine(model, words)


def counted(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of tokens of later passes of the model, or of several in one operation."""
    way, passes = engine.batch.way, []
    run = way.run
    monkeypatch.setattr(way, "run", lambda s, counts: passes.append(sum(counts)) or run(s, counts))
    if isinstance(way, Store):
        several = way.several

        def counted(*given: Any) -> list[tuple[list[int], list[float]]]:
            made = several(*given)
            passes.append(sum(len(tokens) for tokens, _ in made))
            return made

        monkeypatch.setattr(way, "several", counted)
    return passes


def test_random_operations_leave_what_a_plain_call_computes(engine: LocalEngine) -> None:
    rng = random.Random(5)
    handles = [engine.open([rng.randrange(20, 200) for _ in range(n)]) for n in (1, 20, 37)]
    known = [list(h.tokens) for h in handles]
    for step in range(40):
        i = rng.randrange(len(handles))
        do = rng.choice(["fork", "append", "decode", "rollback", "free", "score"])
        if do == "fork" and len(handles) < 9:
            made = engine.fork(handles[i], rng.randrange(1, 4))
            handles += made
            known += [list(known[i]) for _ in made]
        elif do == "append" and len(known[i]) < 70:
            more = [rng.randrange(20, 200) for _ in range(rng.choice([1, 2, 19]))]
            engine.append(handles[i], more)
            known[i] += more
        elif do == "decode" and len(known[i]) < 70:
            among = sorted({i, rng.randrange(len(handles))})
            params = SamplingParams(max_tokens=rng.choice([1, 5, 18]), seed=step)
            for j, answer in zip(among, engine.decode([handles[j] for j in among], params)):
                assert answer.sampled == (True,) * len(answer.tokens or ())
                expected = plainly(engine.model, known[j] + list(answer.tokens or ()))[len(known[j]) - 1 : -1]
                chosen = expected.gather(-1, torch.tensor(answer.tokens)[:, None])[:, 0]
                assert torch.allclose(torch.tensor(answer.logprobs), chosen, atol=5e-5)
                known[j] += answer.tokens or ()
        elif do == "rollback" and len(known[i]) > 1:
            k = rng.randrange(1, min(len(known[i]), 25))
            engine.rollback(handles[i], k)
            del known[i][-k:]
        elif do == "free" and len(handles) > 3:
            engine.free(handles.pop(i))
            known.pop(i)
        elif do == "score":
            asked = [[31, 32, 33], [34]]
            for one, found in zip(asked, engine.score(handles[i], asked)):
                said = plainly(engine.model, known[i] + one)[len(known[i]) - 1 : -1]
                assert found == pytest.approx(said.gather(-1, torch.tensor(one)[:, None])[:, 0].tolist(), abs=5e-5)
    assert [list(h.tokens) for h in handles] == known
    for handle in handles:
        engine.free(handle)
    assert engine.batch.idle and not engine.batch.way.sequences and engine.batch.way.busy() == 0


def test_a_fork_runs_nothing_again_and_is_a_fresh_prompt(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = prompt_tokens(engine.tokenizer, ASK)
    root = engine.open(tokens)
    passes = counted(engine, monkeypatch)
    branches = engine.fork(root, 8)
    assert passes == [len(tokens)]
    answers = engine.decode(branches, SamplingParams(max_tokens=5, seed=3))
    assert sum(passes) == len(tokens) + sum(len(a.tokens or ()) - 1 for a in answers)
    expected = engine.generate([ASK], SamplingParams(n=8, max_tokens=5, seed=3))[0]
    assert [a.tokens for a in answers] == [a.tokens for a in expected]
    fresh = engine.open(branches[2].tokens)
    assert engine.decode([fresh], GREEDY)[0].tokens == engine.decode([branches[2]], GREEDY)[0].tokens


def test_decode_in_parts_is_decode_at_once(engine: LocalEngine) -> None:
    start = prompt_tokens(engine.tokenizer, ASK)
    whole, parts = (engine.open(start, allowed=lambda _: range(20, 200)) for _ in range(2))  # no stop among them
    expected = engine.decode([whole], SamplingParams(max_tokens=10, seed=1))[0].tokens
    first, second = (engine.decode([parts], SamplingParams(max_tokens=5, seed=1))[0].tokens for _ in range(2))
    assert (first or ()) + (second or ()) == expected and len(expected or ()) == 10
    engine.rollback(parts, 5)
    assert engine.decode([parts], SamplingParams(max_tokens=5, seed=1))[0].tokens == second
    assert engine.decode([parts], SamplingParams(max_tokens=5, seed=1), until=lambda new: len(new) == 2)[0].tokens
    assert len(parts.tokens) == len(start) + 12


def test_a_mask_says_what_may_follow(engine: LocalEngine) -> None:
    """Digits in turn; forks follow the same rule, each by its own tokens. Others in the batch do not."""
    digits = [engine.tokenizer.encode(d, add_special_tokens=False)[0] for d in "0123456789"]
    start = prompt_tokens(engine.tokenizer, ASK)
    ruled = engine.open(start, allowed=lambda tokens: [digits[(len(tokens) - len(start)) % 10], digits[9]])
    branches = engine.fork(ruled, 6)
    free = engine.open(start)
    *answers, other = engine.decode([*branches, free], SamplingParams(max_tokens=9, seed=2))
    for answer in answers:
        assert all(token in (digits[i % 10], digits[9]) for i, token in enumerate(answer.tokens or ()))
        said = plainly(engine.model, [*start, *(answer.tokens or ())])[len(start) - 1]
        both = torch.tensor([said[digits[0]], said[digits[9]]]).log_softmax(-1)  # the distribution that is sampled from
        assert (answer.logprobs or ())[0] == pytest.approx(float(both[int(answer.tokens[0] == digits[9])]), abs=5e-5)  # type: ignore[index]
    assert len({a.tokens for a in answers}) > 1
    assert not set(other.tokens or ()) <= set(digits)


def test_what_cannot_be_done_is_one_sentence(engine: LocalEngine) -> None:
    handle = engine.open([20, 21, 22])
    for wrong, sentence in (
        (lambda: engine.open([]), "at least one token"),
        (lambda: engine.open([20, 10**6]), "has the token 1000000"),
        (lambda: engine.rollback(handle, 3), "cannot take back 3"),
        (lambda: engine.decode([handle, handle], GREEDY), "twice"),
        (lambda: engine.decode([handle], SamplingParams(n=2)), "not n = 2"),
        (lambda: engine.decode([engine.open([20], allowed=lambda _: [])], GREEDY), "allows no token"),
        (lambda: engine.free(handle) or engine.fork(handle, 2), "was freed"),
    ):
        with pytest.raises(TropismError, match=sentence):
            wrong()
    assert min(stop_tokens(engine.tokenizer)) in engine.batch.stops and engine.batch.idle
