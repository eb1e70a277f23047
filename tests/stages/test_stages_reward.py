"""The reward stage alone: it learns an order, and what it saves is a model that others load."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tropism.algorithms.kwise import KWise
from tropism.errors import TropismError
from tropism.formats.chat import Chat
from tropism.judges.reward_model import RewardModel
from tropism.models.adapters import Adapter
from tropism.models.folder import config_of, load_scalar, merge
from tropism.stages import reward
from tropism.stages._read import read_split
from tropism.stages.reward import HELD_OUT, Reward, ranked
from tropism.stages.sft import SFT
from tropism.store.folder import done
from tropism.store.groups import GROUPS_FILE, read_groups, write_groups
from tropism.store.run import Run
from tropism.tensors.tree import Tree
from tropism.train.loop import Learner
from tropism.train.optim import Optim
from tropism.types import Completion, Group, Judgment, Message

ANSWERS = ("days", "jours", "hari", "3 days", "4 jours")


def judged(n: int) -> Group:
    """A prompt with three of the answers; the judge prefers English, then French, then Malay."""
    picked = [ANSWERS[(n + 2 * k) % 5] for k in range(3)]
    scores = tuple(-float(next(i for i, w in enumerate(("days", "jours", "hari")) if w in a)) for a in picked)
    prompt = (Message("user", f"how many? {n}"),)
    meta = {"split": "test" if n % 5 == 0 else "train"}
    answers = tuple(map(Completion, picked))
    return Group(f"g{n}", prompt, answers, (Judgment("people", scores, "ordinal"),), meta=meta)


GROUPS = [judged(n) for n in range(40)]
FAST = {"passes": 8.0, "groups_per_step": 8, "optim": Optim(lr=1e-2)}


def written(groups: list[Group], folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    write_groups(groups, folder / GROUPS_FILE)
    return str(folder)


def cut_off(stage: Reward, update: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, int]:
    """What the stage leaves that is interrupted at this update and run again, and how many updates were begun in
    all."""
    count, whole = itertools.count(), Learner.update

    def cut(*args: Any) -> Any:
        if next(count) == update:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(Learner, "update", cut)
    with Run(folder, checkpoint_s=0) as run, pytest.raises(KeyboardInterrupt):
        run(stage, "reward")
    with Run(folder, checkpoint_s=0) as run:
        return run(stage, "reward"), next(count)


def plain_score(folder: Path, group: Group, score: str) -> list[float]:
    """What transformers itself says of each completion, one conversation at a time."""
    headed = score == "head"
    model = (AutoModelForSequenceClassification if headed else AutoModelForCausalLM).from_pretrained(folder).eval()
    words = AutoTokenizer.from_pretrained(folder)
    asked = [{"role": m.role, "content": m.content} for m in group.prompt]
    begin = len(words.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"])
    scores = []
    for completion in group.completions:
        turns = [*asked, {"role": "assistant", "content": completion.text}]
        ids = words.apply_chat_template(turns, return_tensors="pt", return_dict=True)["input_ids"]
        with torch.no_grad():
            logits = model(ids).logits[0]
        if headed:
            scores.append(logits[0].item())
            continue
        end = max(i for i, token in enumerate(ids[0].tolist()) if token == words.eos_token_id)
        logprobs = [logits[i - 1].log_softmax(0)[ids[0, i]].item() for i in range(begin, end + 1)]
        scores.append((sum(logprobs) / len(logprobs) - model.config.score_zero) / model.config.score_unit)
    return scores


@pytest.mark.parametrize("score", ["head", "likelihood"])
def test_it_learns_the_order_and_others_read_its_scores(
    run: Run, model_folder: str, tmp_path: Path, score: Any
) -> None:
    out = run(Reward(model_folder, written(GROUPS, tmp_path / "groups"), "people", score, **FAST))
    marked = list(read_groups(out / HELD_OUT))
    assert [g.id for g in marked] == [g.id for g in GROUPS if g.meta["split"] == "test"]
    right = total = 0
    for group in marked:
        truth, found = group.judgments[0].scores, group.judgment("reward_model")
        assert found is not None
        for i, j in itertools.combinations(range(3), 2):
            if truth[i] != truth[j]:
                total += 1
                right += (truth[i] > truth[j]) == (found.scores[i] > found.scores[j])
    assert total >= 20 and right / total > 0.9
    said = RewardModel(str(out)).judge(marked[:2])
    for group, judgment in zip(marked, said):
        assert judgment.scores == pytest.approx(plain_score(out, group, score), abs=1e-4)


@pytest.mark.parametrize("score", ["head", "likelihood"])
def test_saved_scores_have_standard_deviation_one_and_held_out_scores_are_log_odds(
    run: Run, model_folder: str, tmp_path: Path, score: Any
) -> None:
    out = run(Reward(model_folder, written(GROUPS, tmp_path / "groups"), "people", score, **FAST))
    train = [g for g in GROUPS if g.meta["split"] == "train"]
    scores = [s for j in RewardModel(str(out)).judge(train) for s in j.scores]
    assert np.std(scores, ddof=1) == pytest.approx(1.0, abs=1e-3)
    assert score == "head" or np.mean(scores) == pytest.approx(0.0, abs=1e-3)
    marked = list(read_groups(out / HELD_OUT))
    saved = np.array([s for j in RewardModel(str(out)).judge(marked) for s in j.scores])
    trained = np.array([s for g in marked for s in g.judgments[-1].scores])
    scale = config_of(out).score_scale
    assert trained - trained[0] == pytest.approx(scale * (saved - saved[0]), abs=1e-3)
    meta = done(out.parent)
    assert meta is not None
    # Plackett-Luce by hand, in the scale of the held-out scores
    losses = []
    for group in marked:
        s, r = group.judgments[-1].scores, group.judgments[0].scores
        tails = [[s[j] for j in range(3) if r[j] <= r[i]] for i in range(3)]
        centre = 0.01 * np.mean(s) ** 2
        losses.append(sum(np.log(np.sum(np.exp(t))) - s[i] for i, t in enumerate(tails) if len(t) > 1) + centre)
    assert meta["facts"]["held_out_loss"] == pytest.approx(np.mean(losses), abs=1e-3)


def test_of_many_groups_some_set_the_unit_of_the_saved_scores(
    run: Run, model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """32 training groups, of which every fourth sets the unit: more than 9 are not looked at."""
    monkeypatch.setattr(reward, "LAST_GROUPS", 9)
    out = run(Reward(model_folder, written(GROUPS, tmp_path / "groups"), "people", "likelihood", **FAST))
    train = [g for g in GROUPS if g.meta["split"] == "train"]
    scores = [s for j in RewardModel(str(out)).judge(train[::4]) for s in j.scores]
    assert (np.mean(scores), np.std(scores, ddof=1)) == pytest.approx((0.0, 1.0), abs=1e-3)


@pytest.mark.parametrize("from_sft", [False, True])
def test_it_begins_with_the_weights_of_base_or_of_sft(
    run: Run, model_folder: str, tmp_path: Path, from_sft: bool
) -> None:
    """With a learning rate of next to nothing the backbone that comes out is the one that went in."""
    start = model_folder
    if from_sft:
        records = [
            {"messages": [{"role": "user", "content": str(n)}, {"role": "assistant", "content": "jours"}]}
            for n in range(8)
        ]
        (tmp_path / "chats.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        start = str(
            run(SFT(model_folder, Chat(str(tmp_path / "chats.jsonl")), steps=2, groups_per_step=4, held_out=0.0))
        )
        before, after = (load_scalar(path).base_model.state_dict() for path in (model_folder, start))
        assert any(not before[name].equal(after[name]) for name in before)
    path = written(GROUPS, tmp_path / "groups")
    out = run(Reward(start, path, "people", passes=0.2, optim=Optim(lr=1e-30)))
    given, found = (load_scalar(folder).base_model.state_dict() for folder in (start, out))
    assert given.keys() == found.keys() and all(given[name].equal(found[name]) for name in given)
    trained = run(Reward(start, path, "people", **FAST), "trained")
    best = sum(max(range(3), key=lambda k: j.scores[k]) in _best(g) for g, j in _judged(trained))
    assert best >= 7  # of 8 held-out prompts


def _judged(folder: Path) -> list[tuple[Group, Any]]:
    held_out = [g for g in GROUPS if g.meta["split"] == "test"]
    return list(zip(held_out, RewardModel(str(folder)).judge(held_out)))


def _best(group: Group) -> list[int]:
    scores = group.judgments[0].scores
    return [k for k, s in enumerate(scores) if s == max(x for x in scores if x is not None)]


def test_a_model_without_a_chat_template_is_refused_for_chats_and_takes_raw_text(
    run: Run, bare_folder: str, tmp_path: Path
) -> None:
    path = written(GROUPS, tmp_path / "groups")
    says = 'use a model that has one, such as the result of an sft stage with chat_template = "tropism"'
    with pytest.raises(TropismError, match=says):
        run(Reward(bare_folder, path, "people"))
    raw = [replace(g, prompt=(Message("text", g.prompt[0].content),)) for g in GROUPS]
    out = run(Reward(bare_folder, written(raw, tmp_path / "raw"), "people", passes=1.0, groups_per_step=8), "raw")
    assert (out / "model.safetensors").exists()


def test_the_stage_s_id_is_its_seed(run: Run, model_folder: str, tmp_path: Path) -> None:
    """Members of an ensemble are the same entry under other ids."""
    stage = Reward(model_folder, written(GROUPS, tmp_path / "groups"), "people", passes=1.0, groups_per_step=8)
    a, b = (RewardModel(str(run(stage, id))).judge(GROUPS[:1])[0].scores for id in ("reward_a", "reward_b"))
    assert np.abs(np.subtract(a, b)).max() > 1e-4


@pytest.mark.parametrize(
    ("scale", "rewards"),
    [("interval", (0.5, 2.5, None, 0.5)), ("ordinal", (-2.0, -1.0, None, -2.0))],
)
def test_a_margin_goes_by_an_interval_judge_s_scores_and_by_an_ordinal_one_s_ranks(scale: Any, rewards: Any) -> None:
    group = replace(
        GROUPS[0], completions=(Completion("a"),) * 4, judgments=(Judgment("j", (0.5, 2.5, None, 0.5), scale),)
    )
    found = ranked(group, "j", Tree("g0", (1,), ((2,),) * 4, ((True,),) * 4, (True,) * 4))
    assert (found.rank, found.reward) == ((2, 1, 0, 2), rewards)


def test_a_margin_widens_the_scores(run: Run, model_folder: str, tmp_path: Path) -> None:
    """The judge's ranks are up to two apart: with 3 a rank, the log-odds that the loss is content with are larger."""
    path = written(GROUPS, tmp_path / "groups")
    spread = []
    for margin in (0.0, 3.0):
        out = run(
            Reward(model_folder, path, "people", algorithm=KWise("all_pairs", margin=margin), **FAST), f"m{margin}"
        )
        spread.append(load_scalar(out).config.score_scale)
    assert spread[1] > 1.2 * spread[0]


