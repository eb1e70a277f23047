"""The rest stage: who survives by hand, what a Grow step samples again, and the numbers of the log from the samples."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from tropism.algorithms.awr import AWR
from tropism.algorithms.dpo import DPO
from tropism.algorithms.gold import GOLD
from tropism.algorithms.kto import KTO
from tropism.algorithms.nll import NLL
from tropism.algorithms.vmpo import VMPO
from tropism.engines.local import LocalEngine
from tropism.errors import TropismError
from tropism.formats.phrasebook import Phrasebook
from tropism.formats.prompts import Prompts
from tropism.judges.reward_model import RewardModel
from tropism.judges.verifier import Verifier
from tropism.models.folder import load_scalar, save
from tropism.stages._samples import weights_of
from tropism.stages._survivors import filtered, survivors
from tropism.stages.rest import ReST
from tropism.store.folder import done, read_metrics
from tropism.store.groups import GROUPS_FILE, read_groups
from tropism.store.run import Run
from tropism.tensors.collate import collate
from tropism.tensors.tree import Tree
from tropism.text.chat import prompt_tokens
from tropism.text.tokenizer import load_tokenizer
from tropism.train.optim import Optim
from tropism.types import Completion, Group, Judgment, Message, SamplingParams


def group(texts: Sequence[str], scores: Sequence[float | None], id: str = "g") -> Group:
    prompt = (Message("user", "?"),)
    return Group(id, prompt, tuple(Completion(t) for t in texts), (Judgment("judge", tuple(scores)),))


def test_survivors_of_a_value() -> None:
    found = [group("abc", (1.0, 3.0, 2.0)), group("de", (1.9, -5.0)), group("fg", (None, float("nan")))]
    assert survivors(found, 2.0, "value") == [[1], [], []]  # at the threshold is not above it
    assert survivors(found, 1.9, "value") == [[1, 2], [], []]  # the best first
    assert survivors(found, -6.0, "value") == [[1, 2, 0], [0, 1], []]
    assert survivors(found, 3.5, "value") == [[], [], []]


def test_survivors_of_a_quantile_over_all_prompts() -> None:
    """Five scores 0 1 2 3 10: their median is 2; the 0.6-quantile lies at place 2.4, which is 2.4."""
    found = [group("abc", (10.0, 2.0, 3.0)), group("def", (0.0, 1.0, None))]
    assert survivors(found, 0.5, "quantile") == [[0, 2], []]
    assert survivors(found, 0.4, "quantile") == [[0, 2, 1], []]  # 1.6
    assert survivors(found, 0.0, "quantile") == [[0, 2, 1], [1]]  # all but the worst


def test_survivors_of_a_quantile_of_each_prompt() -> None:
    """Medians 3 and 0.5: a prompt has its own."""
    found = [group("abc", (10.0, 2.0, 3.0)), group("def", (0.0, 1.0, None)), group("gh", (None, None))]
    assert survivors(found, 0.5, "prompt") == [[0], [1], []]
    assert survivors(found, 0.0, "prompt") == [[0, 2], [1], []]


@pytest.mark.parametrize(("share", "kept"), [(0.0, 7), (0.25, 6), (0.5, 4), (0.7, 3), (0.85, 2), (0.9, 1), (0.99, 1)])
def test_the_share_asked_for_comes_out_where_no_scores_tie(share: float, kept: int) -> None:
    """Of eight, about (1 - share) · 8; 0 leaves out the worst alone."""
    eight = group("abcdefgh", (0.3, -1.0, 2.0, 0.1, 5.0, 0.2, 9.0, 0.25))
    best = [6, 4, 2, 0, 7, 5, 3, 1]
    assert survivors([eight], share, "prompt") == [best[:kept]] == survivors([eight], share, "quantile")


SHARES = (0.0, 0.3, 0.5, 0.7, 0.9)


@pytest.mark.parametrize("share", SHARES)
def test_right_and_wrong_answers_are_told_apart_at_every_share(share: float) -> None:
    """Rewards of 0 and 1: of a prompt that is sometimes solved what is right survives, however many that are; where all
    are alike nothing does, or with a floor all that are right."""
    rows = [(0.0,) * 8, (1.0,) * 8, (0, 0, 0, 0, 0, 1, 1, 1), (0, 1, 1, 1, 1, 1, 1, 1), (0, 0, 0, 0, 0, 0, 0, 1)]
    found = [group("abcdefgh", row) for row in rows]
    right = [[k for k, s in enumerate(row) if s == 1] for row in rows]
    assert survivors(found, share, "prompt") == [[], [], *right[2:]]
    assert survivors(found, share, "prompt", floor=0.5) == right
    assert survivors(found, share, "quantile") == right  # over all prompts nothing is alike
    assert survivors(found[:1], share, "quantile") == survivors(found[1:2], share, "quantile") == [[]]
    assert survivors(found[:1], share, "quantile", floor=0.5) == [[]]
    assert survivors(found[1:2], share, "quantile", floor=0.5) == [[*range(8)]]


def test_a_floor_is_under_every_survivor() -> None:
    """The median of the first is 0.2, of the second 3; above the floor of 1 the first has one."""
    found = [group("abcd", (0.1, 0.0, 0.3, 1.5)), group("ef", (4.0, 2.0)), group("gh", (1.0, 1.0))]
    assert survivors(found, 0.5, "prompt") == [[3, 2], [0], []]
    assert survivors(found, 0.5, "prompt", floor=1.0) == [[3], [0], []]
    assert survivors(found, 0.5, "prompt", floor=-9.0) == [[3, 2], [0], [0, 1]]


def test_copies_are_dropped_and_a_prompt_has_at_most_so_many() -> None:
    found = [group(["a", "a", "b", "a", "c"], (1.0, 2.0, 2.0, 2.0, 0.0))]
    assert survivors(found, -1.0, "value") == [[1, 2, 4]]  # the best of the copies, the first of the best
    assert survivors(found, -1.0, "value", most=2) == [[1, 2]]
    assert survivors([*found, group("ab", (5.0, 6.0))], 0.0, "value", most=1) == [[1], [1]]


def test_filtered() -> None:
    five = group(["a", "b", "b", "c", "d"], (3.0, 5.0, 5.0, 1.0, None))
    tokens = ((1, 9), (2, 9), (2, 9), (3,), (4, 9))
    flags = tuple((True,) * len(t) for t in tokens)
    whole = Tree(
        "g", (7, 8), tokens, flags, (True, True, True, False, True), logprobs=tuple((0.0,) * 2 for _ in "abcde")
    )
    plain = filtered(five, [1, 0], whole, ranked=False)
    assert plain == Tree("g", (7, 8), ((2, 9), (1, 9)), flags[:2], (True, True), reward=(5.0, 3.0), baseline=14 / 4)
    ranked = filtered(five, [1, 0], whole, ranked=True)
    assert ranked.rank == (1, 1, 0, 2, 0)  # a copy of a survivor is not worse than it; without a score there is no rank
    assert ranked.completions == tokens and ranked.reward == (3.0, 5.0, 5.0, 1.0, None) and ranked.logprobs is None


@pytest.mark.parametrize(
    "algorithm", [AWR(temperature=0.5, limit=100.0), VMPO(epsilon=0.05)], ids=lambda a: type(a).__name__
)
def test_a_lone_survivor_is_weighed_against_all_samples(algorithm: Any) -> None:
    """The best of four is 0.75 above the mean of its prompt's samples, or 2, or 1, with an unscored one among them."""
    trees = []
    for n, row in enumerate([(1.0, 0.0, 0.0, 0.0), (3.0, 1.0, 1.0, -1.0), (None, 1.5, 0.5, -0.5)]):
        best = row.index(max(s for s in row if s is not None))
        tokens, trained = ((1, 9),) * 4, ((True, True),) * 4
        whole = Tree(f"{n}", (7, 8), tokens, trained, (True,) * 4)
        trees.append(filtered(group("abcd", row), [best], whole, ranked=False))
    batch = algorithm.credit(collate(trees, 10**9))
    weights = batch.need("advantages_BT")[batch.completion_BT >= 0].view(3, 2)[:, 0].tolist()
    above = [0.75, 2.0, 1.0]
    if isinstance(algorithm, AWR):
        assert weights == pytest.approx([math.exp(a / 0.5) for a in above])
    else:  # the better half, at and above the median of 1, the better one more
        assert weights[0] == 0 and weights[1] > 1 > weights[2] > 0 and sum(weights) == pytest.approx(2)


