"""Answers that go on from given tokens: the same tokens, the same log-probabilities, whatever is asked beside them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import AutoModelForCausalLM, MambaConfig, PreTrainedModel, PreTrainedTokenizerFast

from tropism.engines._ways import way_of
from tropism.engines.local import LocalEngine
from tropism.errors import TropismError
from tropism.models.forward import predict_tokens
from tropism.models.layout import layout
from tropism.tensors.encode import tree
from tropism.text.chat import prompt_tokens, stop_tokens, text_of
from tropism.types import Completion, Group, Message, SamplingParams

PROMPTS = [(Message("user", "7 jours"),), (Message("user", "31 hari and more"),), (Message("text", "7 days"),)]
GREEDY = SamplingParams(max_tokens=14, temperature=0)


@pytest.fixture(params=["llama", "gpt2", "mamba"])
def model(
    request: pytest.FixtureRequest, words: PreTrainedTokenizerFast, make_model: Callable[..., PreTrainedModel]
) -> PreTrainedModel:
    """Likes to stop. Mamba takes no masks: rows of one length are run together."""
    if request.param != "mamba":
        made = make_model(request.param)
    else:
        torch.manual_seed(3)
        config = MambaConfig(
            vocab_size=len(words), hidden_size=32, state_size=4, num_hidden_layers=2, eos_token_id=words.eos_token_id
        )
        made = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
    assert (way_of(made) == "pages") == (request.param != "mamba")
    with torch.no_grad():
        made.get_output_embeddings().weight[words.eos_token_id] *= 2
    return made


def tokens_of(rows: list[tuple[Completion, ...]]) -> list[list[tuple[int, ...]]]:
    return [[c.tokens or () for c in row] for row in rows]


def test_greedy_goes_on_from_any_prefix_as_it_would_have(
    model: PreTrainedModel, words: PreTrainedTokenizerFast
) -> None:
    engine = LocalEngine(model, words, "p@1")
    whole = [row[0] for row in engine.generate(PROMPTS, GREEDY)]
    assert len({c.tokens for c in whole}) == 3
    for cut in range(1, 14):
        asked = [(p, c) for p, c in zip(PROMPTS, whole) if len(c.tokens or ()) > cut]
        if not asked:
            break
        prefixes = [(c.tokens or ())[:cut] for _, c in asked]
        rest = SamplingParams(max_tokens=14 - cut, temperature=0)
        for (_, free), (found,) in zip(asked, engine.generate([p for p, _ in asked], rest, prefixes)):
            assert (found.tokens, found.text, found.finish_reason) == (free.tokens, free.text, free.finish_reason)
            assert found.sampled == (False,) * cut + (True,) * (len(found.tokens or ()) - cut)
            assert len(found.logprobs or ()) == len(found.tokens or ()) and found.policy == "p@1"
    assert cut > 5


@torch.no_grad()
def test_log_probabilities_behind_a_prefix_are_those_of_the_trainer(
    model: PreTrainedModel, words: PreTrainedTokenizerFast
) -> None:
    sampling = SamplingParams(n=4, max_tokens=8, temperature=1.3, top_k=40, top_p=0.9, seed=5)
    prefixes = [tuple(words.encode(text, add_special_tokens=False)) for text in ("7 days", "3", "")]
    rows = LocalEngine(model, words).generate(PROMPTS, sampling, prefixes)
    groups = [Group(str(i), prompt, row) for i, (prompt, row) in enumerate(zip(PROMPTS, rows))]
    batch = layout([tree(g, words, 128) for g in groups], model)
    seen = batch.loss_mask_BT
    new = sum(len(c.tokens or ()) - len(prefix) for row, prefix in zip(rows, prefixes) for c in row)
    assert seen.sum() == new > 40  # a prefix is read and not trained
    trainer = predict_tokens(model, batch, sampling).need("logprobs_BT")
    assert torch.allclose(trainer[seen], batch.need("old_logprobs_BT")[seen], atol=2e-5)
    assert trainer[seen].std() > 0.1
    for row, prefix in zip(rows, prefixes):
        for answer in row:
            assert (answer.tokens or ())[: len(prefix)] == prefix
            assert (answer.logprobs or ())[: len(prefix)] == (0.0,) * len(prefix)
            assert answer.text == text_of(words, answer.tokens or ())
            assert len(answer.tokens or ()) - len(prefix) <= 8  # the limit counts what is new


def test_what_is_asked_beside_a_prefix_changes_nothing(model: PreTrainedModel, words: PreTrainedTokenizerFast) -> None:
    sampling = SamplingParams(n=3, max_tokens=8, seed=2)
    some = [tuple(words.encode(text, add_special_tokens=False)) for text in ("7", "7 days", "9")]
    prompts, prefixes = [*PROMPTS, PROMPTS[0], PROMPTS[0]], [*some, some[1], ()]
    together = tokens_of(LocalEngine(model, words).generate(prompts, sampling, prefixes))
    assert len({t for row in together for t in row}) == 15  # a prompt with another prefix is another question
    assert tokens_of(LocalEngine(model, words, rows=2).generate(prompts, sampling, prefixes)) == together
    assert tokens_of(LocalEngine(model, words).generate(prompts[::-1], sampling, prefixes[::-1])) == together[::-1]
    for prompt, prefix, row in zip(prompts, prefixes, together):
        assert tokens_of(LocalEngine(model, words).generate([prompt], sampling, [prefix])) == [row]
    plain = tokens_of(LocalEngine(model, words).generate(PROMPTS, sampling))
    assert tokens_of(LocalEngine(model, words).generate(PROMPTS, sampling, [(), (), ()])) == plain
    assert plain[0] == together[4]


def test_a_prompt_with_its_prefix_is_run_once_for_all_its_samples(
    llama: PreTrainedModel, words: PreTrainedTokenizerFast
) -> None:
    engine = LocalEngine(llama, words)
    engine.generate(PROMPTS[:1], SamplingParams(max_tokens=1))
    shapes: list[tuple[int, ...]] = []
    llama.get_input_embeddings().register_forward_hook(lambda _m, args, _out: shapes.append(tuple(args[0].shape)))
    engine.generate(PROMPTS[:1], SamplingParams(n=5, max_tokens=1), [(20, 21, 22)])
    assert shapes == [(1, len(prompt_tokens(words, PROMPTS[0])) + 3)]


def test_a_stop_string_is_looked_for_across_the_seam(llama: PreTrainedModel, words: PreTrainedTokenizerFast) -> None:
    engine = LocalEngine(llama, words)
    seams = []
    for prompt, (free,) in zip(PROMPTS, engine.generate(PROMPTS, GREEDY)):
        tokens = free.tokens or ()
        for cut in range(1, len(tokens)):
            head, more = text_of(words, tokens[:cut]), text_of(words, tokens[: cut + 1])
            if head and len(more) > len(head) and more.startswith(head) and more[len(head) - 1 :] not in head:
                seams.append((prompt, tokens[:cut], head, more[len(head) - 1 :]))
    assert len(seams) > 5
    for prompt, prefix, head, stop in seams:
        params = SamplingParams(max_tokens=3, temperature=0, stop=(stop,))
        found = engine.generate([prompt], params, [prefix])[0][0]
        assert (found.text, found.finish_reason) == (head[:-1], "stop")
        assert found.tokens is not None and found.tokens[:-1] == prefix


def test_a_finished_answer_and_one_too_long_are_refused(llama: PreTrainedModel, words: PreTrainedTokenizerFast) -> None:
    engine = LocalEngine(llama, words)
    end = min(stop_tokens(words))
    with pytest.raises(TropismError, match="contains a stop"):
        engine.generate(PROMPTS, SamplingParams(), [(), (20, end), ()])
    with pytest.raises(TropismError, match="a prefix of . tokens contains a stop"):
        engine.generate(PROMPTS[:1], SamplingParams(stop=("day",)), [words.encode("7 days", add_special_tokens=False)])
    room = 128 - len(prompt_tokens(words, PROMPTS[0]))
    engine.generate(PROMPTS[:1], SamplingParams(max_tokens=room - 2), [(20, 21)])
    with pytest.raises(TropismError, match="a prompt with its prefix of .* exceed the model's context of 128"):
        engine.generate(PROMPTS[:1], SamplingParams(max_tokens=room - 1), [(20, 21)])
