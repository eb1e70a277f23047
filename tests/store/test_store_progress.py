"""Bars: of a stage, and of all stages beside it."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from tropism.store.progress import Reporter


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    monkeypatch.setenv("TERM", "xterm")
    return io.StringIO()


def reporter(screen: io.StringIO) -> Reporter:
    made = Reporter()
    made.console = Console(file=screen, force_terminal=True, width=140, color_system=None)
    return made


def last(screen: io.StringIO, what: str) -> str:
    """The newest line on the screen that begins with `what`."""
    return re.findall(rf"{re.escape(what)}[^\n\x1b]*", screen.getvalue())[-1]


def test_the_bar_of_a_recipe_follows_the_stages_by_what_they_are_expected_to_take(screen: io.StringIO) -> None:
    told = reporter(screen)
    with told.whole("mine", [10.0, 30.0, 60.0]) as whole:
        with told.progress("a: training", 4, "tokens") as bar:
            bar.advance(1, rated=0)  # of an earlier try
            bar.advance(1, rated=100)
            assert whole._at == 5.0
        whole.next()
        with told.progress("b: first", 1, "groups") as bar:
            bar.advance(1)
            assert whole._at == 40.0
        with told.progress("b: second", 2, "groups") as bar:
            bar.advance(1)
            assert whole._at == 40.0  # it never goes back
        told.line("b: done")
        whole.next()
        whole.next()
    assert re.search(r"mine: stage 3 of 3 .* 100 %", last(screen, "mine:"))
    assert "0 tokens/s" not in screen.getvalue().replace("00 tokens/s", "")
    assert "b: done" in screen.getvalue() and "a: training" in screen.getvalue()


def test_a_bar_alone_and_bars_where_nobody_looks(screen: io.StringIO) -> None:
    with reporter(screen).progress("answering", 2, "tokens") as bar:
        bar.advance(2, rated=50)
        bar.show(loss=0.25)
    assert re.search(r"answering .* 100 % .* tokens/s .* loss 0.25", last(screen, "answering"))
    quiet = Reporter()
    quiet.console = Console(file=screen)
    before = screen.getvalue()
    with quiet.whole("mine", [1.0]) as whole, quiet.progress("a", 1, "tokens") as bar:
        bar.advance(1)
        whole.next()
    assert screen.getvalue() == before
