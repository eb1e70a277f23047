"""Shorthand in recipes: defaults by kind, seeds, rounds; and two rounds of online iteration as they run."""

from __future__ import annotations

import inspect
import json
import textwrap
import tomllib
from collections.abc import Set
from pathlib import Path
from typing import Any

import pytest

from tiny_recipe import BASE, PPO, PREFIX, QUALITY, RANKINGS, REWARD, SAMPLES, SFT, TOKENIZER, tropism
from tropism.errors import TropismError
from tropism.formats.phrasebook import Phrasebook
from tropism.recipe import expand
from tropism.recipe.expand import completed, expanded
from tropism.recipe.read import Recipe, parse
from tropism.store.fingerprint import fingerprint
from tropism.store.folder import latest, read_metrics
from tropism.store.groups import read_groups
from tropism.store.run import stage_seed

Entry = dict[str, Any]
REFERENCES = {"model", "groups", "policy", "judge.model", "judges.model", "models.a", "models.b", "models"}
BLOCK = ["samples", "rankings", "reward", "ppo"]
ONCE = [
    {"id": "samples", "kind": "collect", "policy": "ppo"},
    {"id": "rankings", "kind": "label", "groups": "samples"},
    {"id": "reward", "kind": "reward", "model": "sft", "groups": "all:rankings"},
    {"id": "ppo", "kind": "rl", "policy": "ppo", "judge": {"kind": "reward_model", "model": "reward"}},
]
ROUNDS = {"count": 2, "stages": BLOCK, "start": {"ppo": "sft"}}
SFT_STAGE = {"id": "sft", "kind": "sft"}


def references(entry: Entry) -> Set[str]:
    return REFERENCES


def made(rounds: Any, *entries: Entry) -> dict[str, Entry]:
    return {entry["id"]: entry for entry in expanded(rounds, entries, "r.toml", references)}


def refused(rounds: Any, *entries: Entry) -> str:
    with pytest.raises(TropismError) as caught:
        made(rounds, *entries)
    message = str(caught.value)
    assert message.startswith("r.toml: ") and "\n" not in message
    return message


def parsed(text: str, *overrides: str) -> Recipe:
    return parse(tomllib.loads(text), "r.toml", overrides)


# --- defaults ---------------------------------------------------------------------------------------------------------


def test_a_default_is_for_its_kind_and_a_key_of_one_s_own_wins_whole() -> None:
    defaults = {"rl": {"rounds": 5, "optim": {"lr": 1.0, "schedule": "constant"}}}
    entries = [{"id": "a", "kind": "rl", "optim": {"lr": 2.0}}, {"id": "b", "kind": "rl"}, {"id": "c", "kind": "sft"}]
    assert completed(defaults, entries, "r.toml") == [
        {"rounds": 5, "optim": {"lr": 2.0}, "id": "a", "kind": "rl"},  # the table is taken whole, not filled up
        {"rounds": 5, "optim": {"lr": 1.0, "schedule": "constant"}, "id": "b", "kind": "rl"},
        {"id": "c", "kind": "sft"},
    ]


@pytest.mark.parametrize(
    ("defaults", "says"),
    [
        ({"rl": {}}, "r.toml: defaults.rl: no stage has the kind 'rl': change one of the two"),
        ({"sft": 3}, "r.toml: defaults must be tables by kind, such as [defaults.rl]"),
        ([], "r.toml: defaults must be tables by kind, such as [defaults.rl]"),
    ],
)
def test_defaults_that_mean_nothing_are_refused(defaults: Any, says: str) -> None:
    with pytest.raises(TropismError) as caught:
        completed(defaults, [SFT_STAGE], "r.toml")
    assert str(caught.value) == says


def test_an_override_changes_one_key_of_a_default_and_for_one_stage_only() -> None:
    text = TOKENIZER + BASE + "[defaults.sft]\nmodel = 'base'\noptim = { lr = 0.5, schedule = 'constant' }\n"
    text += "data = { kind = 'phrasebook', part = 'demonstrations' }\n"
    text += "".join(f"[[stage]]\nid = '{id}'\nkind = 'sft'\n" for id in ("one", "two"))
    stages: Any = parsed(text, "one.optim.lr=0.25").stages
    assert (stages["one"].optim.lr, stages["one"].optim.schedule) == (0.25, "constant")
    assert (stages["two"].optim.lr, stages["two"].optim.schedule) == (0.5, "constant")


