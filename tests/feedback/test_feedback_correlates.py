"""Log-odds with an informative Dirichlet prior: a case worked by hand, and a selection in which one word stands out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tropism.feedback import correlates as subject
from tropism.feedback import importing
from tropism.feedback import project as projects
from tropism.feedback.correlates import Correlate, correlates, log_odds
from tropism.feedback.find import Filter
from tropism.feedback.store import Store, open_store
from tropism.types import Completion, Group, Message


def test_a_case_worked_by_hand():
    """10 of 100 words against 5 of 200, a prior of 10 words of which a twentieth is this one: a = 0.5.

    delta = ln(10.5 / 99.5) - ln(5.5 / 204.5) = -2.248782 + 3.615820, its variance 1/10.5 + 1/5.5 = 0.277056.
    """
    weights = log_odds(np.array([10.0, 5.0]), 100, np.array([5.0, 10.0]), 200, np.array([0.05, 0.05]), 10)
    assert weights[0] == pytest.approx(1.367037 / 0.526361, abs=1e-5)
    # the other word: ln(5.5 / 104.5) - ln(10.5 / 199.5) = -2.944439 + 2.944439, no difference at all
    assert weights[1] == pytest.approx(0, abs=1e-12)


def test_the_other_way_round_is_the_opposite():
    y, rest, share = np.array([7.0, 0.0, 3.0]), np.array([2.0, 9.0, 3.0]), np.array([0.2, 0.1, 0.05])
    there = log_odds(y, 50, rest, 80, share, 500)
    assert there == pytest.approx(-log_odds(rest, 80, y, 50, share, 500))
    assert there[0] > 0 > there[1]


def test_a_heavier_prior_says_less():
    said = [abs(log_odds(np.array([9.0]), 50, np.array([3.0]), 50, np.array([0.1]), a)[0]) for a in (1, 100, 10_000)]
    assert said == sorted(said, reverse=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """100 groups of two answers; every fourth group is about the sea, is tagged so, and its answers say "salt"."""
    made = open_store(tmp_path_factory.mktemp("correlates") / "store.db", create=True)
    with made.writing() as session:
        projects.create(session, "demo", "pair", {}, 1, 0, "", 0.0)

    def group(g: int) -> Group:
        sea = g % 4 == 0
        texts = (
            f"the water is {'salt' if sea else 'sweet'} here",
            f"there is water and {'salt salt' if sea else 'sun'} too",
        )
        tags = {"tags": ["sea", "all"] if sea else ["all"]}
        return Group(
            f"g{g}",
            (Message("user", f"case {g}"),),
            tuple(map(Completion, texts)),
            meta={"category": "ab"[sea], **tags},
        )

    importing.add_groups(made, "demo", map(group, range(100)))
    return made


def told(store: Store, wanted: Filter) -> subject.Correlates:
    with store.reading() as session:
        return correlates(session, projects.find(session, "demo"), wanted)


def test_what_stands_out(store: Store):
    """50 of 200 answers, each with "salt" once for the count, however often; a group has 5 + 6 different words."""
    cloud = told(store, Filter(category="b"))
    assert [(c.word, c.count, c.tag) for c in cloud.words] == [("salt", 50, False), ("sea", 25, True)]
    assert (cloud.read, cloud.of, cloud.rest) == (50, 50, 150)
    # by the formula: 25 x (5 + 6) words here and 75 x (5 + 6) there, "salt" is 50 of all 1100, which count as 1101
    a = 500 * 50 / 1101
    delta = math.log((50 + a) / (275 + 500 - 50 - a)) - math.log(a / (825 + 500 - a))
    assert cloud.words[0].weight == pytest.approx(delta / math.sqrt(1 / (50 + a) + 1 / a), abs=0.005)


def test_what_was_searched_does_not_stand_out(store: Store):
    assert "salt" not in [c.word for c in told(store, Filter(text="salt")).words]
    assert Correlate("sea", 0, 0, True) not in told(store, Filter(tag="sea")).words
    assert [c.word for c in told(store, Filter(tag="sea")).words] == ["salt"]


@pytest.mark.parametrize("wanted", [Filter(), Filter(category="none"), Filter(text="water")])
def test_all_and_nothing_have_no_correlates(store: Store, wanted: Filter):
    assert told(store, wanted).words == ()


def test_of_many_a_sample_is_read(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(subject, "SELECTED", 20)
    cloud = told(store, Filter(category="b"))
    assert (cloud.read, cloud.of) == (20, 50)
    assert ("salt", 20) in [(c.word, c.count) for c in cloud.words]
    assert told(store, Filter(category="b")) == cloud  # the same seed, the same sample
