"""Methods compared: against numbers worked by hand, and intervals against what they promise."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tropism.report.comparison import Look, Method, comparable, compare, curve, methods, optimised_too_far, table
from tropism.report.read import Findings, Finished

NAN = math.nan


def look(spent: float, kl: float, truth: Any, reward: Any = None) -> Look:
    return Look(spent, kl, np.array(truth if reward is None else reward, float), np.array(truth, float))


def method(name: str, *seeds: Sequence[Look], **more: Any) -> Method:
    return Method(name, tuple(tuple(seed) for seed in seeds), **more)


def line(spent: float, truth: Sequence[float | None], kl: float | None = None, **more: Any) -> dict[str, Any]:
    kl = spent / 100 if kl is None else kl
    return {"spent": spent, "probe_kl": kl, "by_prompt": {"truth": truth, "reward": truth}, **more}


PROBE = {
    "prompts": {"kind": "p"},
    "judge": {"kind": "j"},
    "truth": {"kind": "t"},
    "sampling": {"n": 4, "max_tokens": 9},
}
LINES = (line(0, [0.1, 0.2]), line(100, [0.3, 0.4]))


def stage(id: str, lines: Sequence[Any] = LINES, kind: str = "rl", **fields: Any) -> Finished:
    return Finished(id, kind, 1.0, {"kind": kind, "policy": "sft", "probe": PROBE, **fields}, {}, lines)


def findings(*stages: Finished) -> Findings:
    return Findings("r", tuple(s.id for s in stages), stages, {}, {})


# --- the figures at a level -------------------------------------------------------------------------------------------


def test_the_figures_at_a_level_lie_between_two_looks_prompt_by_prompt() -> None:
    a = method("a", [look(0, 0, [0.0, 1.0], [0, 0]), look(10, 1, [1.0, 1.0], [4, 0]), look(20, 3, [2.0, 5.0], [8, 4])])
    b = method("b", [look(0, 0, [0.0, 1.0], [0, 0]), look(10, 1.5, [0.0, 2.0], [1, 3])])
    found = compare([a, b])
    # b reached 1.5 nats and 10 tokens; a at 1.5 nats is a quarter of the way from its second look to its third:
    # truth (1.25, 2), reward (5, 1); b's truth is (0, 2)
    assert found["start"]["truth"]["value"] == 0.5
    assert found["start"]["prompts"] == 2
    at_kl, at_spent = found["equal_kl"], found["equal_spent"]
    assert (at_kl["level"], at_spent["level"]) == (1.5, 10.0)
    assert list(at_kl["methods"]) == ["a", "b"]
    assert (at_kl["methods"]["a"]["truth"]["value"], at_kl["methods"]["a"]["reward"]["value"]) == (1.625, 3.0)
    assert (at_kl["methods"]["b"]["truth"]["value"], at_kl["methods"]["b"]["reward"]["value"]) == (1.0, 2.0)
    assert at_kl["methods"]["a"]["over_start"]["value"] == 1.125
    assert at_kl["methods"]["b"]["behind_best"]["value"] == -0.625
    assert "behind_best" not in at_kl["methods"]["a"]
    assert {name: row["truth"]["value"] for name, row in at_spent["methods"].items()} == {"a": 1.0, "b": 1.0}
    # (1.25, 2) has the standard error 0.375, and Student's t with one degree of freedom is 12.706
    assert (at_kl["methods"]["a"]["truth"]["low"], at_kl["methods"]["a"]["truth"]["high"]) == (-3.1398, 6.3898)


def test_the_level_is_what_every_seed_of_every_method_reached_also_on_its_way() -> None:
    # KL goes up and down: seed 1 reached 4, seed 2 reached 3, the other method 2.5
    up = [look(0, 0, [0.0]), look(1, 4, [4.0]), look(2, 1, [9.0])]
    less = [look(0, 0, [0.0]), look(1, 3, [6.0]), look(3, 2, [9.0])]
    other = [look(0, 0, [0.0]), look(2, 2.5, [1.0])]
    found = compare([method("a", up, less), method("b", other)])
    assert found["equal_kl"]["level"] == 2.5
    # where each seed first got to 2.5: 2.5 of the first's 4.0, and 5/6 of the second's 6.0 = 5
    assert found["equal_kl"]["methods"]["a"]["truth"]["value"] == 3.75
    assert found["equal_spent"]["level"] == 2.0
    # at 2 tokens: 9 and 7.5
    assert found["equal_spent"]["methods"]["a"]["truth"]["value"] == 8.25


def test_a_method_that_never_moved_leaves_no_level() -> None:
    still = method("still", [look(0, 0, [1.0]), look(5, 0, [1.0])])
    found = compare([still, method("a", [look(0, 0, [1.0]), look(9, 1, [2.0])])])
    assert "equal_kl" not in found
    assert found["equal_spent"]["level"] == 5


def test_a_search_has_no_place_at_equal_compute() -> None:
    a, b = (method(n, [look(0, 0, [1.0]), look(9, 1, [t])]) for n, t in (("a", 2.0), ("b", 3.0)))
    search = method("s", [look(1, 0, [1.0]), look(2, 0.5, [4.0])], at_answers=True)
    found = compare([a, b, search])
    assert list(found["equal_kl"]["methods"]) == ["s", "b", "a"]
    assert found["equal_kl"]["level"] == 0.5
    assert list(found["equal_spent"]["methods"]) == ["b", "a"]
    assert found["equal_spent"]["level"] == 9
    assert [m["at_answers"] for m in found["methods"].values()] == [False, False, True]
    assert "equal_spent" not in compare([a, search])


def test_methods_that_are_as_good_to_four_digits_are_a_table_too() -> None:
    """The first is the best before rounding, and everything else is behind it."""
    found = table([method("a", [look(0, 1, [0.50001])]), method("b", [look(0, 1, [0.50002])])], "kl", 1.0)
    assert list(found) == ["b", "a"]
    assert "behind_best" in found["a"] and "behind_best" not in found["b"]


# --- differences and intervals ----------------------------------------------------------------------------------------


def test_the_same_method_twice_differs_by_nothing_and_that_is_not_certain() -> None:
    """Between -1 and 1, and in 40 prompts not one apart: at 1 in 40 more than 5 % apart would have been seen."""
    rng = np.random.default_rng(1)
    looks = [look(0, 0, rng.random(40)), look(1, 1, rng.random(40))]
    for seeds in ([looks], [looks, looks, looks]):
        row = compare([method("a", *seeds), method("b", *seeds)])["equal_kl"]["methods"]["b"]["behind_best"]
        assert (row["value"], row["p"]) == (0.0, 1.0)
        assert -0.07 < row["low"] == -row["high"] < -0.03
        json.dumps(row)
        assert "-0.0," not in json.dumps(row)


def test_a_shift_of_every_prompt_is_known_exactly() -> None:
    start = np.random.default_rng(2).normal(size=40)
    a = method("a", [look(0, 0, start), look(1, 1, start + 0.25)])
    b = method("b", [look(0, 0, start), look(1, 1, start + 1.0)])
    rows = compare([a, b])["equal_kl"]["methods"]
    assert rows["a"]["behind_best"] == {"value": -0.75, "low": -0.75, "high": -0.75, "over": "prompts", "p": 0.001}
    assert rows["b"]["over_start"] == {"value": 1.0, "low": 1.0, "high": 1.0, "over": "prompts", "p": 0.001}
    assert rows["b"]["truth"]["high"] - rows["b"]["truth"]["low"] > 0.5  # though a prompt is not like another


def three(more: float = 0.0) -> list[list[Look]]:
    """Three seeds that end at 0, 1 and 2, and `more`, on ten prompts all alike, so that only seeds differ."""
    return [[look(0, 0, [0.0] * 10), look(1, 1, [s + more] * 10)] for s in range(3)]


def test_seeds_widen_the_interval() -> None:
    """The means of three seeds have the variance 1, theirs 1/3; t with two degrees of freedom is 4.3027."""
    a = method("a", *three())
    row = curve([a], a)[-1]
    assert row["seeds"] == 3
    assert row["truth"] == {"value": 1.0, "low": -1.4841, "high": 3.4841, "over": "prompts and seeds"}


def test_each_method_s_seeds_are_drawn_on_their_own() -> None:
    """Seed 1 of one method has nothing to do with seed 1 of another: 1/3 and 1/3 add up, with 2.7764 for four degrees."""
    rows = compare([method("a", *three()), method("b", *three(0.1))])["equal_kl"]["methods"]
    row = rows["a"]["behind_best"]
    half = 2.7764 * math.sqrt(2 / 3)
    assert (row["low"], row["high"]) == (pytest.approx(-0.1 - half, abs=1e-3), pytest.approx(-0.1 + half, abs=1e-3))
    assert row["p"] > 0.5 and row["over"] == "prompts and seeds"
    # the start is one model, however many seeds looked at it
    assert rows["a"]["over_start"]["high"] - rows["a"]["over_start"]["value"] == pytest.approx(2.4842, abs=1e-3)


def test_one_seed_is_over_prompts_only_and_so_is_what_stands_beside_it() -> None:
    one = method("one", [look(0, 0, [0.0] * 10), look(1, 1, [0.5] * 10)])
    search = method("search", [look(0, 0, [0.0] * 10), look(1, 1, [9.0] * 10)], at_answers=True)
    found = compare([method("a", *three()), one])["equal_kl"]["methods"]
    over = {name: {key: row[key]["over"] for key in ("truth", "reward", "over_start")} for name, row in found.items()}
    assert set(over["a"].values()) == {"prompts and seeds"} and set(over["one"].values()) == {"prompts"}
    assert found["one"]["behind_best"]["over"] == "prompts"
    assert compare([method("a", *three()), one])["start"]["truth"]["over"] == "prompts"
    # a search is not trained: it varies with the prompts, and what it is compared with by its own seeds
    beside = compare([method("a", *three()), search])["equal_kl"]["methods"]
    assert (beside["search"]["truth"]["over"], beside["a"]["behind_best"]["over"]) == ("prompts", "prompts and seeds")


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """A paired difference with a mean of 0.3, 60 prompts; prompts differ far more than methods do."""
    rng, hits, p_values = np.random.default_rng(3), 0, []
    for _ in range(200):
        prompt = rng.normal(0, 3, 60)
        ours, theirs = (prompt + rng.normal(mean, 1, 60) for mean in (0.3, 0.0))
        both = [method("a", [look(0, 1, ours)]), method("b", [look(0, 1, theirs)])]
        rows = table(both, "kl", 1.0)
        loser = next(name for name, row in rows.items() if "behind_best" in row)
        found, sign = rows[loser]["behind_best"], (-1 if loser == "b" else 1)
        hits += found["low"] <= sign * 0.3 <= found["high"]
        same = table([both[0], method("b", [look(0, 1, prompt + rng.normal(0.3, 1, 60))])], "kl", 1.0)
        p_values += [row["behind_best"]["p"] for row in same.values() if "behind_best" in row]
    assert 0.90 <= hits / 200 <= 0.99
    assert 0.01 <= np.mean(np.array(p_values) < 0.05) <= 0.10  # of methods that are as good


# --- over-optimisation ------------------------------------------------------------------------------------------------


def way(truth: Callable[[float], float], reward: Callable[[float], float], seed: int = 0, prompts: int = 60) -> Method:
    """Eleven looks of one run, noise on every prompt; 100 tokens and 0.1 nats from one to the next."""
    rng = np.random.default_rng(seed)
    plain = rng.normal(0.6, 0.3, prompts)
    return method(
        "m",
        [
            look(
                100 * i,
                0.1 * i,
                plain + truth(i / 10) + rng.normal(0, 0.1, prompts),
                plain + reward(i / 10) + rng.normal(0, 0.1, prompts),
            )
            for i in range(11)
        ],
    )


def test_a_reward_that_is_hacked_is_flagged_where_the_truth_was_best() -> None:
    found = optimised_too_far(way(lambda x: 0.3 - 2 * (x - 0.4) ** 2, lambda x: 2 * x))
    assert found is not None
    assert found["kl"] in (0.3, 0.4, 0.5) and found["spent"] == round(1000 * found["kl"])
    assert found["truth_best"] - found["truth_last"] == pytest.approx(2 * 0.36, abs=0.1)
    assert found["reward_last"] - found["reward_best"] == pytest.approx(2 * (1 - found["kl"]), abs=0.1)


def test_the_moment_and_the_figures_of_a_hack_by_hand() -> None:
    """Truth 0, 2, 1 and reward 0, 1, 3 on each of ten prompts: without noise every fall is seen."""
    looks = [look(n, n / 10, [t] * 10, [r] * 10) for n, t, r in ((0, 0.0, 0.0), (5, 2.0, 1.0), (9, 1.0, 3.0))]
    expected = {"kl": 0.5, "spent": 5, "truth_best": 2.0, "truth_last": 1.0, "reward_best": 1.0, "reward_last": 3.0}
    assert optimised_too_far(method("m", looks)) == {**expected, "seeds": [1]}
    assert optimised_too_far(method("m", looks, looks)) == {**expected, "seeds": [1, 2]}
    assert optimised_too_far(method("m", looks, at_answers=True)) is None
    few = [look(x.spent, x.kl, x.truth[:9], x.reward[:9]) for x in looks]
    assert optimised_too_far(method("m", few)) is None  # nine prompts are too few to tell


@pytest.mark.parametrize(
    ("truth", "reward"),
    [
        (lambda x: 0.3 * x, lambda x: 2 * x),  # both rise
        (lambda x: -0.5 * x, lambda x: -2 * x),  # both fall: that is no hack, that is a bad learning rate
        (lambda x: 0.3 * min(x, 0.5), lambda x: 2 * x),  # the truth stops rising
    ],
)
def test_what_is_no_over_optimisation(truth: Callable[[float], float], reward: Callable[[float], float]) -> None:
    assert sum(optimised_too_far(way(truth, reward, seed)) is not None for seed in range(20)) <= 1


def test_noise_is_not_flagged() -> None:
    flat = [optimised_too_far(way(lambda x: 0.0, lambda x: 0.0, seed)) is not None for seed in range(200)]
    assert sum(flat) <= 6
    rising = [optimised_too_far(way(lambda x: 0.1 * x, lambda x: x, seed)) is not None for seed in range(200)]
    assert sum(rising) <= 3


def rising(end: int, seed: int) -> list[Look]:
    """A seed whose truth and reward rise to 0.1 per 100 tokens, with noise."""
    rng = np.random.default_rng(seed)
    return [look(100 * i, i, *(0.1 * i + rng.normal(0, 0.1, (2, 40)))) for i in range(end + 1)]


def test_a_late_collapse_of_the_longer_seed_is_seen() -> None:
    """Two seeds end at 400 tokens, the third goes on to 800 and loses all while its reward rises."""
    on = [look(400 + 100 * i, 4 + i, np.full(40, 0.4 - 0.1 * i), np.full(40, 0.4 + i)) for i in range(1, 5)]
    m = method("m", rising(4, 0), rising(4, 1), [*rising(4, 2), *on])
    far = optimised_too_far(m)
    assert far is not None and far["seeds"] in ([3], [1, 2, 3])
    assert far["truth_last"] < far["truth_best"] and far["reward_last"] > far["reward_best"]
    rows = curve([m], m)
    assert [(row["spent"], row["seeds"]) for row in rows] == [(100 * i, 3 if i <= 4 else 1) for i in range(9)]
    assert rows[-1]["truth"]["value"] == pytest.approx(0.0, abs=1e-9) and rows[-1]["truth"]["over"] == "prompts"
    alone = optimised_too_far(method("m", rising(4, 0), rising(6, 1), [*rising(4, 2), *on[:2]]))
    assert alone is not None and alone["seeds"] == [3]  # by itself it fell, the mean of the three did not
    assert optimised_too_far(method("m", rising(4, 0), rising(4, 1), rising(8, 2))) is None


def test_seeds_that_looked_at_other_moments_meet_on_the_line_between_their_looks() -> None:
    """At 100 and 200 tokens the second seed is half-way between its looks; at 300 it is where it ended, half a step ago."""
    one = [look(0, 0, [0.0]), look(100, 1, [1.0]), look(200, 2, [4.0]), look(300, 3, [5.0])]
    two = [look(0, 0, [0.0]), look(50, 2, [2.0]), look(150, 4, [4.0]), look(250, 8, [8.0])]
    m = method("m", one, two)
    rows = curve([m], m)
    assert [(row["spent"], row["kl"], row["truth"]["value"]) for row in rows] == [
        (0, 0.0, 0.0),
        (100, (1 + 3) / 2, (1 + 3) / 2),
        (200, (2 + 6) / 2, (4 + 6) / 2),
        (275, (3 + 8) / 2, (5 + 8) / 2),
    ]


def test_noise_on_three_seeds_is_not_flagged() -> None:
    for truth, most in ((lambda x: 0.0, 3), (lambda x: 0.1 * x, 2)):
        seeds = [[way(truth, lambda x: x, 3 * n + k).seeds[0] for k in range(3)] for n in range(60)]
        assert sum(optimised_too_far(method("m", *three)) is not None for three in seeds) <= most


# --- what was not scored ----------------------------------------------------------------------------------------------


def test_a_prompt_counts_where_every_seed_has_a_score() -> None:
    one = [look(0, 0, [1.0, 2.0, 3.0]), look(1, 1, [2.0, NAN, 6.0])]
    two = [look(0, 0, [1.0, 2.0, 3.0]), look(1, 1, [4.0, 100.0, NAN])]
    other = [look(0, 0, [1.0, 2.0, 3.0]), look(1, 1, [NAN, 9.0, 9.0])]
    found = compare([method("a", one, two), method("b", one[:1] + other[1:])])
    rows = found["equal_kl"]["methods"]
    assert rows["a"]["truth"]["value"] == 3.0  # the first prompt: 2 and 4
    assert rows["b"]["truth"]["value"] == 9.0  # the second and third
    assert rows["a"]["over_start"]["value"] == 2.0  # 3 of the first prompt, not 3 of 2
    assert "behind_best" not in rows["a"]  # they share no prompt
    json.dumps(found, allow_nan=False)


def test_nothing_in_the_report_is_no_number() -> None:
    rng = np.random.default_rng(0)

    def holes() -> list[float]:
        return [NAN if rng.random() < 0.5 else float(rng.normal()) for _ in range(4)]

    with np.errstate(all="raise"):
        for _ in range(30):
            looks = [[look(i, i / 10, holes(), holes()) for i in range(4)] for _ in range(6)]
            json.dumps(compare([method("a", *looks[:3]), method("b", *looks[3:])]), allow_nan=False)


def test_a_prompt_without_a_score_before_the_level_counts_at_it() -> None:
    found = table([method("a", [look(0, 0, [NAN, 1.0]), look(1, 2, [4.0, 2.0])])], "kl", 2.0)
    assert found["a"]["truth"]["value"] == 3.0


# --- from a run -------------------------------------------------------------------------------------------------------


def test_looks_come_from_the_metrics_with_what_was_not_scored_left_open() -> None:
    lines = [
        {"round": 1, "reward": 3.0},
        line(0, [1.0, None], kl=-0.01),  # an estimate of a KL may be below 0
        line(5, [None, None]),  # no look: nothing was scored
        line(6, [1.0, 2.0], kl=math.inf),
        line(7, [NAN, 2.0], probe_truth=NAN),
    ]
    (found,) = methods(findings(stage("tokenizer", ()), stage("ppo", lines)))
    assert (found.name, found.at_answers, len(found.seeds)) == ("ppo", False, 1)
    first, last = found.seeds[0]
    assert (first.spent, first.kl, last.spent) == (0.0, 0.0, 7.0)
    assert first.truth[0] == 1.0 and np.isnan(first.truth[1]) and np.isnan(last.reward[0]) and last.reward[1] == 2.0


def test_a_method_needs_a_truth() -> None:
    assert methods(findings(stage("ppo", [{"spent": 1, "probe_kl": 1.0, "by_prompt": {"reward": [1.0]}}]))) == []


def test_seeds_are_stages_that_differ_in_nothing_but_their_number() -> None:
    rounds = (stage("apa-1", policy="sft"), stage("apa-2", policy="apa-1"))
    both = (stage("dpo"), stage("dpo-2"))
    found = methods(findings(stage("ppo-1"), stage("ppo-2"), *rounds, stage("rest-gold-1"), *both))
    counts = {"ppo": 2, "apa-1": 1, "apa-2": 1, "rest-gold": 1, "dpo": 1, "dpo-2": 1}  # dpo stands for itself
    assert {m.name: len(m.seeds) for m in found} == counts


def test_methods_of_another_start_or_looked_at_in_another_way_are_left_out() -> None:
    other = {"prompts": {"kind": "q"}, "truth": {"kind": "u"}, "sampling": {"n": 4, "max_tokens": 10}}
    looks = [stage(key, probe={**PROBE, key: value}) for key, value in other.items()]
    more = stage("more", probe={**PROBE, "sampling": {"n": 9, "seed": 3, "max_tokens": 9}, "every": 7})
    search = stage("search", kind="best_of_n", **{**PROBE, "probe": None})
    found = methods(findings(stage("later", policy="ppo"), stage("ppo"), *looks, more, search))
    kept, others = comparable(found)
    assert [m.name for m in kept] == ["ppo", "more", "search"]
    assert others == ["later", *other]
    assert kept[-1].at_answers
    assert compare(kept, others)["left_out"] == others


def test_another_judge_s_reward_is_named() -> None:
    weak = stage("weak", probe={**PROBE, "judge": {"kind": "k"}})
    kept, others = comparable(methods(findings(stage("a"), weak, stage("b"))))
    assert [m.name for m in kept] == ["a", "weak", "b"] and not others
    assert compare(kept)["other_reward"] == ["weak"]