@pytest.mark.parametrize("order", [1, -1])
def test_an_override_of_a_default_reaches_all_stages_but_those_that_say_otherwise(order: int) -> None:
    text = TOKENIZER + BASE + "[defaults.sft]\nmodel = 'base'\nsteps = 9\n"
    text += "data = { kind = 'phrasebook', part = 'demonstrations' }\n"
    text += "".join(f"[[stage]]\nid = '{id}'\nkind = 'sft'\n" for id in ("one", "two")) + "steps = 4\n"
    overrides = ["defaults.sft.steps=3", "defaults.sft.optim.lr=0.25", "one.groups_per_step=5"][::order]
    stages: Any = parsed(text, *overrides).stages
    assert [(stages[id].steps, stages[id].optim.lr) for id in ("one", "two")] == [(3, 0.25), (4, 0.25)]
    assert stages["one"].groups_per_step == 5 != stages["two"].groups_per_step
    with pytest.raises(TropismError, match="there is no stage 'defaults'"):
        parsed(TOKENIZER, "defaults.sft.steps=3")


def test_an_override_of_the_rounds() -> None:
    block = "[rounds]\ncount = 2\nstages = ['base']\n"
    assert list(parsed(TOKENIZER + BASE + block, "rounds.count=3").stages) == [
        "tokenizer",
        "base-1",
        "base-2",
        "base-3",
    ]


# --- seeds ------------------------------------------------------------------------------------------------------------


def test_seeds_are_stages_that_differ_in_their_ids_alone() -> None:
    assert made(None, {"id": "ppo", "kind": "rl", "seeds": 3, "rounds": 2}, SFT_STAGE) == {
        **{f"ppo-{n}": {"id": f"ppo-{n}", "kind": "rl", "rounds": 2} for n in (1, 2, 3)},
        "sft": SFT_STAGE,
    }


@pytest.mark.parametrize("count", [0, -1, True, 2.0, "2"])
def test_a_number_of_seeds_is_a_whole_number(count: Any) -> None:
    said = refused(None, {"id": "ppo", "kind": "rl", "seeds": count})
    assert said == f"r.toml: ppo.seeds = {count!r} must be a whole number from 1 to 1000"


def test_ids_that_clash_are_refused() -> None:
    other = {"id": "ppo-2", "kind": "rl"}
    said = "r.toml: two stages have the id 'ppo-2', one of them by seeds or rounds: rename one"
    assert refused(None, other, {"id": "ppo", "kind": "rl", "seeds": 2}) == said
    assert refused(ROUNDS, SFT_STAGE, *ONCE, other) == said


def test_an_override_reaches_all_seeds_which_draw_from_streams_of_their_own() -> None:
    recipe = parsed(PREFIX + PPO.replace("[[stage]]", "[[stage]]\nseeds = 3"), "ppo.rounds=7", "ppo.optim.lr=0.5")
    seeds: list[Any] = [recipe.stages[f"ppo-{n}"] for n in (1, 2, 3)]
    assert [(s.rounds, s.optim.lr) for s in seeds] == [(7, 0.5)] * 3
    assert seeds[0] == seeds[1] == seeds[2]
    streams = [stage_seed(recipe.seed, f"ppo-{n}") for n in (1, 2, 3)]
    assert len(set(streams)) == 3
    assert len({fingerprint(stage, seed, {}) for stage, seed in zip(seeds, streams)}) == 3


# --- rounds -----------------------------------------------------------------------------------------------------------


def test_a_name_means_this_round_s_stage_or_the_round_s_before() -> None:
    found = made(ROUNDS, SFT_STAGE, *ONCE, {"id": "end", "kind": "evaluate", "models": {"a": "sft", "b": "ppo"}})
    assert list(found) == ["sft", *(f"{id}-{n}" for n in (1, 2) for id in BLOCK), "end"]
    assert (found["samples-1"]["policy"], found["samples-2"]["policy"]) == ("sft", "ppo-1")
    assert (found["rankings-1"]["groups"], found["rankings-2"]["groups"]) == ("samples-1", "samples-2")
    assert (found["reward-1"]["groups"], found["reward-2"]["groups"]) == (["rankings-1"], ["rankings-1", "rankings-2"])
    assert found["reward-2"]["model"] == "sft"
    assert (found["ppo-1"]["policy"], found["ppo-2"]["policy"]) == ("sft", "ppo-1")
    assert found["ppo-2"]["judge"] == {"kind": "reward_model", "model": "reward-2"}
    assert found["end"]["models"] == {"a": "sft", "b": "ppo-2"}


