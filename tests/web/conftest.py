"""What tests of pages share: a store with groups, a server in a thread, one Chromium for all of tests/web.

    def test_it(world, visit):
        page = visit(world, "/projects/demo/label")           # logged in as this machine's user, English, light, wide
        page = visit(world, "/…", locale="ms-MY", dark=True, width=390)
        world.store, world.client                             # an HTTP client with the session and its CSRF token

Tests that need no browser take `world` alone. `visit` skips where there is no chromium.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from web_world import TOKEN, World, axe_serious, csrf, groups_of, served

from tropism.feedback import importing
from tropism.feedback import project as projects
from tropism.feedback.store import open_store
from tropism.types import Group
from tropism.web.app import Config, create_app


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., World]]:
    """worlds(groups, kind="rank", spec={}, per_group=1, accounts=False, guidelines="", models={}): a store with the project
    "demo", served."""
    ends: list[Callable[[], Any]] = []

    def make(
        groups: list[Group] | None = None,
        kind: str = "rank",
        spec: dict[str, Any] | None = None,
        per_group: int = 1,
        accounts: bool = False,
        guidelines: str = "Prefer the *shorter* one.",
        models: dict[str, Any] | None = None,
    ) -> World:
        store = open_store(tmp_path_factory.mktemp("web") / "store.db", create=True)
        with store.writing() as session:
            projects.create(session, "demo", kind, spec or {}, per_group, 7, guidelines, store.now(session))
        importing.add_groups(store, "demo", groups if groups is not None else groups_of(3))
        config = Config(token="" if accounts else TOKEN, local="tester", models=models or {}, secret="of the tests")
        url, stop = served(create_app(store, config))
        client = httpx2.Client(base_url=url, follow_redirects=True, timeout=30)
        ends.extend([stop, client.close, store.close])
        if not accounts:
            client.headers["X-CSRF-Token"] = csrf(client.get("/", params={"token": TOKEN}).text)
        return World(store, url, client)

    yield make
    for end in ends:
        end()


@pytest.fixture(scope="module")
def world(worlds: Callable[..., World]) -> World:
    """A project "demo" that asks to rank seven completions, with three groups."""
    return worlds()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One Chromium for the whole session; skips with the reason where there is none."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield started
        started.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """visit(world, path, locale="en-GB", dark=False, width=1280, height=900, enter=True): a page of a new browser context.
    `enter` goes through the link with the token first. Errors in scripts and refused resources fail the test."""
    contexts, errors = [], []

    def open_(
        world: World, path: str, locale: str = "en-GB", dark: bool = False, width: int = 1280, height: int = 900,
        enter: bool = True, **options: Any,
    ) -> Any:  # fmt: skip
        scheme = "dark" if dark else "light"
        context = browser.new_context(
            locale=locale, color_scheme=scheme, viewport={"width": width, "height": height}, **options
        )
        contexts.append(context)
        context.set_default_timeout(30_000)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: errors.append(said.text) if "Content Security Policy" in said.text else None)
        if enter:
            page.goto(f"{world.url}/?token={world.token}")
        page.goto(f"{world.url}{path}")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not errors


@pytest.fixture(scope="session")
def axe() -> Callable[[Any], list[str]]:
    """axe(page): the serious violations that axe-core finds; a list to compare with []."""
    return axe_serious
