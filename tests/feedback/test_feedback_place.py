"""Where a store is: a file, a URL, or the file in a run folder."""

from __future__ import annotations

from pathlib import Path

from tropism.feedback.place import place


def test_a_run_folder_stands_for_the_store_in_it(tmp_path: Path) -> None:
    assert place(tmp_path) == tmp_path  # an empty folder is no run: the store will say so
    (tmp_path / "recipe.json").write_text("{}")
    assert place(tmp_path) == place(str(tmp_path)) == tmp_path / "feedback.sqlite"
    assert place(tmp_path / "mine.sqlite") == tmp_path / "mine.sqlite"
    url = "postgresql+psycopg://host/name"
    assert place(url) == url
