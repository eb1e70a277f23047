"""What the looks of a probe decide: when a stage ends, and the weights that are left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tropism.algorithms.rloo import RLOO
from tropism.errors import TropismError
from tropism.formats.phrasebook import Phrasebook
from tropism.judges.verifier import Verifier
from tropism.stages._probe import Probe
from tropism.stages.rl import RL
from tropism.store.folder import done, read_metrics
from tropism.store.progress import Reporter
from tropism.store.run import Run
from tropism.train.optim import Optim
from tropism.types import Group, Judgment, SamplingParams

HELD_OUT = Phrasebook("held_out", count=3)
CALLS = {"made": 0, "last": 0}


def length(completion: str) -> float:
    return float(len(completion))


def letters(completion: str) -> float:
    """More letters, more reward."""
    return min(sum("a" <= sign <= "z" for sign in completion) / 8, 2.0)


@dataclass(frozen=True)
class CutOff:
    """Longer is better; breaks off when it is called for the `last` time of CALLS."""

    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        CALLS["made"] += 1
        if CALLS["made"] == CALLS["last"]:
            raise KeyboardInterrupt
        return [Judgment("cut", tuple(length(c.text) for c in g.completions)) for g in groups]


PROBE = Probe(HELD_OUT, Verifier(length), Verifier(length), every=1)


def rl(policy: str, **settings: Any) -> RL:
    small = {
        "prompts": Phrasebook("prompts", count=16),
        "judge": CutOff(),
        "algorithm": RLOO(),
        "rounds": 4,
        "prompts_per_round": 4,
        "sampling": SamplingParams(n=2, max_tokens=8),
        "optim": Optim(lr=1e-2, schedule="constant", warmup=0.0),
        "probe": PROBE,
    }
    return RL(policy=policy, **{**small, **settings})


Seen = list[dict[str, torch.Tensor]]


def scripted(monkeypatch: pytest.MonkeyPatch, *figures: Mapping[str, Any]) -> Seen:
    """Makes the looks say these, one after another, and the same again of the same tokens spent; the weights that each
    of them saw."""
    rest, said, seen = iter(figures), {}, []
    CALLS.update(made=0, last=0)

    def look(probe: Probe, policy: Any, reference: Any, tokenizer: Any, spent: int) -> dict[str, Any]:
        if spent not in said:
            said[spent] = next(rest)
            seen.append({name: value.clone() for name, value in policy.state_dict().items()})
        return {"spent": spent, **said[spent]}

    monkeypatch.setattr(Probe, "look", look)
    return seen


def truths(*figures: float | None) -> list[dict[str, Any]]:
    return [{"probe_reward": float(i), **({} if t is None else {"probe_truth": t})} for i, t in enumerate(figures)]


def same(folder: Path, weights: Mapping[str, torch.Tensor]) -> bool:
    left = load_file(folder / "model.safetensors")
    return all(value.equal(weights[name]) for name, value in left.items())


def facts(out: Path) -> dict[str, Any]:
    meta = done(out.parent)
    assert meta is not None
    return meta["facts"]


def test_the_best_look_by_the_truth_is_the_result_and_the_end_lies_beside_it(
    run: Run, model_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looks before the first round and after each of four; a look without a truth is passed over, an equal one too."""
    seen = scripted(monkeypatch, *truths(0.1, None, 0.7, 0.7, 0.3))
    out = run(rl(model_folder, keep="best"))
    assert len(seen) == 5 and not same(out, seen[4])
    assert same(out, seen[2]) and same(out / "last", seen[4])
    assert facts(out)["best_round"] == 2 and facts(out)["best_truth"] == 0.7
    assert [line["round"] for line in read_metrics(out.parent)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("settings", "best"),
    [
        ({"keep": "best", "keep_by": "reward"}, 4),  # the rewards rise from look to look
        ({"keep": "best", "probe": replace(PROBE, truth=None)}, 4),
        ({"keep": "best", "keep_by": "truth"}, 0),  # as it was before the first round
        ({}, None),
    ],
    ids=["by reward", "no truth", "by truth", "last"],
)
def test_which_figure_chooses(
    run: Run, model_folder: str, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], best: int | None
) -> None:
    seen = scripted(monkeypatch, *truths(0.9, 0.1, 0.7, 0.2, 0.3))
    out = run(rl(model_folder, **settings))
    assert same(out, seen[4 if best is None else best])
    assert (out / "last").exists() == (best is not None) and facts(out).get("best_round") == best


def test_without_a_figure_at_any_look_there_is_no_best(
    run: Run, model_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, *truths(*[None] * 5))
    with pytest.raises(TropismError, match="no look of the probe has a truth to keep by: name another judge"):
        run(rl(model_folder, keep="best"))


def cut_off(stage: RL, folder: Path, last: int) -> Path:
    """The result of a stage whose judge breaks off at its call number `last`, and that is then continued."""
    CALLS.update(made=0, last=last)
    with Run(folder, checkpoint_s=0, reporter=Reporter(quiet=True)) as run, pytest.raises(KeyboardInterrupt):
        run(stage)
    CALLS["last"] = 0
    with Run(folder, checkpoint_s=0, reporter=Reporter(quiet=True)) as run:
        return run(stage)