def test_a_group_of_one_completion_is_refused(run: Run, model_folder: str, tmp_path: Path) -> None:
    alone = replace(GROUPS[7], completions=GROUPS[7].completions[:1], judgments=(Judgment("people", (1.0,)),))
    path = written([*GROUPS[:7], alone], tmp_path / "groups")
    with pytest.raises(TropismError, match="group g7 has 1 completion, but a reward model needs at least two"):
        run(Reward(model_folder, path, "people"))


def test_a_judge_that_did_not_look_is_named_with_those_that_did(run: Run, model_folder: str, tmp_path: Path) -> None:
    path = written(GROUPS, tmp_path / "groups")
    with pytest.raises(TropismError, match="group g1 has no judgment by 'poeple' .it has: people.: name one of those"):
        run(Reward(model_folder, path, "poeple"))


def test_groups_that_are_all_held_out_are_refused(run: Run, model_folder: str, tmp_path: Path) -> None:
    path = written([replace(g, meta={"split": "test"}) for g in GROUPS], tmp_path / "groups")
    with pytest.raises(TropismError, match="has no training groups: lower `test` in the label stage"):
        run(Reward(model_folder, path, "people"))


def test_without_held_out_groups_there_is_a_model_all_the_same(run: Run, model_folder: str, tmp_path: Path) -> None:
    path = written([replace(g, meta={}) for g in GROUPS[:8]], tmp_path / "groups")
    out = run(Reward(model_folder, path, "people", passes=1.0))
    assert not (out / HELD_OUT).exists() and (out / "model.safetensors").exists()


