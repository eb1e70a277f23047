"""Progress for people: a bar with rate and time left on a terminal, one line a stage elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from tropism.outside import plain


class Progress:
    """One bar. `advance` is cheap to call often; `show` puts a few numbers beside the bar."""

    def __init__(self, bars: Bars | None, what: str, total: float, unit: str) -> None:
        self._bars, self._unit = bars, unit
        self._task = bars.add_task(what, total=total, rate="", numbers="") if bars else None
        self._began, self._rated = time.monotonic(), 0.0

    def advance(self, amount: float = 1, rated: float | None = None) -> None:
        """Moves the bar by `amount`; `rated` is what the rate counts (tokens), by default the same."""
        if self._bars is None or self._task is None:
            return
        self._rated += amount if rated is None else rated
        elapsed = max(time.monotonic() - self._began, 1e-6)
        self._bars.update(self._task, advance=amount, rate=f"{self._rated / elapsed:,.0f} {self._unit}/s")

    def show(self, **numbers: float) -> None:
        if self._bars is not None and self._task is not None:
            text = "  ".join(f"{name} {value:.3g}" for name, value in numbers.items())
            self._bars.update(self._task, numbers=text)


class Reporter:
    """Where lines and bars go; `quiet` for nothing at all."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, soft_wrap=True, highlight=False)

    def line(self, text: str) -> None:
        self.console.print(plain(text), markup=False)

    @contextlib.contextmanager
    def progress(self, what: str, total: float, unit: str) -> Iterator[Progress]:
        if not self.console.is_terminal:
            yield Progress(None, what, total, unit)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
        )
        with Bars(*columns, console=self.console) as bars:
            yield Progress(bars, what, total, unit)
