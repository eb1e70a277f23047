"""Plots against positions and ticks worked by hand."""

from __future__ import annotations

import itertools
import math
import re

import pytest

from tropism.report.axes import Axis, ticks
from tropism.report.elements import escape, timeline
from tropism.report.plots import Series, bars, lines, short, smoothed, whiskers
from tropism.report.words import plain


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.0, 2400.0, [0, 500, 1000, 1500, 2000]),
        (-0.31, 0.27, [-0.3, -0.2, -0.1, 0.0, 0.1, 0.2]),
        (1.1, 1.2, [1.1, 1.12, 1.14, 1.16, 1.18, 1.2]),
    ],
)
def test_ticks_are_round_numbers_within_the_range(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_every_range_has_a_few_ticks() -> None:
    for i in range(1, 400):
        assert 3 <= len(ticks(0.37 * i, 0.37 * i + 0.013 * i**2)) <= 9


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (2400.0, "2,400"),
        (0.5, "0.5"),
        (-0.25, "−0.25"),
        (1.4142, "1.41"),
        (0.00071, "0.00071"),
        (12.0, "12"),
    ],
)
def test_numbers_read_plainly(value: float, text: str) -> None:
    assert plain(value) == text


def test_smoothing_averages_x_and_y() -> None:
    points = [(0.0, 0.0), (1.0, 3.0), (2.0, 6.0), (3.0, 0.0)]
    assert smoothed(points, 3) == [(0.5, 1.5), (1.0, 3.0), (2.0, 3.0), (2.5, 3.0)]
    assert smoothed(points, 1) == points


def test_a_line_stands_where_its_numbers_say() -> None:
    # the plot's inside is x 50 to 326 and y 180 (bottom) to 24 (top): half of each is 188 and 102
    svg = lines("A line", [Series("a", [(0, 0.0), (5, 0.5), (10, 1.0)])], Axis("x"), Axis("y", 0.0, 1.0))
    assert '<polyline class="curve s0" points="50.0,180.0 188.0,102.0 326.0,24.0"/>' in svg
    assert 'aria-label="A line"' in svg


def test_points_that_are_no_numbers_are_not_drawn() -> None:
    svg = lines("A line", [Series("a", [(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)])], Axis("x"), Axis("y"))
    assert svg.count("<circle") == 2
    assert "nan" not in svg
    assert "inf" not in svg
    assert lines("Nothing", [Series("a", [(0, math.nan)])], Axis("x"), Axis("y")) == ""


def test_one_point_and_a_level_line_have_a_range() -> None:
    for points in ([(1, 0.0)], [(1, 5.0), (2, 5.0)]):
        assert "nan" not in lines("Flat", [Series("a", points)], Axis("x"), Axis("y"))


def test_a_whisker_spans_its_interval() -> None:
    # the inside is x 78 to 288, 210 wide: 0.2, 0.4 and 0.5 stand at 120, 162 and 183
    found = {"value": 0.4, "low": 0.2, "high": 0.5}
    svg = whiskers("Dots", {"PPO": {"greedy": found}}, Axis("share", 0.0, 1.0, percent=True))
    assert re.search(r'<line class="whisker" x1="120.0" x2="183.0"', svg)
    assert re.search(r'<circle class="point" cx="162.0"', svg)


def test_a_bar_stands_on_zero_with_its_interval() -> None:
    # the inside is x 50 to 326 and y 180 (bottom) to 24 (top): of two bars the first is 50 to 188, 97 of it drawn
    figures = [{"value": 0.5, "low": 0.25, "high": 0.75}, {"value": 1.0, "low": 1.0, "high": 1.0}]
    rows = [(name, figure, f"{name}!") for name, figure in zip(("near", "far"), figures)]
    svg = bars("Bars", rows, Axis("gap"), Axis("share", 0.0, 1.0, percent=True), 0.5)
    assert re.findall(r'<rect class="bar" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg) == [
        ("70.7", "102.0", "96.6", "78.0"),
        ("208.7", "24.0", "96.6", "156.0"),
    ]
    assert '<line class="rule" stroke-width="2" x1="119.0" x2="119.0" y1="141.0" y2="63.0"/>' in svg
    assert '<polyline class="mark" points="50.0,102.0 326.0,102.0"/>' in svg
    assert all(said in svg for said in (">near</text>", "<title>far!</title>", ">gap</text>"))
    assert bars("Bars", [], Axis("gap"), Axis("share"), 0.5) == ""


def test_the_bars_of_the_time_line_follow_each_other() -> None:
    # 100 wide: 30 of 120 seconds are a quarter
    table = timeline("Time", [("a", 30.0, "a"), ("b", 90.0, "b")])
    assert [
        tuple(map(float, m)) for m in re.findall(r'<rect class="bar" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', table)
    ] == [
        (0.0, 25.0),
        (25.0, 75.0),
    ]
    assert re.findall(r'<th scope="row">(.)</th>', table) == ["a", "b"]


def test_one_point_is_shown() -> None:
    """A line of one point draws nothing, so the point is a dot: in the middle of an axis that marks whole numbers."""
    svg = lines("One", [Series("loss", [(1.0, 2.0)])], Axis("step", whole=True), Axis("nats"))
    assert re.findall(r'<circle class="([^"]+)"', svg) == ["dot s0"]
    assert re.findall(r'class="tick middle"[^>]*>([^<]+)<', svg) == ["1"]
    assert "dot" not in lines("Two", [Series("loss", [(1.0, 2.0), (2.0, 2.0)])], Axis("step"), Axis("nats"))


def test_an_axis_from_zero_shows_what_lies_below_it() -> None:
    assert Axis("KL", zero=True).span([0.5, 2.0]) == (0.0, 2.0)
    assert Axis("KL", zero=True).span([-0.5, 2.0]) == (-0.5, 2.0)
    assert Axis("KL", zero=True).span([-0.5]) == (-0.5, 0.0)


def test_labels_never_run_into_each_other() -> None:
    """Letters are 6.6 wide and two stand between labels."""
    for high in (1.0, 900.0, 7e5, 3.2e9):
        svg = lines("Long", [Series("a", [(0.0, 0.0), (high, high)])], Axis("tokens"), Axis("tokens"))
        labels = [(float(x), said) for x, said in re.findall(r'class="tick middle" x="([\d.]+)"[^>]*>([^<]+)<', svg)]
        assert labels
        for (x, said), (other, beside) in itertools.pairwise(labels):
            assert other - x > 6.6 * (len(said) + len(beside)) / 2
        left = [(float(x), said) for x, said in re.findall(r'class="tick end" x="([\d.]+)"[^>]*>([^<]+)<', svg)]
        assert all(x - 6.6 * len(said) > -1 for x, said in left)


def test_escape_leaves_nothing_that_html_forbids() -> None:
    assert escape("<a b='\"&\x00\r\ud800\ufffe") == "&lt;a b=&#x27;&quot;&amp;����"
    assert escape("line\n\tbreak") == "line\n\tbreak"


def test_long_names_still_differ() -> None:
    assert short("GPT 4") == "GPT 4"
    assert short("general-preference/GPM-Gemma-2B") == "GPM-Gemma-2B"
    names = ["a/GPM-Llama-3.1-8B-Instruct", "a/GPM-Llama-3.1-8B-Instruct-v2", "x" * 30 + "/"]
    assert [short(name) for name in names] == [
        "GPM-Llama-3.1-…nstruct",
        "GPM-Llama-3.1-…ruct-v2",
        "x" * 14 + "…xxxxxx/",
    ]