@pytest.mark.parametrize("merged", [False, True])
def test_a_likelihood_may_be_that_of_an_adapter(run: Run, model_folder: str, tmp_path: Path, merged: bool) -> None:
    path = written(GROUPS, tmp_path / "groups")
    out = run(Reward(model_folder, path, "people", "likelihood", adapter=Adapter(r=4), **FAST))
    (marked, *_) = read_groups(out / HELD_OUT)
    scale = RewardModel(str(out)).judge([marked])[0].scores
    if merged:
        merge(out, tmp_path / "whole")
        assert RewardModel(str(tmp_path / "whole")).judge([marked])[0].scores == pytest.approx(scale, abs=1e-4)
    trained = np.array(marked.judgments[-1].scores)
    note = json.loads((out / "base.json").read_text())
    assert trained - trained[0] == pytest.approx(note["score_scale"] * (np.array(scale) - scale[0]), abs=1e-3)


def test_a_likelihood_knows_before_training_which_answer_is_likely(run: Run, model_folder: str, tmp_path: Path) -> None:
    """A head scores all alike before its first update."""
    path = written(GROUPS, tmp_path / "groups")
    little = {"passes": 0.2, "optim": Optim(lr=1e-30)}
    out = run(Reward(model_folder, path, "people", "likelihood", **little))
    with pytest.raises(TropismError, match="has not learned to score"):
        RewardModel(model_folder).judge(GROUPS[:1])
    for group, judgment in zip(GROUPS[:4], RewardModel(str(out)).judge(GROUPS[:4])):
        assert judgment.scores == pytest.approx(plain_score(out, group, "likelihood"), abs=1e-4)
        assert len(set(judgment.scores)) > 1


