"""The key `engine` of the stages that sample: which engines they take, and what they make of their answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from simulated_endpoint import Endpoint
from tropism.engines._batch import Batch
from tropism.engines._row import Row
from tropism.errors import Spent, TropismError
from tropism.recipe.read import load, parse
from tropism.store.folder import done
from tropism.store.groups import read_groups
from tropism.store.progress import Reporter
from tropism.store.run import run_recipe
from tropism.types import Completion

SCRIPT = {"kind": "scripted", "answers": {"7 days": ["7 jours", "7 hari", "days"], "9 days": ["9 jours"]}}
JUDGE = {"kind": "annotator"}
SAMPLING = {"n": 3, "max_tokens": 8}


def recipe(folder: Path, kind: str, **fields: Any) -> Any:
    """A recipe of one stage that asks two questions."""
    asked = folder / "asked.jsonl"
    rows = [{"prompt": f"{n} days", "target": f"{n} jours"} for n in (7, 9)]
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    entry = {"id": "it", "kind": kind, "prompts": {"kind": "prompts", "path": str(asked)}, "sampling": SAMPLING}
    return parse({"stage": [{**entry, **fields}]}, "test.toml")


def ran(folder: Path, kind: str, **fields: Any) -> tuple[Path, Mapping[str, Any]]:
    """The stage's result, and what DONE says of it."""
    run = run_recipe(recipe(folder, kind, **fields), folder / "run", reporter=Reporter(quiet=True))
    out = run.artifacts["it"].path
    return out, done(out.parent) or {}


def test_collect_takes_the_answers_of_a_script(tmp_path: Path) -> None:
    out, meta = ran(tmp_path, "collect", engine=SCRIPT)
    said = [Completion(text, policy="scripted@0") for text in ("7 jours", "7 hari", "days")]
    first, second = read_groups(next(out.glob("*.parquet")))
    assert list(first.completions) == said
    assert [c.text for c in second.completions] == ["9 jours"] * 3
    assert meta["facts"] == {"prompts": 2, "completions": 6, "stop_rate": 1.0}  # how many tokens nobody knows


def test_collect_has_a_policy_or_an_engine_with_a_model(tmp_path: Path, model_folder: str) -> None:
    for fields in ({}, {"policy": model_folder, "engine": SCRIPT}):
        with pytest.raises(TropismError, match="it: collect needs either a `policy` .* or an `engine` with a model"):
            recipe(tmp_path, "collect", **fields)


def test_evaluate_measures_the_answers_of_a_script(tmp_path: Path, model_folder: str) -> None:
    fields = {
        "models": {"sft": model_folder, "twin": model_folder},
        "searches": {"twin": {"kind": "best_of_n", "n": 3}},
    }
    length = {"kind": f"{__name__}:length"}
    out, _ = ran(tmp_path, "evaluate", engine=SCRIPT, proxy=length, **fields)
    found = json.loads((out / "evaluation.json").read_text("utf-8"))["models"]["twin"]
    assert found["exact_greedy"]["value"] == 1
    assert found["exact_sampled"]["value"] == 1  # the best of three is the longest; of all three it would be 2 / 3
    assert "tokens" not in found and "left_out" in found


def length(completion: str) -> float:
    return float(len(completion))


def test_best_of_n_takes_the_answers_of_a_script(tmp_path: Path, model_folder: str) -> None:
    out, _ = ran(tmp_path, "best_of_n", policy=model_folder, engine=SCRIPT, judge={"kind": f"{__name__}:length"})
    rewards = [json.loads(line)["probe_reward"] for line in (out.parent / "metrics.jsonl").read_text().splitlines()]
    # the lengths are 7, 6, 4 and 7, 7, 7: the best of one is their mean, of two 7, 7, 6, of three 7
    assert rewards == pytest.approx([(17 / 3 + 7) / 2, (20 / 3 + 7) / 2, 7])