def test_cut_off_after_the_best_look_it_still_leaves_the_best(
    tmp_path: Path, model_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best weights come out of the checkpoint."""
    seen = scripted(monkeypatch, *truths(0.1, 0.8, 0.7, 0.2, 0.3))
    stage = rl(model_folder, keep="best")
    with Run(tmp_path / "whole", reporter=Reporter(quiet=True)) as run:
        whole = run(stage)
    again = cut_off(stage, tmp_path / "cut", last=4)
    assert same(again, seen[1]) and len(seen) == 5  # no look saw more or other tokens spent
    for name in ("model.safetensors", "last/model.safetensors", "config.json", "../metrics.jsonl"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"keep": "best", "probe": None}, 'rl.keep = "best" needs looks to choose from: add a probe'),
        ({"keep_by": "truth"}, 'rl.keep_by = "truth" chooses nothing with keep = "last"'),
        (
            {"keep": "best", "keep_by": "truth", "probe": replace(PROBE, truth=None)},
            'rl.keep_by = "truth" needs a judge of the truth',
        ),
        ({"stop_when_over_optimised": True, "probe": None}, "rl.stop_when_over_optimised needs a probe with a truth"),
        (
            {"stop_when_over_optimised": True, "probe": replace(PROBE, truth=None)},
            "rl.stop_when_over_optimised needs a probe with a truth",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(TropismError, match=f"^{said}"):
        rl("x/y", **settings)


@dataclass(frozen=True)
class Other(RL):
    """A stage of another name that is looked at in the same way."""


def test_a_stage_that_is_looked_at_is_refused_by_its_own_name() -> None:
    with pytest.raises(TropismError, match='^other.keep = "best" needs looks to choose from'):
        Other(policy="sft", prompts=HELD_OUT, judge=CutOff(), keep="best")


def looks(*means: tuple[float, float], prompts: int = 12) -> list[dict[str, Any]]:
    """Lines of looks with these means of truth and reward; half of the prompts lie 0.1 above, half below."""
    apart = [0.1 if i % 2 else -0.1 for i in range(prompts)]
    lines = []
    for number, (truth, reward) in enumerate(means):
        by_prompt = {"truth": [truth + a for a in apart], "reward": [reward + a for a in apart]}
        lines.append({"probe_truth": truth, "probe_reward": reward, "probe_kl": number / 10, "by_prompt": by_prompt})
    return lines


HACKED = ((0.5, 0.0), (0.6, 1.0), (0.55, 1.5), (0.5, 2.0), (0.4, 3.0))


def test_it_ends_at_the_look_that_shows_it_over_optimised(
    run: Run, model_folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fall from 0.6 to 0.55 is the same on all prompts, so it is seen at once: after the second of four rounds."""
    seen = scripted(monkeypatch, *looks(*HACKED))
    run.reporter = Reporter(quiet=False)
    out = run(rl(model_folder, stop_when_over_optimised=True))
    assert len(seen) == 3 and same(out, seen[2]) and facts(out)["rounds"] == 2
    found = facts(out)["over_optimised"]
    assert found.pop("spent") == read_metrics(out.parent)[1]["spent"]
    assert found == {"kl": 0.1, "truth_best": 0.6, "truth_last": 0.55, "reward_best": 1.0, "reward_last": 1.5}
    said = " ".join("".join(capsys.readouterr()).split())
    assert "true quality went from 0.6 to 0.55, the learned reward from 1 to 1.5" in said


@pytest.mark.parametrize(
    ("means", "stops"),
    [
        (((0.5, 0.0), (0.6, 1.0), (0.7, 2.0), (0.7, 3.0), (0.7, 4.0)), False),  # the truth does not fall
        (((0.5, 3.0), (0.6, 2.0), (0.4, 1.0), (0.3, 0.5), (0.2, 0.0)), False),  # the reward falls with it
        (HACKED, True),
    ],
    ids=["truth stays", "both fall", "hacked"],
)
def test_only_a_truth_that_falls_under_a_reward_that_does_not_ends_it(
    run: Run, model_folder: str, monkeypatch: pytest.MonkeyPatch, means: Any, stops: bool
) -> None:
    scripted(monkeypatch, *looks(*means))
    out = run(rl(model_folder, stop_when_over_optimised=True))
    assert (facts(out)["rounds"] < 4) == stops == ("over_optimised" in facts(out))


def test_without_being_asked_it_goes_on_to_the_end(
    run: Run, model_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, *looks(*HACKED))
    assert facts(run(rl(model_folder)))["rounds"] == 4


def test_cut_off_it_ends_where_it_would_have(
    tmp_path: Path, model_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The looks of before the cut are in the checkpoint: without them no fall would be seen at the third."""
    rising = ((0.5, 0.0), (0.6, 1.0), (0.59, 0.9), (0.5, 2.0), (0.4, 3.0))
    seen = scripted(monkeypatch, *looks(*rising))
    out = cut_off(rl(model_folder, stop_when_over_optimised=True), tmp_path, last=3)
    assert facts(out)["rounds"] == 3 and len(seen) == 4
    assert facts(out)["over_optimised"]["truth_best"] == 0.6


def test_too_few_prompts_tell_no_fall(run: Run, model_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, *looks(*HACKED, prompts=9))
    with pytest.raises(TropismError, match="needs 10 prompts to tell a fall from noise, but the probe has 9"):
        run(rl(model_folder, stop_when_over_optimised=True))


def test_a_run_that_learns_the_wrong_thing_is_ended(run: Run, model_folder: str) -> None:
    """No script: the reward counts letters, and the truth is that each of them is one too many."""
    asked = Phrasebook("held_out", count=12)
    probe = Probe(asked, Verifier(letters), Verifier(lambda completion: -letters(completion)), every=1)
    out = run(
        rl(
            model_folder,
            judge=Verifier(letters),
            probe=probe,
            rounds=30,
            prompts_per_round=8,
            sampling=SamplingParams(n=4, max_tokens=8),
            stop_when_over_optimised=True,
            keep="best",
        )
    )
    assert facts(out)["rounds"] < 30 and facts(out)["over_optimised"]["truth_last"] < facts(out)["best_truth"]
    assert facts(out)["best_round"] < facts(out)["rounds"]
