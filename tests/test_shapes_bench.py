"""`bench/shapes.py`: the operations and bytes that it counts, by hand and by torch's counter, and its drawing."""

from __future__ import annotations

import argparse
import runpy
import sys
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig

BENCH = Path(__file__).parent.parent / "bench"


@pytest.fixture
def shapes(monkeypatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(str(BENCH))
    return runpy.run_path(str(BENCH / "shapes.py"))


def test_what_a_step_needs_is_what_a_hand_counts(shapes: dict[str, Any]):
    """One prompt of 2 tokens with 2 answers of 3; width 2, one layer with a feed-forward of 3, a vocabulary of 5.

    Weights of the layer: 4·2·2 + 3·2·3 = 34. The prompt: 2 tokens, 1 of them predicts, 1 + 2 pairs. The answers: 2 tokens
    each, that see 3 and 4: 14 pairs. Decoding reads 2 + 1 + 1 keys and as many values, then 2 + 2 + 2.
    """
    needed = shapes["need"](shapes["Case"](1, 2, 2, 3, 2, 1), 3, 5)
    assert needed.prompts == 2 * 34 * 2 + 2 * 2 * 5 * 1 + 4 * 2 * 3
    assert needed.answers == 2 * 34 * 4 + 2 * 2 * 5 * 4 + 4 * 2 * 14
    assert needed.read == (4 + 6) * 2 * 2 * 4
    assert shapes["need"](shapes["Case"](6, 2, 2, 3, 2, 1), 3, 5).answers == 6 * needed.answers


def test_a_forward_pass_is_what_torch_counts(shapes: dict[str, Any]):
    """One answer of 4 tokens after 5: torch counts a pass over 8 tokens with the logits of 8 and all 64 pairs of a square,
    of which a causal pass needs 36, and the logits of 4."""
    width, layers, inner, vocabulary = 8, 2, 16, 11
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": inner, "vocab_size": vocabulary}
    config = LlamaConfig(**sizes, num_attention_heads=2, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(config).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 8, dtype=torch.long), use_cache=False)
    needed = shapes["need"](shapes["Case"](1, 5, 1, 4, width, layers), inner, vocabulary)
    spare = 2 * width * vocabulary * 4 + 4 * width * layers * 28
    rotations = counter.get_total_flops() - needed.prompts - needed.answers - spare
    assert 0 <= rotations <= 2 * 8 * width  # positions times frequencies, as a product


def test_the_least_time_takes_the_slower_of_products_and_reading(shapes: dict[str, Any]):
    needed = shapes["Need"](prompts=100.0, answers=300.0, read=50.0)
    fast = shapes["least"](needed, wide=100.0, narrow=50.0, copy=10.0)
    assert fast == {"sample": 1 + 6, "reference": 4, "update": 12, "whole": 23}
    slow = shapes["least"](needed, wide=100.0, narrow=50.0, copy=5.0)
    assert slow["sample"] == 10 and slow["whole"] == 26


def test_a_panel_for_each_quantity(shapes: dict[str, Any], monkeypatch, tmp_path: Path):
    """Without the steps themselves: a step of as many seconds as it has tokens in an answer."""
    parts = {"sample": 0.5, "reference": 0.1, "update": 0.3, "other": 0.1}

    def ours(_: Path, shape: tuple[int, ...]) -> Any:
        return lambda: {**parts, "whole": float(shape[3])}

    changed = shapes["main"].__globals__
    for name, instead in {"ours": ours, "written": lambda *_: 7, "fastest": lambda _: 1e-6}.items():
        monkeypatch.setitem(changed, name, instead)
    monkeypatch.setattr(sys, "argv", ["shapes.py", "--quick", "--json", "--out", str(tmp_path / "drawn.svg")])
    shapes["main"]()
    root = xml.etree.ElementTree.parse(tmp_path / "drawn.svg").getroot()
    panels = [node for node in root if node.tag.endswith("svg")]
    titles = [[n.text or "" for n in panel.iter() if n.tag.endswith("title")] for panel in panels]
    assert len(panels) == 4 and all(len(found) == 5 * 2 for found in titles)  # five curves of two points
    assert "the step: 16 at tokens of an answer 16" in titles[2]
    assert root.attrib["viewBox"] == "0 0 728 552"


def test_given_shapes_take_the_place_of_what_is_varied(shapes: dict[str, Any]):
    ((varied, case),) = shapes["cases"](argparse.Namespace(shape=[[4, 64, 8, 48]], wide=True, quick=False))
    assert varied == "" and (case.prompts, case.prompt, case.k, case.answer) == (4, 64, 8, 48)
    assert case.architecture.parameters(512) == 512 * 512 + 512 + 8 * (4 * 512**2 + 3 * 512 * 1376 + 2 * 512)
    every = shapes["cases"](argparse.Namespace(shape=None, wide=False, quick=False))
    for name, found in every:
        others = [getattr(found, other) for other in shapes["VARIED"] if other != name]
        assert others == [getattr(shapes["Case"](), other) for other in shapes["VARIED"] if other != name]
    assert {name for name, _ in every} == {"prompt", "k", "answer", "width"}
