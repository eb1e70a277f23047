"""AlpacaEval 2: the leaderboard's columns of three models, the fit by another solver, incomplete models, wrong files."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from tropism import TropismError
from tropism.evals._alpaca import Benchmark, benchmark
from tropism.evals._lc import S1, S2, Rows, features, fit, rate
from tropism.evals.alpaca_eval import alpaca_eval

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "alpaca_eval"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data/alpaca_eval is absent")
FUSECHAT, ALPACA, VICUNA = "FuseChat-Llama-3.2-1B-Instruct", "alpaca-7b", "vicuna-13b-v1.5"
PLAIN = ("standard_error", "n_wins", "n_wins_base", "n_draws", "n_total", "avg_length")
ROUND = {"win_rate": "win_rate", "discrete_win_rate": "discrete_win_rate", "lc_win_rate": "length_controlled_winrate"}


@pytest.fixture(scope="module")
def models() -> dict[str, dict[str, Any]]:
    return alpaca_eval(DATA, [str(DATA / f"annotations.{m}.json.gz") for m in (FUSECHAT, ALPACA, VICUNA)])["models"]


@needs_data
@pytest.mark.parametrize("model", [FUSECHAT, ALPACA, VICUNA])
def test_every_column_of_the_leaderboard(models: dict[str, dict[str, Any]], model: str):
    with (DATA / "leaderboard.csv").open(encoding="utf-8") as file:
        published = next(row for row in csv.DictReader(file) if row[""] == model)
    ours = models[model]
    for key in PLAIN:
        assert ours[key] == pytest.approx(float(published[key]), abs=1e-6), key
    for key, column in ROUND.items():
        assert ours[key]["value"] == pytest.approx(float(published[column]), abs=1e-6), key
    assert ours["lc_as_published"] == pytest.approx(float(published["length_controlled_winrate"]), abs=1e-6)
    if published["lc_standard_error"]:
        assert ours["lc_standard_error"] == pytest.approx(float(published["lc_standard_error"]), abs=1e-6)
    assert ours["lc_refit"]["value"] == pytest.approx(float(published["length_controlled_winrate"]), abs=0.11)


@needs_data
def test_replies_and_places(models: dict[str, dict[str, Any]]):
    assert {m: f["parser"] for m, f in models.items()} == {
        FUSECHAT: {"n": 0, "mismatches": 0},
        ALPACA: {"n": 802, "mismatches": 0},
        VICUNA: {"n": 801, "mismatches": 0},
    }
    assert models[FUSECHAT]["shown_first"]["value"] == pytest.approx(23.4354, abs=5e-5)
    assert models[FUSECHAT]["shown_second"]["value"] == pytest.approx(36.5223, abs=5e-5)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is read once."""
    monkeypatch.setattr("tropism.evals.alpaca_eval.benchmark", lambda data: known())


@cache
def known() -> Benchmark:
    return benchmark(DATA)


@cache
def stored(model: str) -> bytes:
    return gzip.decompress((DATA / f"annotations.{model}.json.gz").read_bytes())


def changed(path: Path, change: Callable[[list[dict[str, Any]]], Any], model: str = ALPACA) -> Path:
    records = [{**r, "raw_completion": None} for r in json.loads(stored(model))]
    path.write_text(json.dumps(change(records)), encoding="utf-8")
    return path