@pytest.mark.parametrize("probed", [False, True])
def test_what_needs_log_probabilities_refuses_an_engine_without(tmp_path: Path, probed: bool) -> None:
    probe = {"prompts": {"kind": "phrasebook", "part": "prompts"}, "judge": JUDGE, "engine": SCRIPT}
    fields = {"probe": probe} if probed else {"engine": SCRIPT}
    where = "probe" if probed else "rl"
    with pytest.raises(TropismError, match=rf"^test.toml: it.*: {where}.engine Scripted gives no log-prob.*") as error:
        recipe(tmp_path, "rl", policy="x/y", judge=JUDGE, **fields)
    assert "\n" not in str(error.value)


def test_the_local_engine_is_the_default_and_says_its_range(tmp_path: Path) -> None:
    plain, said = (recipe(tmp_path, "collect", policy="x/y", **more) for more in ({}, {"engine": "local"}))
    assert plain.stages == said.stages
    with pytest.raises(TropismError, match=r"it.engine.rows = 0 must be a whole number of 1 or more"):
        recipe(tmp_path, "collect", policy="x/y", engine={"kind": "local", "rows": 0})
    with pytest.raises(TropismError, match=r"'tropism.train.optim:Optim' is not a kind of engine: choose one"):
        recipe(tmp_path, "collect", policy="x/y", engine={"kind": "tropism.train.optim:Optim"})


def test_rows_are_given_to_the_engine(tmp_path: Path, model_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row at a time: the same answers, and a folder of the same name."""
    out, _ = ran(tmp_path, "collect", policy=model_folder)
    texts = [c.text for g in read_groups(next(out.glob("*.parquet"))) for c in g.completions]
    (tmp_path / "other").mkdir()
    widths: list[int] = []

    step = Batch.step

    def counted(batch: Batch, most: int) -> list[Row]:
        rows = step(batch, most)
        widths.append(len(rows))
        return rows

    monkeypatch.setattr(Batch, "step", counted)
    again, _ = ran(tmp_path, "collect", policy=model_folder, engine={"kind": "local", "rows": 1})
    assert again == out and not widths  # done before, skipped
    (out.parent / "DONE").unlink()
    again, _ = ran(tmp_path, "collect", policy=model_folder, engine={"kind": "local", "rows": 1})
    assert again == out
    assert [c.text for g in read_groups(next(again.glob("*.parquet"))) for c in g.completions] == texts
    assert len(widths) > len(texts) and {*widths} == {1}


def test_a_stage_without_its_code_still_reads(tmp_path: Path) -> None:
    text = '[[stage]]\nid="it"\nkind="rl"\npolicy="x/y"\njudge="annotator"\nengine="far_away:Engine"\n'
    file = tmp_path / "r.toml"
    file.write_text(text + 'prompts={kind="phrasebook", part="prompts"}\n')
    with pytest.raises(TropismError, match="far_away"):
        load(file)
    assert load(file, code=False).stages["it"].engine.kind == "far_away:Engine"  # type: ignore[attr-defined]


def test_collect_asks_an_endpoint_within_a_budget_and_goes_on_with_a_higher_one(tmp_path: Path) -> None:
    """The same run folder goes on: a budget is no part of what a stage is."""
    cost = 8 * 400 / 1e6  # of an answer, and the most that one can cost: max_tokens = 8
    with Endpoint(reply=lambda body: f"{body['seed']} {body['messages'][0]['content']} is the seed here.") as endpoint:

        def collected(budget: float) -> tuple[Path, Mapping[str, Any]]:
            prices = {"m": {"input": 0, "output": 400.0}}
            engine = {"kind": "http", "model": "m", "url": endpoint.url, "prices": prices, "budget": budget}
            return ran(tmp_path, "collect", engine={**engine, "cache": str(tmp_path / "replies")})

        for _ in range(2):
            with pytest.raises(
                Spent, match=r"it has done 0 of 6: the budget of 0.0125 USD is spent: 0.0096 USD so far, and 3 of"
            ):
                collected(0.0125)
            assert endpoint.requests == 3
        out, meta = collected(0.02)
        assert endpoint.requests == 6
    groups = list(read_groups(out))
    assert len({c.text for g in groups for c in g.completions}) == 6
    assert {c.policy for g in groups for c in g.completions} == {"m"}
    assert meta["facts"]["usd"] == {"m": pytest.approx(6 * cost)}
    assert len(list((tmp_path / "run").glob("it-*"))) == 1