def test_a_likelihood_that_was_cut_off_goes_on_to_the_same_weights_and_units(
    model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Reward(model_folder, written(GROUPS, tmp_path / "groups"), "people", "likelihood", **FAST)
    with Run(tmp_path / "whole") as run:
        whole = run(stage, "reward")
    again, updates = cut_off(stage, 20, tmp_path / "cut", monkeypatch)
    assert updates < 40  # of 32 updates: it went on, it did not begin again
    for name in ("model.safetensors", "config.json"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("scores", [(None, None, None), (1.0, None, None), (2.0, 2.0, 2.0)])
def test_groups_that_rank_nothing_do_no_harm(run: Run, model_folder: str, tmp_path: Path, scores: Any) -> None:
    silent = [replace(g, judgments=(Judgment("people", scores),)) for g in GROUPS[:8]]
    path = written([*silent, *GROUPS[8:16]], tmp_path / "groups")
    out = run(Reward(model_folder, path, "people", passes=2.0, groups_per_step=4))
    assert all(np.isfinite(s) for j in RewardModel(str(out)).judge(GROUPS[:4]) for s in j.scores if s is not None)


def test_a_group_that_is_too_long_is_named_or_left_out(run: Run, model_folder: str, tmp_path: Path) -> None:
    long = replace(GROUPS[6], completions=(Completion("x" * 400), *GROUPS[6].completions[1:]))
    path = written([*GROUPS[:6], long], tmp_path / "groups")
    with pytest.raises(TropismError, match="group g6 needs .* tokens and the model's context is 128"):
        run(Reward(model_folder, path, "people"))
    out = run(Reward(model_folder, path, "people", passes=1.0, too_long="skip"))
    meta = done(out.parent)
    assert meta is not None and meta["facts"]["too_long"] == 1


def test_with_a_limit_only_the_first_groups_are_read(tmp_path: Path) -> None:
    """The sides of the split stay; with two stages what one holds out beyond the limit is held out too."""
    groups = [
        Group(f"{n}", (Message("user", f"p{n}"),), meta={"split": "test" if n % 4 == 0 else "train"}) for n in range(40)
    ]
    write_groups(groups, tmp_path / "one.parquet")
    write_groups([replace(g, meta={"split": "train"}) for g in groups], tmp_path / "two.parquet")
    one, two = str(tmp_path / "one.parquet"), str(tmp_path / "two.parquet")
    train, test = read_split(one, 10)
    assert [g.id for g in train] == ["1", "2", "3", "5", "6", "7", "9"] and [g.id for g in test] == ["0", "4", "8"]
    assert [g.id for g in read_split((two, one), 10)[0]] == [g.id for g in train]
    assert [len(side) for side in read_split(one)] == [30, 10]
