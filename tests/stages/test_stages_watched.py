"""What the looks of a probe decide: the weights that are left."""

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
    ],
)
def test_what_cannot_be_kept_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(TropismError, match=f"^{said}"):
        rl("x/y", **settings)