@needs_data
@pytest.mark.parametrize(
    ("model", "n", "published"), [("alpaca-7b_verbose", 802, 6.816306816), ("alpaca-7b_concise", 804, 4.467251680)]
)
def test_incomplete_models_as_published_and_right(model: str, n: int, published: float, fast: None, tmp_path: Path):
    """Two models of the leaderboard lack preferences. Its rate depends on how many are left alone, so that any rows that
    are left equal it; the right one depends on which they are: shuffled rows change it no more."""

    def spoiled(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for i, record in enumerate(records):
            record["generator_2"] = model
            record["preference"] = (None, -1, float("nan"))[i % 3] if i < 805 - n else record["preference"]
        return records

    def reverse(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return spoiled(records)[::-1]

    (found,) = alpaca_eval(DATA, [str(changed(tmp_path / "a.json", spoiled))])["models"].values()
    (turned,) = alpaca_eval(DATA, [str(changed(tmp_path / "b.json", reverse))])["models"].values()
    assert found["n_total"] == n and found["lc_as_published"] == pytest.approx(published, abs=1e-6)
    assert found["lc_as_published"] == turned["lc_as_published"]
    difficulty = np.array(json.loads((DATA / "instruction_difficulty.json").read_text()))[805 - n :]
    with (DATA / "lc_weights.csv").open(encoding="utf-8") as file:
        _, _, slope, own = next(row for row in csv.reader(file) if row[0] == model)
    right = 100 * expit(float(slope) * difficulty + float(own)).mean()
    assert found["lc_win_rate"]["value"] == pytest.approx(right, abs=1e-9) == turned["lc_win_rate"]["value"]
    assert abs(found["lc_win_rate"]["value"] - published) > 1e-4


@needs_data
def test_another_name_and_no_published_weights(fast: None, tmp_path: Path):
    file = changed(tmp_path / "a.json", lambda records: [{**r, "generator_2": "new"} for r in records])
    found = alpaca_eval(DATA, [f"mine={file}"])["models"]["mine"]
    assert found["lc_as_published"] is None and found["lc_win_rate"] == found["lc_refit"]


def example(n: int = 300) -> tuple[Rows, np.ndarray]:
    rng = np.random.default_rng(1)
    difficulty = rng.normal(size=n)
    mine = features(rng.integers(100, 900, n), rng.integers(100, 700, n), difficulty, 1.0)
    told = np.concatenate(
        [features(rng.integers(100, 900, n), rng.integers(100, 900, n), difficulty, 0.0) for _ in "vc"]
    )
    return Rows(mine, expit(mine @ [-1.0, 0.6, -0.8] + rng.normal(size=n))), told


def test_the_fit_by_another_solver():
    """The loss as its authors write it: each row twice, won and lost, and y of the regularising rows by their two sums."""
    rows, told = example()

    def loss(w: np.ndarray) -> float:
        own = np.logaddexp(0, rows.features_NF @ w) - rows.wins_N * (rows.features_NF @ w)
        return own.sum() + 0.1 * np.logaddexp(0, told @ w).sum() - 0.1 * (w[0] * S1 + w[1] * S2)

    found = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-9})
    assert fit(rows, told) == pytest.approx(found.x, abs=1e-6)


def test_the_interval_is_that_of_refits_on_resampled_instructions():
    """200 bootstrap refits: the linearised standard error is within 15 % of theirs (whose own error is 5 %)."""
    rows, told = example()
    n, rng = len(rows.wins_N), np.random.default_rng(2)
    rates = []
    for _ in range(200):
        drawn = rng.integers(0, n, n)
        again = Rows(rows.features_NF[drawn], rows.wins_N[drawn])
        rates.append(100 * again.rates(fit(again, told)).mean())
    estimate = rate(rows, fit(rows, told), told)
    error = (estimate.variance * estimate.value * (100 - estimate.value)) ** 0.5
    assert error == pytest.approx(np.std(rates), rel=0.15)


def test_equal_lengths_say_nothing_about_length():
    assert not features(np.full(5, 70), np.full(5, 70), np.arange(5.0), 1.0)[:, 0].any()


@needs_data
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: [], r"bad\.json is empty"),
        (lambda r: {"a": 1}, r"bad\.json"),
        (lambda r: [{**r[0], "instruction": "never asked"}], r"record 1 has an instruction that the benchmark lacks"),
        (lambda r: [{**r[0], "preference": 3.5}], r"record 1 has the preference 3\.5"),
        (lambda r: [{**r[0], "preference": None}], r"have no preference"),
        (lambda r: [r[0], r[1], r[0]], r"1 instructions come twice"),
        (lambda r: [{"question_id": 1}], r"record 1 has no field"),
    ],
)
def test_bad_files_are_named(change: Callable[[list[dict[str, Any]]], Any], says: str, fast: None, tmp_path: Path):
    with pytest.raises(TropismError, match=says):
        alpaca_eval(DATA, [str(changed(tmp_path / "bad.json", change))])


def test_the_folder_is_checked(tmp_path: Path):
    with pytest.raises(TropismError, match=r"has no outputs\.gpt4_1106_preview\.json"):
        benchmark(tmp_path)
    for name in ("", "_verbose", "_concise"):
        (tmp_path / f"outputs.gpt4_1106_preview{name}.json").write_text('[{"instruction": "a", "output": "b"}]')
    (tmp_path / "instruction_difficulty.json").write_text("[1.0, 2.0]")
    with pytest.raises(TropismError, match="is not a list of 1 numbers"):
        benchmark(tmp_path)


def test_the_authors_rows_enter_by_their_two_sums():
    """Without any preference the fit meets the sums that stand for the authors' regularising rows."""
    rows_RF = np.concatenate([np.random.default_rng(0).normal(size=(2000, 2)), np.zeros((2000, 1))], 1)
    weights_F = fit(Rows(np.zeros((0, 3)), np.zeros(0)), rows_RF)
    assert rows_RF.T @ expit(rows_RF @ weights_F) == pytest.approx([-182.692, 413.0, 0.0], abs=1e-6)
