"""A store of the first schema opens after the last with its data, and what was in it is found."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, text

from tropism.feedback import project as projects
from tropism.feedback.find import Filter, search
from tropism.feedback.store import open_store

ROWS = """
INSERT INTO project VALUES (1, 'old', 1, 0, 5.0);
INSERT INTO question VALUES (1, 1, 1, 'rank', '{}', '', 5.0);
INSERT INTO person VALUES (1, 'anna', 'person', NULL, FALSE, 5.0, NULL);
INSERT INTO groups VALUES (1, 1, 'g', 'd', '[{"role": "user", "content": "of the \\"sea\\""}]', NULL, '{}', '', '', '', 2, 1, 0.0, NULL, NULL, 5.0, 1);
INSERT INTO completion VALUES (1, 1, 0, 'deep', 1, 'p', '{}', NULL);
INSERT INTO completion VALUES (2, 1, 1, 'blue', 1, 'p', '{}', NULL);
INSERT INTO comment VALUES (1, 1, NULL, 1, 'a remark', 5.0);
"""  # noqa: E501


@pytest.mark.parametrize(
    ("typed", "count"), [("sea", 1), ("user", 0), ("content", 0), ("blue", 1), ("remark", 1), ("red", 0)]
)
def test_what_an_old_store_says_is_found(where: str, typed: str, count: int, tmp_path: Path):
    if not where.startswith("sqlite"):
        pytest.skip("the stores of PostgreSQL are copies of a template with the newest schema")
    engine = create_engine(where)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection)
        with Operations.context(context):
            import_module("tropism.feedback.migrations.0001_tables").upgrade()
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        for row in (*ROWS.strip().splitlines(), "INSERT INTO alembic_version VALUES ('0001')"):
            connection.exec_driver_sql(row.rstrip(";"))
    engine.dispose()
    store = open_store(where)
    with store.reading() as session:
        assert search(session, projects.find(session, "old"), Filter(text=typed)).count == count
    with store.writing() as session:  # the index follows a text that changes, as the prompt of a battle does
        session.execute(text("UPDATE completion SET text = 'green' WHERE id = 2"))
    with (
        store.reading() as session
    ):  # typed otherwise than above: an answer that was kept is of a store that has not changed
        project = projects.find(session, "old")
        told = {word: search(session, project, Filter(text=f'"{word}"')).count for word in ("blue", "green")}
    assert told == {"blue": 0, "green": 1}
    store.close()
