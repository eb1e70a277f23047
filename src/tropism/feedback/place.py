"""Where a feedback store is: a file, a database by its SQLAlchemy URL, or the file that a run folder has it in.

Every command takes all three, so `tropism web RUN` opens the store that the run's own `label` stage asks people in.
"""

from __future__ import annotations

from pathlib import Path

from tropism.store.folder import RECIPE

IN_RUN = "feedback.sqlite"


def place(where: str | Path) -> str | Path:
    """The file or URL of a store, for `store.open_store`. A run folder stands for the file in it."""
    if "://" in str(where):
        return str(where)
    path = Path(where)
    return path / IN_RUN if (path / RECIPE).exists() else path
