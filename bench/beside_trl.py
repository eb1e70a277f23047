"""Shared by the benchmarks against TRL 1.16 (the extra `bench`); `turns.py` makes its steps and ours in turns."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tropism.models.architecture import Architecture
from tropism.text.tokenizer import train_tokenizer


def arguments(about: str | None, names: Sequence[str]) -> argparse.ArgumentParser:
    """What all of these benchmarks take; a shape has one number for each of `names`."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shape", type=int, nargs=len(names), action="append", metavar=tuple(names), help="may be given many times"
    )
    parser.add_argument("--model", type=Path, help="a Hugging Face folder; without it a Llama of 1.87 M parameters")
    parser.add_argument("--wide", action="store_true", help="a Llama of 25.6 M parameters")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    return parser


def loaded(folder: Path | None, wide: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if folder:
        words = AutoTokenizer.from_pretrained(folder)
        return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval(), words
    torch.manual_seed(0)
    words = train_tokenizer([chr(i) for i in range(32, 127)], 300)
    shape = Architecture(width=512, layers=8, heads=8) if wide else Architecture(width=192, layers=4, heads=6)
    config = shape.config(512)
    config.eos_token_id, config.pad_token_id = words.eos_token_id, words.pad_token_id
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval(), words


def settings(folder: str, steps: int, rate: float) -> dict[str, Any]:
    """What is best for each trainer of TRL on a CPU: no gradient checkpointing, float32; and no reports or checkpoints."""
    return {
        "output_dir": f"{folder}/trl",
        "max_steps": steps + 1,
        "learning_rate": rate,
        "lr_scheduler_type": "constant",
        "gradient_checkpointing": False,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,
        "logging_steps": 10**6,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 0,
    }


@contextlib.contextmanager
def clocked(owner: Any, name: str, parts: dict[str, float], part: str) -> Iterator[None]:
    """Adds the seconds of all calls of `owner.name` to `parts[part]`."""
    before = getattr(owner, name)

    def timed(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return before(*given, **named)
        finally:
            parts[part] = parts.get(part, 0.0) + time.perf_counter() - began

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, before)


def said(row: dict[str, Any]) -> str:
    parts = "  ".join(f"{name} {seconds:.2f}" for name, seconds in row["parts"].items() if name != "whole")
    return (
        f"{' × '.join(map(str, row['shape']))}, {row['model']:,} parameters: TRL {row['trl_s']:.2f} s  tropism "
        f"{row['ours_s']:.2f} s  ratio {row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})   {parts}"
    )
