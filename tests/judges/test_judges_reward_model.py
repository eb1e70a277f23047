"""A reward model as a judge, against transformers one conversation at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tropism.errors import TropismError
from tropism.judges.reward_model import RewardModel
from tropism.models.folder import load_scalar, save
from tropism.types import Completion, Group, Message


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def folder(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    words: PreTrainedTokenizerFast,
    make_model: Callable[..., PreTrainedModel],
) -> str:
    made = tmp_path_factory.mktemp("reward")
    save(make_model(request.param), words, made / "lm")
    model = load_scalar(made / "lm")
    with torch.no_grad():
        head = model.get_submodule("score").get_parameter("weight")
        head.copy_(torch.randn(head.shape, generator=torch.Generator().manual_seed(0)))
    save(model, words, made / "reward")
    return str(made / "reward")


def group(n: int) -> Group:
    answers = tuple(Completion(text) for text in ("jours", "3 hari", "дней " * (n + 1), ""))
    return Group(f"g{n}", (Message("system", "be brief"), Message("user", f"{n} days?")), answers, target="secret")


GROUPS = [group(n) for n in range(5)]


def plain(folder: str, group: Group, text: str) -> float:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    words = AutoTokenizer.from_pretrained(folder)
    turns = [{"role": m.role, "content": m.content} for m in group.prompt] + [{"role": "assistant", "content": text}]
    ids = words.apply_chat_template(turns, return_tensors="pt", return_dict=True)["input_ids"]
    with torch.no_grad():
        return model(ids).logits[0, 0].item()


def test_scores_are_those_of_transformers(folder: str) -> None:
    for g, judgment in zip(GROUPS, RewardModel(folder).judge(GROUPS)):
        wanted = [plain(folder, g, c.text) for c in g.completions]
        assert judgment.scores == pytest.approx(wanted, abs=1e-4)
        assert (judgment.judge, judgment.scale) == ("reward_model@1", "interval")
        assert max(wanted) - min(wanted) > 0.01


def test_it_says_how_many_tokens_it_read(folder: str) -> None:
    """The prompt once, and each answer: what the answer adds to the conversation that transformers renders."""
    words = AutoTokenizer.from_pretrained(folder)
    for g, judgment in zip(GROUPS, RewardModel(folder).judge(GROUPS)):
        turns = [{"role": m.role, "content": m.content} for m in g.prompt]
        prompt = words.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
        answered = [[*turns, {"role": "assistant", "content": c.text}] for c in g.completions]
        whole = [words.apply_chat_template(t, return_dict=True)["input_ids"] for t in answered]
        assert judgment.tokens == len(prompt) + sum(len(w) - len(prompt) for w in whole)


def test_how_many_go_through_at_once_does_not_matter(folder: str) -> None:
    whole = [s for j in RewardModel(folder).judge(GROUPS) for s in j.scores]
    small = [s for j in RewardModel(folder, pass_tokens=1).judge(GROUPS) for s in j.scores]
    assert small == pytest.approx(whole, abs=1e-5, rel=5e-6)  # each is within 8e-6 of the score in double precision
    assert RewardModel(folder).judge([]) == []


def test_it_never_sees_the_reference(folder: str) -> None:
    without = [replace(g, target=None, meta={}) for g in GROUPS]
    assert RewardModel(folder).judge(without) == RewardModel(folder).judge(GROUPS)


def test_a_sampled_answer_is_read_by_its_own_tokens(folder: str) -> None:
    """Cut at the length limit there is no stop token, and the score is another than that of the finished answer."""
    words = AutoTokenizer.from_pretrained(folder)
    tokens = tuple(words.encode("3 hari", add_special_tokens=False))
    whole = (*tokens, words.eos_token_id)
    stopped = Completion("3 hari", whole, (True,) * len(whole), (0.0,) * len(whole))
    cut = Completion("3 hari", tokens, (True,) * len(tokens), (0.0,) * len(tokens), "length")
    (judgment,) = RewardModel(folder).judge([replace(GROUPS[0], completions=(cut, stopped, Completion("3 hari")))])
    assert judgment.scores[1] == pytest.approx(judgment.scores[2], abs=1e-5)
    assert judgment.scores[1] == pytest.approx(plain(folder, GROUPS[0], "3 hari"), abs=1e-4)
    assert abs((judgment.scores[0] or 0) - (judgment.scores[1] or 0)) > 1e-3


def test_an_answer_of_another_tokenizer_is_read_as_text(folder: str) -> None:
    words = AutoTokenizer.from_pretrained(folder)
    tokens = tuple(t + 1 for t in words.encode("3 hari", add_special_tokens=False))  # the same signs by other numbers
    foreign = Completion("3 hari", tokens, (True,) * len(tokens), (0.0,) * len(tokens))
    far = Completion("3 hari", (100_000,), (True,), (0.0,))
    (judgment,) = RewardModel(folder).judge([replace(GROUPS[0], completions=(foreign, far, Completion("3 hari")))])
    assert judgment.scores[:2] == pytest.approx([judgment.scores[2]] * 2, abs=1e-4)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(TropismError, match="no model is at .*: give a Hugging Face folder or id"):
        RewardModel(str(tmp_path)).judge(GROUPS)


def test_a_causal_lm_has_not_learned_to_score(folder: str) -> None:
    """Its head is zero: every score would be 0, and whoever chooses by it would keep the first."""
    with pytest.raises(TropismError, match=r"has not learned to score: name the result of a `reward` stage"):
        RewardModel(str(Path(folder).parent / "lm")).judge([group(1)])


def test_what_does_not_fit_the_reward_model_has_no_score(folder: str):
    """The policy's context may be the longer one: its longest answers are left unscored, the run goes on."""
    long = Completion("1 " * 200)
    short, other = Completion("7 days"), Completion("8 days")
    asked = Group("g", (Message("user", "7 jours"),), (short, long, other))
    beyond = Group("h", (Message("user", "7 jours " * 90),), (short, other))
    found = RewardModel(folder).judge([asked, beyond])
    (alone,) = RewardModel(folder).judge([replace(asked, completions=(short, other))])
    assert found[0].scores == (pytest.approx(alone.scores[0]), None, pytest.approx(alone.scores[1]))
    assert found[1].scores == (None, None)