def test_all_so_far_takes_in_what_stands_for_round_0_and_behind_the_block_every_round() -> None:
    behind = [
        {"id": "last", "kind": "reward", "groups": "all:rankings"},
        {"id": "mixed", "kind": "reward", "groups": ["outside", "all:rankings", "rankings"]},
    ]
    again = {"id": "rankings", "kind": "label", "groups": "all:rankings"}  # itself: so the rounds before
    rounds = {"count": 2, "stages": ["rankings"], "start": {"rankings": "first"}}
    found = made(rounds, again, *behind)
    assert found["rankings-1"]["groups"] == ["first"]
    assert found["rankings-2"]["groups"] == ["first", "rankings-1"]
    assert found["last"]["groups"] == ["first", "rankings-1", "rankings-2"]
    assert found["mixed"]["groups"] == ["outside", "first", "rankings-1", "rankings-2", "rankings-2"]


def test_only_a_reference_is_renamed() -> None:
    """A stage is often called like an algorithm, a judge, a part of the data or an evaluated model."""
    named = {"id": "ppo", "kind": "rl", "policy": "ppo", "algorithm": {"kind": "ppo"}, "judge": {"name": "ppo"}}
    nested = {"id": "l", "kind": "label", "over": "ppo", "judges": [{"kind": "x", "model": "ppo"}, {"kind": "ppo"}]}
    found = made({"count": 1, "stages": ["ppo"], "start": {"ppo": "sft"}}, named, nested)
    assert found["ppo-1"] == {**named, "id": "ppo-1", "policy": "sft"}
    assert found["l"]["judges"] == [{"kind": "x", "model": "ppo-1"}, {"kind": "ppo"}]
    assert found["l"]["over"] == "ppo"


def test_seeds_in_a_block_are_the_seeds_of_each_round() -> None:
    found = made({"count": 2, "stages": ["ppo"]}, {"id": "ppo", "kind": "rl", "policy": "sft", "seeds": 2})
    assert list(found) == ["ppo-1-1", "ppo-1-2", "ppo-2-1", "ppo-2-2"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"start": {}}, "samples names 'ppo', which does not exist in the first round: add ppo to rounds.start"),
        ({"count": 0}, "rounds.count = 0 must be a whole number from 1 to 1000"),
        ({"count": True}, "rounds.count = True must be a whole number from 1 to 1000"),
        ({"stages": []}, "rounds.stages = [] must be ids of stages of this recipe"),
        ({"stages": ["samples", "ranks"]}, "rounds.stages = ['samples', 'ranks'] must be ids of stages of this recipe"),
        ({"stages": BLOCK[::-1]}, "rounds.stages must be neighbouring stages, in their order: reorder them"),
        ({"stages": ["samples", "reward"], "start": {}}, "rounds.stages must be neighbouring stages, in"),
        (
            {"start": {"sft": "base"}},
            "rounds.start = {'sft': 'base'} must be a table whose keys are ids in rounds.stages",
        ),
        ({"start": "sft"}, "rounds.start = 'sft' must be a table whose keys are ids in rounds.stages"),
        ({"begin": {}}, "rounds must be a table with count and stages, and optionally start"),
    ],
)
def test_rounds_that_mean_nothing_are_refused(change: Entry, says: str) -> None:
    assert refused({**ROUNDS, **change}, SFT_STAGE, *ONCE).startswith(f"r.toml: {says}")


def test_all_of_what_is_no_stage_of_the_block_is_refused() -> None:
    wrong = {**ONCE[2], "groups": "all:sft"}
    said = refused({"count": 2, "stages": ["reward"]}, SFT_STAGE, wrong)
    assert said == "r.toml: reward names 'all:sft': add 'sft' to rounds.stages, or name one of them"
    early = {**ONCE[2], "groups": "all:reward"}
    said = refused({"count": 2, "stages": ["reward"]}, early)
    assert (
        said == "r.toml: reward names 'all:reward', which does not exist in the first round: add reward to rounds.start"
    )


