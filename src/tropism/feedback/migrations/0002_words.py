"""0002: full text search over prompts, completions, comments and rationales, kept up to date by the database itself;
and the index from which `columns.py` reads what filters need without reading the texts.

SQLite: an FTS5 table for each, named <table>_words, without a copy of the text (content=''); its rowid is the row's id.
PostgreSQL: a generated column `found` with a GIN index. It holds the first 100,000 characters of a text, because a tsvector
may take 1 MB and a text that makes a longer one could not be stored at all.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

TEXTS = {"groups": "prompt", "completion": "text", "comment": "text", "judgment": "rationale"}


def upgrade() -> None:
    op.create_index("ix_completion_filters", "completion", ["group_id", "author", "words", "score"])
    (_postgresql if op.get_bind().dialect.name == "postgresql" else _sqlite)()


def _sqlite() -> None:
    run = op.get_bind().exec_driver_sql  # the statements have colons of their own
    for table, column in TEXTS.items():
        words = f"{table}_words"
        run(f"CREATE VIRTUAL TABLE {words} USING fts5(text, content='', tokenize='unicode61 remove_diacritics 2')")
        run(f"INSERT INTO {words}(rowid, text) SELECT id, {_said(table, column)} FROM {table}")
        new, old = _said("new", column), _said("old", column)
        add = f"INSERT INTO {words}(rowid, text) VALUES (new.id, {new});"
        drop = f"INSERT INTO {words}({words}, rowid, text) VALUES ('delete', old.id, {old});"
        run(f"CREATE TRIGGER {words}_added AFTER INSERT ON {table} BEGIN {add} END")
        run(f"CREATE TRIGGER {words}_changed AFTER UPDATE OF {column} ON {table} BEGIN {drop} {add} END")
        run(f"CREATE TRIGGER {words}_removed AFTER DELETE ON {table} BEGIN {drop} END")


def _said(row: str, column: str) -> str:
    if column != "prompt":
        return f"{row}.{column}"
    return (
        f"(SELECT group_concat(json_extract(value, '$.content'), char(10)) FROM json_each({row}.prompt) "
        "WHERE json_type(value) = 'object')"
    )


def _postgresql() -> None:
    op.execute(
        "CREATE FUNCTION prompt_text(prompt json) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS "
        "$$ SELECT string_agg(said ->> 'content', E'\\n') FROM json_array_elements(prompt) AS said $$"
    )
    for table, column in TEXTS.items():
        text = f"prompt_text({column})" if column == "prompt" else column
        op.execute(
            f"ALTER TABLE {table} ADD COLUMN found tsvector "
            f"GENERATED ALWAYS AS (to_tsvector('simple', left({text}, 100000))) STORED"
        )
        op.create_index(f"ix_{table}_found", table, [sa.text("found")], postgresql_using="gin")