def test_the_name_of_weights_takes_any_dtype(make_model: Any) -> None:
    model, other = make_model(), make_model(seed=1)
    assert weights_of(model) == weights_of(make_model()) != weights_of(other)
    assert weights_of(model.bfloat16()) != weights_of(other.bfloat16())


ASKED = Phrasebook("prompts", count=8)


def letters(completion: str) -> float:
    """More letters, more reward."""
    return min(sum("a" <= sign <= "z" for sign in completion) / 8, 2.0)


def fewer(completion: str) -> float:
    return -letters(completion)


def length(completion: str) -> float:
    return float(len(completion))


def rest(policy: str, **settings: Any) -> ReST:
    small = {
        "prompts": ASKED,
        "judge": Verifier(letters),
        "thresholds": (0.5,),
        "sampling": SamplingParams(n=4, max_tokens=8),
        "steps": 2,
        "groups_per_step": 4,
        "optim": Optim(lr=1e-2, schedule="constant", warmup=0.0),
    }
    return ReST(policy=policy, **{**small, **settings})


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts each call of the engine was asked, from now on."""
    calls: list[int] = []
    generate = LocalEngine.generate

    def counted(self: LocalEngine, prompts: Any, params: SamplingParams) -> Any:
        calls.append(len(prompts))
        return generate(self, prompts, params)

    monkeypatch.setattr(LocalEngine, "generate", counted)
    return calls


def grown(out: Path) -> list[bool]:
    """Whether each Grow step found its samples there."""
    return [line["reused"] for line in read_metrics(out.parent) if "reused" in line]


def samples(run: Run) -> list[Group]:
    """The groups of the only samples in a run folder."""
    (folder,) = (run.folder / "samples").iterdir()
    return list(read_groups(folder))


def test_another_threshold_or_loss_samples_nothing_again(run: Run, model_folder: str, sampled: list[int]) -> None:
    assert grown(run(rest(model_folder))) == [False] and sampled == [8]
    for other in (
        {"thresholds": (0.2, 0.9), "by": "quantile"},
        {"thresholds": (0.1,), "by": "value", "per_prompt": 1},
        {"algorithm": AWR()},
        {"algorithm": DPO()},
        {"steps": 1, "truth": Verifier(length), "groups_per_step": 2},
    ):
        assert grown(run(rest(model_folder, **other))) == [True]
    assert sampled == [8]
    assert grown(run(rest(model_folder, grows=2))) == [True, False] and sampled == [8, 8]


def scorer(folder: Path) -> PreTrainedModel:
    """A reward model with a head that is not zero."""
    model = load_scalar(folder)
    torch.nn.init.normal_(model.get_submodule("score").get_parameter("weight"))
    return model


def test_what_the_samples_depend_on_samples_again(
    run: Run, tmp_path: Path, model_folder: str, other_folder: str, sampled: list[int]
) -> None:
    asked, policy, reward = tmp_path / "asked.txt", tmp_path / "policy", tmp_path / "reward"
    asked.write_text("one\ntwo\n")
    shutil.copytree(model_folder, policy)
    words = load_tokenizer(model_folder)
    save(scorer(model_folder), words, reward)
    settings: dict[str, Any] = {"prompts": Prompts(str(asked)), "judge": RewardModel(str(reward)), "by": "value"}
    settings["thresholds"] = (-100.0,)
    stage = rest(str(policy), **settings)
    assert grown(run(stage)) == [False]
    assert grown(run(replace(stage, steps=1))) == [True]
    save(scorer(other_folder), words, reward)  # another reward model in the same place
    assert grown(run(stage)) == [False]
    asked.write_text("one\nthree\n")
    assert grown(run(stage)) == [False]
    assert grown(run(replace(stage, sampling=SamplingParams(n=5, max_tokens=8)))) == [False]
    assert grown(run(replace(stage, judge=Verifier(length)))) == [False]
    assert grown(run(replace(stage, judge=Verifier(letters)))) == [False]
    assert grown(run(replace(stage, policy=other_folder))) == [False]
    template = policy / "chat_template.jinja"  # the same weights read the prompts in another way
    template.write_text(template.read_text("utf-8").replace("'<|'", "'!<|'"))
    assert grown(run(stage)) == [False]
    assert sampled == [2] * 8


def test_the_log_says_what_was_kept(run: Run, model_folder: str) -> None:
    stage = rest(
        model_folder,
        judge=Verifier(lambda completion: None if len(completion) % 3 == 0 else letters(completion)),
        truth=Verifier(length),
        thresholds=(0.2, 0.4),
        by="value",
    )
    out = run(stage)
    lines = read_metrics(out.parent)
    first, improves = lines[0], [line for line in lines if "improve" in line]
    groups = samples(run)
    everything = [(g.judgments[0].scores[k], c) for g in groups for k, c in enumerate(g.completions)]
    scored = [(s, c.text) for s, c in everything if s is not None]
    assert 0 < len(scored) < len(everything) == 32
    assert first["grow"] == 1 and first["reused"] is False
    assert first["generated"] == sum(len(c.tokens or ()) for _, c in everything)
    assert_seen(first, scored, [c.text for _, c in everything])
    assert [(line["improve"], line["threshold"], line["step"]) for line in improves] == [(1, 0.2, 2), (2, 0.4, 4)]
    for line in improves:
        kept = []
        for g in groups:
            best = {}
            for s, c in zip(g.judgments[0].scores, g.completions):
                if s is not None and s > line["threshold"]:
                    best[c.text] = s
            kept.append([(s, text) for text, s in best.items()])
        assert line["kept_share"] == pytest.approx(sum(map(len, kept)) / 32)
        assert line["prompts_without"] == sum(not row for row in kept)
        assert_seen(line, [pair for row in kept for pair in row], [text for row in kept for _, text in row])
    assert improves[0]["kept_share"] > improves[1]["kept_share"] > 0


def assert_seen(line: Any, scored: list[tuple[float, str]], texts: list[str]) -> None:
    """Mean reward and truth, and a histogram of 20 bins from the least to the largest score, the last one closed."""
    rewards = [s for s, _ in scored]
    assert line["reward"] == pytest.approx(sum(rewards) / len(rewards))
    assert line["truth"] == pytest.approx(sum(map(len, texts)) / len(texts))  # the truth scores all
    counts, edges = line["histogram"]["counts"], line["histogram"]["edges"]
    assert edges[0] == pytest.approx(min(rewards)) and edges[-1] == pytest.approx(max(rewards)) and len(counts) == 20
    place = [min(int((r - edges[0]) / (edges[-1] - edges[0]) * 20 + 1e-9), 19) for r in rewards]
    assert counts == [place.count(b) for b in range(20)]


def test_tokens_are_counted(run: Run, model_folder: str) -> None:
    """With all prompts in every update each tree is trained once in it. A token is sampled once (its prompt once for
    all samples), and costs a forward pass and a backward pass, at twice the price, of the policy in each update."""
    out = run(rest(model_folder, thresholds=(-1.0,), by="value", groups_per_step=8, steps=3))
    words, trained = load_tokenizer(model_folder), 0
    for g in samples(run):
        unique = {c.text: len(c.tokens or ()) for c in reversed(g.completions)}
        trained += len(prompt_tokens(words, g.prompt)) + sum(unique.values())
    facts = done(out.parent)["facts"]  # type: ignore[index]
    generated = sum(len(c.tokens or ()) for g in samples(run) for c in g.completions)
    prompts = sum(len(prompt_tokens(words, g.prompt)) for g in samples(run))
    spent = prompts + generated + 3 * 3 * trained
    assert facts == {"tokens_generated": generated, "tokens_trained": 3 * trained, "tokens_spent": spent}
    out = run(rest(model_folder, grows=3))
    grown = [line["generated"] for line in read_metrics(out.parent) if "reused" in line]
    assert len(grown) == 3 and done(out.parent)["facts"]["tokens_generated"] == sum(grown)  # type: ignore[index]


def test_the_reward_rises_from_grow_to_grow(run: Run, model_folder: str) -> None:
    out = run(rest(model_folder, grows=3, steps=8, thresholds=(0.5, 0.8), prompts=Phrasebook("prompts", count=16)))
    lines = read_metrics(out.parent)
    grows = [line["reward"] for line in lines if "reused" in line]
    assert len(grows) == 3 and grows[2] > 1.5 * grows[0] > 0 and grows[2] > grows[1] > grows[0]
    assert [line["step"] for line in lines if "improve" in line] == [8, 16, 24, 32, 40, 48]
    assert all(line["reward"] > grows[line["grow"] - 1] for line in lines if "improve" in line)


@pytest.mark.parametrize(
    "algorithm", [GOLD(), AWR(), VMPO(), DPO(likelihood="sigmoid")], ids=lambda a: type(a).__name__
)
def test_other_losses_raise_the_reward_too(run: Run, model_folder: str, algorithm: Any) -> None:
    prompts, sampling = Phrasebook("prompts", count=16), SamplingParams(n=16, max_tokens=8)
    settings = {"prompts": prompts, "sampling": sampling, "grows": 3, "steps": 16, "thresholds": (0.75,)}
    out = run(rest(model_folder, algorithm=algorithm, by="quantile", **settings))
    grows = [line["reward"] for line in read_metrics(out.parent) if "reused" in line]
    assert grows[2] > grows[0] + 0.2


def test_each_improve_goes_on_at_a_lower_rate(run: Run, model_folder: str) -> None:
    def weights(**settings: Any) -> Any:
        return AutoModelForCausalLM.from_pretrained(run(rest(model_folder, **settings), "rest")).state_dict()

    one, still, two = weights(), weights(thresholds=(0.5, 0.8), decay=1e-9), weights(thresholds=(0.5, 0.8))
    assert all(torch.allclose(one[k], still[k], atol=1e-7) for k in one)
    assert any(not torch.allclose(one[k], two[k], atol=1e-4) for k in one)


def test_damaged_samples_are_sampled_again(run: Run, model_folder: str, sampled: list[int]) -> None:
    run(rest(model_folder))
    before = [[c.tokens for c in g.completions] for g in samples(run)]
    damage(run)
    assert grown(run(rest(model_folder, steps=1))) == [False] and sampled == [8, 8]
    assert [[c.tokens for c in g.completions] for g in samples(run)] == before


INTERRUPTED: list[int] = []


def second(completion: str) -> float:
    """A truth that breaks off when it is asked about the second Grow step: after two Improve steps."""
    INTERRUPTED.append(1)
    if len(INTERRUPTED) == 32 + 1:
        raise KeyboardInterrupt
    return 0.0


def test_damaged_samples_that_a_checkpoint_builds_on_are_refused(tmp_path: Path, model_folder: str) -> None:
    stage = rest(model_folder, thresholds=(0.0, 0.5), grows=2, truth=Verifier(second))
    INTERRUPTED.clear()
    with Run(tmp_path, checkpoint_s=0) as run, pytest.raises(KeyboardInterrupt):
        run(stage)
    assert next(tmp_path.glob("rest-*/checkpoints/00000003")).exists()
    damage(run)
    with Run(tmp_path) as run, pytest.raises(TropismError) as caught:
        run(stage)
    unfinished = next(tmp_path.glob("rest-*"))
    assert "was removed or changed while rest was unfinished: delete" in str(caught.value)
    assert str(caught.value).endswith(f"delete {unfinished} as well")
    shutil.rmtree(unfinished)
    with Run(tmp_path) as run:
        assert grown(run(stage)) == [False, False]


def damage(run: Run) -> None:
    for file in (run.folder / "samples").glob(f"*/{GROUPS_FILE}"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


JUDGED: list[str] = []


def counted(completion: str) -> float:
    JUDGED.append(completion)
    return float(len(completion))


def test_the_truth_is_asked_once_a_grow(run: Run, model_folder: str) -> None:
    """Two Grow steps with three Improve steps each: 2 · 8 prompts · 4 samples, and the log as from the samples."""
    JUDGED.clear()
    stage = rest(model_folder, grows=2, thresholds=(0.0, 0.2, 0.4), truth=Verifier(counted))
    lines = read_metrics(run(stage).parent)
    assert len(JUDGED) == 2 * 8 * 4
    for number, line in enumerate(line for line in lines if "reused" in line):
        own = JUDGED[number * 32 : (number + 1) * 32]
        assert line["truth"] == pytest.approx(sum(map(len, own)) / 32)
    assert sum("truth" in line for line in lines) == 2 + 6


def test_without_survivors_it_stops(run: Run, model_folder: str) -> None:
    with pytest.raises(
        TropismError, match=r"^no sample of grow 1 is above the threshold 7.0: lower rest.thresholds, or"
    ):
        run(rest(model_folder, by="value", thresholds=(0.0, 7.0)))


@dataclass(frozen=True)
class Always:
    score: str  # a recipe's number is finite

    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        return [Judgment("always", (float(self.score),) * len(g.completions)) for g in groups]


@pytest.mark.parametrize(("score", "said"), [("nan", "no score to any completion of grow 1"), ("inf", "inf to")])
def test_a_judge_without_numbers_is_refused(run: Run, model_folder: str, score: str, said: str) -> None:
    with pytest.raises(TropismError, match=rf"the judge (\w+ )?gave {said}"):
        run(rest(model_folder, judge=Always(score)))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"thresholds": ()}, r"rest.thresholds = \[\] must rise: give at least one"),
        ({"thresholds": (0.7, 0.5)}, r"rest.thresholds = \[0.7, 0.5\] must rise"),
        ({"thresholds": (0.5, 0.5)}, r"rest.thresholds = \[0.5, 0.5\] must rise"),
        ({"thresholds": (0.5, 1.0)}, 'shares from 0 to below 1 unless by = "value"'),
        ({"sampling": SamplingParams(temperature=0.0)}, "temperature = 0 is greedy, so all samples are equal"),
        ({"sampling": SamplingParams(n=1)}, 'sampling.n = 1 leaves by = "prompt" nothing to compare: use 2 or more'),
        ({"by": "value", "floor": 0.5}, 'with by = "value" the thresholds are scores, so leave it out'),
        ({"algorithm": KTO()}, "needs answers to other prompts, which rest does not have"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(TropismError, match=said):
        rest("x/y", **settings)


def test_metrics_are_json_that_others_can_read(run: Run, model_folder: str) -> None:
    out = run(rest(model_folder, truth=Verifier(lambda completion: None)))
    for line in (out.parent / "metrics.jsonl").read_text("utf-8").splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_each_improve_may_have_a_loss_of_its_own(run: Run, model_folder: str) -> None:
    def weights(algorithm: Any) -> str:
        out = run(rest(model_folder, thresholds=(0.2, 0.4), algorithm=algorithm))
        return weights_of(AutoModelForCausalLM.from_pretrained(out))

    one = weights(NLL())
    assert weights((NLL(), NLL())) == one
    assert len({one, weights((NLL(), GOLD())), weights((GOLD(), NLL())), weights(GOLD())}) == 4
    with pytest.raises(TropismError, match="rest.algorithm has 1 losses for 2 thresholds"):
        rest(model_folder, thresholds=(0.2, 0.4), algorithm=(NLL(),))
