"""`bench/parity.py` as it is run, with rows added that must not agree: each sets one knob of ours otherwise than TRL's."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench"
WRONG = """
import sys
import parity
from parity import *

CASES = parity.CASES
parity.CASES = (
    *CASES,
    Case("SFT", "prompts trained too", NLL(), {"completion_only_loss": False}),
    Case("Reward", "centred", KWise("all_pairs", centre=0.0), {"center_rewards_coefficient": 0.01}),
    Case("DPO", "beta", DPO(0.1001, "sigmoid"), {"loss_type": "sigmoid"}),
    Case("KTO", "weights", KTO(0.1, good=1.25, bad=0.76), WEIGHTS),
    Case("GRPO", "length", grpo(kl=0, weight="length", length=LIMIT + 1), FIXED),
    Case("GRPO", "clip", grpo(kl=0, clip=0.21), DAPO),
    Case("GRPO", "scale", grpo(kl=0, scale="none"), DAPO),
    Case("GRPO", "KL", grpo(kl=0.051), UNCORRECTED, GRADED, plain_k3),
    Case("GRPO", "gspo", gspo(weight="completion"), {**FIRST, **NARROW}),
    Case("GRPO", "cispo", grpo(kl=0, surrogate="cispo", clip_high=0.21), {"loss_type": "cispo", "epsilon_high": 1.2}),
    Case("GRPO", "dual clip", grpo(kl=0, dual_clip=1.3), {**DAPO, "delta": 1.25}),
    Case("GRPO", "entropy", grpo(kl=0, entropy=0.051), {**DAPO, "entropy_coef": 0.05}),
    Case("CPO", "simpo, margin", SimPO(2.0, 0.81), SIMPO),
    Case("ORPO", "one pair, odds", ORPO(0.31), {"beta": 0.3}),
    Case("RLOO", "KL", RLOO(kl=0.051), {"beta": 0.05}),
    Case("GKD", "beta", GKD(0.51), {"beta": 0.5, "temperature": 1.0}),
)
sys.argv = ["parity.py", "--json"]
parity.main()
"""


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="TRL is not installed: pip install -e '.[bench]'")
def test_parity_with_trl() -> None:
    found = subprocess.run([sys.executable, "-c", WRONG], cwd=BENCH, capture_output=True, text=True, timeout=600)
    assert found.returncode == 1, found.stderr  # because of the wrong ones
    rows = json.loads(found.stdout)
    right, wrong = rows[:-16], rows[-16:]
    assert [r["method"] for r in right if r["verdict"] == "different"] == []
    assert [r["method"] for r in wrong if r["verdict"] != "different"] == []
    assert {r["method"].split()[0] for r in right} == {
        "SFT", "Reward", "DPO", "KTO", "GRPO", "CPO", "ORPO", "RLOO", "GKD"
    }  # fmt: skip
    assert [r["method"] for r in right if r["verdict"] == "explained"] == [
        "DPO sigmoid + sft",
        "GRPO dapo, KL uncorrected",
        "GRPO equal rewards dropped",
        "GRPO missing rewards",
        "GRPO dual clip 1.1",
        'GRPO entropy, weight "completion"',
        "ORPO",
        "RLOO missing rewards",
    ]
    for row in right:
        if row["verdict"] == "explained":
            assert row["exchanged"] < 1e-10 < 1e-3 < row["gradient"] and row["why"], row
        else:
            assert row["exchanged"] is None and max(row["loss"], row["gradient"]) < 1e-10, row
        if row["method"].split()[0] in ("GRPO", "RLOO"):
            assert row["advantages"] < 1e-10, row
