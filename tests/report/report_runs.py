"""A run folder written by hand: eight finished stages of a first recipe, with figures made up for the test."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tropism.store import files

BOOK = "tropism.formats.phrasebook:Phrasebook"
KINDS = {
    "tokenizer": "tropism.stages.tokenizer:Tokenizer",
    "base": "tropism.stages.pretrain:Pretrain",
    "sft": "tropism.stages.sft:SFT",
    "samples": "tropism.stages.collect:Collect",
    "rankings": "tropism.stages.label:Label",
    "reward": "tropism.stages.reward:Reward",
    "ppo": "tropism.stages.rl:RL",
    "evaluation": "tropism.stages.evaluate:Evaluate",
}
FACTS: Mapping[str, Mapping[str, Any]] = {
    "tokenizer": {"vocabulary": 512, "bytes_per_token": 2.077},
    "base": {
        "parameters": 668544,
        "tokens": 2457600,
        "held_out_loss": 0.9,
        "bits_per_byte": 0.661,
        "gzip_bits_per_byte": 2.214,
    },
    "sft": {"demonstrations": 5880, "held_out_loss_before": 6.3649, "held_out_loss": 1.1},
    "samples": {"prompts": 1200, "completions": 8400, "stop_rate": 0.99},
    "rankings": {"groups": 1200, "test_groups": 187, "judges": ["annotator@1", "truth"]},
    "reward": {"groups": 1013, "test_groups": 187, "held_out_loss": 5.1},
    "ppo": {"rounds": 60, "completions": 7680},
    "evaluation": {},
}
ANNOTATED = {"judges": [{"kind": "tropism.judges.annotator:Annotator", "noise": 0.15}]}
MODELS = {"models": {"base": "base", "sft": "sft", "ppo": "ppo"}, "over": "sft", "base": "base", "plain": ["base"]}


def figure(value: float, half: float = 0.05) -> dict[str, float]:
    return {"value": value, "low": round(value - half, 4), "high": round(value + half, 4)}


def rounds(reward: Sequence[float], truth: Sequence[float]) -> list[dict[str, float]]:
    """Lines of an RL stage: both go in a straight line from the first to the second value, with a saw-tooth on it."""
    lines = []
    for i in range(60):
        saw, far = (0.02 if i % 2 else -0.02), i / 59
        lines.append(
            {
                "round": i + 1,
                "reward": reward[0] + (reward[1] - reward[0]) * far + saw,
                "truth": truth[0] + (truth[1] - truth[0]) * far - saw,
                "kl": 1.4 * far**1.5,
                "stop_rate": 0.98 + 0.02 * far,
                "tokens": 14 - 3 * far + 10 * saw,
                "entropy": 0.6 - 0.2 * far + saw,
                "clip_fraction": 0.01 + abs(saw),
                "explained_variance": -3.0 if i == 0 else 0.5 * far + saw,
                "policy_loss": saw,
                "value_loss": 0.3 - 0.2 * far,
                "kl_to_old": 0.001 + abs(saw) / 50,
                "not_scored": 0.0,
            }
        )
    return lines


def evaluation(win: Mapping[str, float], answer: str = "26 days") -> dict[str, Any]:
    models = {
        "base": {
            "n": 300,
            "samples": 4,
            "exact_greedy": figure(0.0, 0.0),
            "quality": figure(0.08),
            "tokens": figure(40),
        },
        "sft": {
            "n": 300,
            "samples": 4,
            "exact_greedy": figure(0.62),
            "exact_sampled": figure(0.31),
            "chrf": figure(71.0, 3),
            "quality": figure(0.58),
            "reward": figure(0.02),
        },
        "ppo": {
            "n": 300,
            "samples": 4,
            "exact_greedy": figure(0.66),
            "exact_sampled": figure(0.45),
            "chrf": figure(76.0, 3),
            "quality": figure(0.74),
            "reward": figure(0.91),
            "win_over_sft": dict(win),
            "kl_to_sft": figure(1.2, 0.1),
        },
    }
    calibration = [{"predicted": 0.52 + 0.05 * i, "observed": 0.5 + 0.047 * i, "n": 500 - 40 * i} for i in range(10)]
    said = {"base": "26 hari\nEnglish: 26 days\nRussian: 26 дней", "sft": "26 day", "ppo": answer}
    answers = [
        {
            "id": f"phrasebook/held_out/0/{i}",
            "target": "26 days",
            "models": {
                name: {
                    "prompt": [f"Translate into English: 26 jours ({i})"],
                    "greedy": text,
                    "sampled": text,
                    "quality": 1.0 if text == "26 days" else 0.31,
                    "reward": None if name == "base" else 0.4,
                }
                for name, text in said.items()
            },
        }
        for i in range(40)
    ]
    return {
        "over": "sft",
        "models": models,
        "reward_model": {
            "n_groups": 187,
            "n_pairs": 2345,
            "against": "truth",
            "pair_accuracy": figure(0.83, 0.02),
            "kendall_tau": figure(0.61, 0.03),
            "length_correlation": figure(-0.41, 0.04),
            "length_correlation_truth": figure(-0.38, 0.04),
            "length_controlled_accuracy": figure(0.79, 0.04),
            "calibration": calibration,
            "calibration_error": figure(0.031, 0.01),
            "accuracy_by_margin": [
                {"margin": [0.4 * i, 0.4 * (i + 1)], "n": 586, "accuracy": figure(0.6 + 0.1 * i, 0.03)}
                for i in range(4)
            ],
            "accuracy_by_k": [{"k": k, "n": 300 * k, "accuracy": figure(0.7 + 0.02 * k)} for k in (3, 5)],
            "counted": {"pair_accuracy": 2345, "length_controlled_accuracy": 402, "kendall_tau": 180},
        },
        "base_completes": figure(0.94, 0.02),
        "answers": answers,
    }


def finish(
    folder: Path, id: str, metrics: Sequence[Mapping[str, float]] = (), found: Any = None, **fields: Any
) -> None:
    """A finished stage, as the run store leaves it."""
    stage = folder / f"{id}-0123abcd"
    (stage / "out").mkdir(parents=True)
    files.write_json(stage / "stage.json", {"id": id, "fields": {"kind": KINDS[id], **fields}, "inputs": {}})
    if metrics:
        (stage / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    if found is not None:
        files.write_json(stage / "out" / "evaluation.json", found)
    files.seal(stage, {"seconds": 1.5 + len(metrics), "facts": dict(FACTS[id])}, "DONE")


def plan(folder: Path) -> None:
    """An empty run folder."""
    folder.mkdir(exist_ok=True)
    files.write_json(
        folder / "recipe.json",
        {
            "name": "first",
            "seed": 0,
            "stages": {id: {} for id in KINDS},
            "folders": {id: f"{id}-0123abcd" for id in KINDS},
        },
    )


def falling(start: float, end: float) -> list[dict[str, float]]:
    return [{"step": 2 * i, "loss": end + (start - end) / i, "policy_gradient_norm": 1.0} for i in range(1, 101)]


def make_run(
    parent: Path,
    win: Mapping[str, float] | None = None,
    reward: Sequence[float] = (0.0, 0.9),
    truth: Sequence[float] = (0.58, 0.74),
    answer: str = "26 days",
    name: str = "run",
) -> Path:
    """The folder of a whole run."""
    folder = parent / name
    plan(folder)
    book: dict[str, Any] = {"data": {"kind": BOOK, "part": "documents"}}
    finish(folder, "tokenizer", **book)
    finish(folder, "base", falling(6.3, 0.8), **book)
    finish(folder, "sft", falling(6.0, 1.0), **book)
    finish(folder, "samples")
    finish(folder, "rankings", **ANNOTATED)
    finish(folder, "reward", falling(8.0, 4.6))
    finish(folder, "ppo", rounds(reward, truth))
    finish(folder, "evaluation", found=evaluation(win or figure(0.71, 0.07), answer), **MODELS)
    return folder
