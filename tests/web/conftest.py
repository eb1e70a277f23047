"""What tests of pages share: a store with groups, a server in a thread, one Chromium for all of tests/web.

    def test_it(world, visit):
        page = visit(world, "/projects/demo/label")           # logged in as this machine's user, English, light, wide
        page = visit(world, "/…", locale="ms-MY", dark=True, width=390)
        world.store, world.client                             # an HTTP client with the session and its CSRF token

Tests that need no browser take `world` alone. `visit` skips where there is no chromium.
"""

from __future__ import annotations

import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from tropism.feedback import importing, people
from tropism.feedback import project as projects
from tropism.feedback.store import Store, open_store
from tropism.types import Completion, Group, Message
from tropism.web.app import Config, create_app

TOKEN = "a-token-of-the-link"
POLICY = "policy-4f1e@12"  # never to be seen on a page where people judge


def groups_of(count: int, k: int = 7, **texts: str) -> list[Group]:
    """`count` groups of k completions; texts["g0c2"] replaces the text of completion 2 of group 0."""
    return [
        Group(
            f"group-{g}",
            (Message("user", f"Translate into French: {g + 2} days ago"),),
            tuple(
                Completion(texts.get(f"g{g}c{c}", f"Il y a {g + 2} jours, réponse {c}."), policy=f"{POLICY}-{c}")
                for c in range(k)
            ),
            meta={"source": "test", "category": "days"},
        )
        for g in range(count)
    ]


@dataclass(frozen=True)
class World:
    store: Store
    url: str
    client: httpx2.Client
    token: str = TOKEN

    def key(self, name: str, role: str = "annotator", project: str = "demo") -> dict[str, str]:
        """A new person with a role, as the header that scripts send."""
        with self.store.writing() as session:
            person = people.add(session, name, self.store.now(session))
            people.grant(session, projects.find(session, project), person, role)
            return {"Authorization": f"Bearer {people.new_key(session, person, self.store.now(session))}"}


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


def csrf(html: str) -> str:
    found = re.search(r'data-csrf="([^"]*)"', html)
    assert found, html[:500]
    return found[1]


def served(app: Any) -> tuple[str, Callable[[], None]]:
    """The address of a server in a thread, and what ends it."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()

    def stop() -> None:
        server.should_exit = True
        thread.join(10)

    return f"http://127.0.0.1:{listening.getsockname()[1]}", stop


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
        context.set_default_timeout(10_000)
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


def axe_serious(page: Any) -> list[str]:
    """What axe-core calls serious or critical on a page, with WCAG 2.2 AA."""
    from axe_playwright_python.sync_playwright import Axe

    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
    # the script goes in past the page's content security policy, which forbids it like any other
    source = (Path(__import__("axe_playwright_python").__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    page.evaluate(source)
    found = page.evaluate("(tags) => axe.run({runOnly: tags})", tags)
    assert Axe is not None
    return [
        f"{v['id']}: {v['help']}: {node['html'][:200]} {node.get('failureSummary', '')[:300]}"
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
        for node in v["nodes"]
    ]


@pytest.fixture(scope="session")
def axe() -> Callable[[Any], list[str]]:
    """axe(page): the serious violations that axe-core finds; a list to compare with []."""
    return axe_serious
