"""A store with groups and a server in a thread, as the fixtures of tests/web make them."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import uvicorn

from tropism.feedback import people
from tropism.feedback import project as projects
from tropism.feedback.store import Store
from tropism.types import Completion, Group, Message

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