def test_in_a_recipe_the_types_tell_what_is_a_reference() -> None:
    evaluation = f"""
[[stage]]
id = "evaluation"
kind = "evaluate"
models = {{ sft = "sft", ppo = "ppo", 1 = "ppo" }}
over = "ppo"
prompts = {{ kind = "phrasebook", part = "held_out", count = 8 }}
judge = {QUALITY}
reward = "reward"
"""
    table = tomllib.loads(PREFIX + PPO + evaluation)
    table["rounds"] = ROUNDS
    stages: Any = parse(table, "r.toml").stages
    assert stages["evaluation"].models == {"sft": "sft", "ppo": "ppo-2", "1": "ppo-2"}
    assert (stages["evaluation"].over, stages["evaluation"].reward) == ("ppo", "reward-2")
    assert (stages["ppo-2"].policy, stages["ppo-2"].critic, stages["ppo-2"].judge.model) == ("sft", *["reward-2"] * 2)
    table["stage"][3]["policy"] = "all:ppo"  # one policy is asked for
    with pytest.raises(TropismError, match=r"r.toml: samples-1.policy = \['sft'\] must be a string"):
        parse(table, "r.toml")


def test_the_recipe_in_the_docstring_is_one() -> None:
    text = inspect.getdoc(expand) or ""
    shown = textwrap.dedent("\n".join(line for line in text.splitlines() if not line or line.startswith("    ")))
    stages = (SAMPLES + RANKINGS + REWARD + PPO).replace('policy = "sft"', "") + shown[shown.index("[[stage]]") :]
    more = "\n".join(PPO.splitlines()[4:]).replace('policy = "sft"', "")
    head = shown[: shown.index("[[stage]]")]
    text = head + TOKENIZER + BASE + SFT + stages.replace('kind = "collect"', 'kind = "collect"\npolicy = "ppo"') + more
    recipe: Any = parsed(text)
    assert list(recipe.stages)[3:] == [f"{id}-{n}" for n in (1, 2, 3) for id in BLOCK] + ["apa-1", "apa-2", "apa-3"]
    assert [recipe.stages[f"samples-{n}"].policy for n in (1, 2, 3)] == ["sft", "ppo-1", "ppo-2"]
    assert recipe.stages["ppo-3"].policy == recipe.stages["apa-2"].policy == "sft"


def test_two_rounds_as_they_run(tmp_path: Path) -> None:
    once = SAMPLES.replace('policy = "sft"', 'policy = "ppo"') + RANKINGS
    once += REWARD.replace('groups = "rankings"', 'groups = "all:rankings"')
    once += PPO.replace("rounds = 4", "rounds = 2").replace('policy = "sft"', 'policy = "ppo"')
    rounds = f"[rounds]\ncount = 2\nstages = {json.dumps(BLOCK)}\nstart = {{ ppo = 'sft' }}\n"
    (tmp_path / "online.toml").write_text(rounds + TOKENIZER + BASE + SFT + once)
    said = tropism("run", tmp_path / "online.toml", "--out", tmp_path / "run", "--quiet")
    assert said.code == 0, said.err
    stages = latest(tmp_path / "run")
    assert list(stages) == ["tokenizer", "base", "sft", *(f"{id}-{n}" for n in (1, 2) for id in BLOCK)]
    facts = {id: json.loads((path / "DONE").read_text("utf-8"))["meta"]["facts"] for id, path in stages.items()}
    marks = {id: json.loads((path / "stage.json").read_text("utf-8")) for id, path in stages.items()}
    # the second reward model learns from the rankings of both rounds, each less its held-out prompts
    train = [facts[f"rankings-{n}"]["groups"] - facts[f"rankings-{n}"]["test_groups"] for n in (1, 2)]
    assert train[0] > 0 and train[1] > 0
    assert (facts["reward-1"]["groups"], facts["reward-2"]["groups"]) == (train[0], sum(train))
    # the second round's samples are of the first round's policy, on the same prompts
    inputs = marks["samples-2"]["inputs"]
    assert inputs == {"ppo-1": marks["ppo-1"]["fingerprint"]}
    first, second = (list(read_groups(stages[f"samples-{n}"] / "out")) for n in (1, 2))
    assert (
        [g.prompt for g in first]
        == [g.prompt for g in second]
        == [g.prompt for g in Phrasebook("prompts", 24).groups()]
    )
    assert [[c.text for c in g.completions] for g in first] != [[c.text for c in g.completions] for g in second]
    # and its policy goes on from there
    assert set(marks["ppo-2"]["inputs"]) == {"ppo-1", "reward-2"}
    assert len(read_metrics(stages["ppo-2"])) == 2
