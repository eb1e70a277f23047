"""The quality page: its figures, who may see what, and an adjudication in a browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from tropism.feedback import exporting, people, quality, queue
from tropism.feedback import project as projects
from tropism.types import Completion, Group, Judgment, Message
from tropism.web.pages.quality import body


def group(n: int) -> Group:
    """Three answers, a policy that nobody is to see, and the scores of a reward model."""
    texts = tuple(Completion(f"**answer** {c} <script>to</script> {n}", policy=f"secret-policy@{c}") for c in range(3))
    return Group(f"g{n}", (Message("user", f"question {n}"),), texts, (Judgment("rm@1", (0.25, 0.5, 0.125)),))


@pytest.fixture(scope="module")
def world(worlds: Callable[..., Any]) -> Any:
    """Ann and bob have ranked three groups; they agree on the first and are opposite on the second."""
    made = worlds([group(n) for n in range(3)], per_group=2)
    said = {"ann": [[1, 2, 3], [1, 2, 3], [2, 1, 3]], "bob": [[1, 2, 3], [3, 2, 1], [1, 2, 3]]}
    for name, ranks in said.items():
        with made.store.writing() as session:
            project = projects.find(session, "demo")
            who = people.add(session, name, 0.0)
            people.grant(session, project, who, "annotator")
            for given in ranks:
                leased = queue.next_group(session, project, who, 0.0)
                assert leased is not None
                answer = {"ranks": [given[number] for number in leased.shown]}
                queue.submit(session, leased.token, who, answer, 1.0, 4.0, comment=f"says {name}")
    return made


def test_the_page_has_the_figures_of_the_store(world: Any):
    html = world.client.get("/projects/demo/quality").text
    with world.store.reading() as session:
        project = projects.find(session, "demo")
        alpha = quality.alpha(session, project)["alpha"]
    assert f"{alpha['value']:.3f}" in html and f"{alpha['high']:.3f}" in html
    assert all(name in html for name in ("ann", "bob", "rm"))
    assert "secret-policy" not in html
    assert world.client.get("/projects/nowhere/quality").status_code == 404


def test_only_an_admin_sees_who_said_what(world: Any):
    with world.store.reading() as session:
        worst = quality.disagreements(session, projects.find(session, "demo"))[0].id
    viewer = httpx2.Client(base_url=world.url, headers=world.key("eve", "viewer"))
    page = viewer.get("/projects/demo/quality")
    assert page.status_code == 200 and "question 1" in page.text and f"/quality/{worst}" not in page.text
    for method in (viewer.get, viewer.post):
        assert method(f"/projects/demo/quality/{worst}").status_code == 403
    assert world.client.get("/projects/demo/quality/999").status_code == 404
    assert "says ann" in world.client.get(f"/projects/demo/quality/{worst}").text


@pytest.mark.parametrize(
    ("kind", "form", "answer"),
    [
        ("rank", {"answer-0": "2", "answer-1": "", "answer-2": "1"}, {"ranks": [2, 0, 1]}),
        ("rank", {"answer-0": "2", "choice": "bad"}, {"choice": "bad"}),
        ("rate", {"answer-0": "4", "answer-1": "", "answer-2": "1.5"}, {"scores": [4.0, None, 1.5]}),
        ("pair", {"choice": "1"}, {"choice": 1}),
        ("pair", {"choice": "tie"}, {"choice": "tie"}),
        ("thumb", {"choice": "0"}, {"choice": 0}),
        ("edit", {"text": "better"}, {"text": "better"}),
    ],
)
def test_a_form_becomes_the_body_that_scripts_send(kind: str, form: dict[str, str], answer: dict[str, Any]):
    assert body(kind, 3, form) == answer


def test_an_adjudicator_settles_a_group(world: Any, visit: Callable[..., Any], axe: Callable[[Any], list[str]]):
    page = visit(world, "/projects/demo/quality")
    assert axe(page) == []
    page.click("text=question 1")
    page.wait_for_url("**/quality/*")
    assert page.locator("h1").inner_text() == "Adjudication"
    first = page.locator("tbody tr").nth(0).locator("td.number").all_inner_texts()
    assert [cell.strip() for cell in first] == [
        "1",
        "3",
        "0.25",
    ]
    assert page.locator("#text-0 strong").inner_text() == "answer"  # Markdown, and a script stays text
    assert "<script>to</script>" in page.locator("#text-0").inner_text()
    assert "secret-policy" not in page.content()
    assert axe(page) == []
    page.click("button.main")  # nothing was said: what is wrong is told, what was written stays
    assert "no answer is ranked" in page.locator("[role=alert].bad").inner_text()
    for number, rank in enumerate("213"):
        page.select_option(f"[name=answer-{number}]", rank)
    page.fill("[name=comment]", "the second is shorter")
    page.click("button.main")
    page.get_by_text("question 0").first.wait_for()  # the next one: the people agree, the judge does not
    said = {j.judge: j for g in exporting.groups(world.store, "demo") if g.id == "g1" for j in g.judgments}
    assert said["adjudicator"].scores == (-2, -1, -3) and said["adjudicator"].rationale == "the second is shorter"
    assert {"ann", "bob", "rm@1"} < said.keys()
    page.goto(f"{world.url}/projects/demo/quality")
    assert "question 1" not in page.locator("section[aria-labelledby=queue]").inner_text()


def test_on_a_phone_in_the_dark_in_russian(world: Any, visit: Callable[..., Any], axe: Callable[[Any], list[str]]):
    page = visit(world, "/projects/demo/quality", locale="ru-RU", dark=True, width=390)
    assert page.locator("h1").inner_text() == "Качество"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390  # wide tables scroll inside
    assert axe(page) == []
    with world.store.reading() as session:
        one = next(g.id for g in quality.disagreements(session, projects.find(session, "demo")))
    page.goto(f"{world.url}/projects/demo/quality/{one}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert axe(page) == []


def test_nothing_to_show_is_said(worlds: Callable[..., Any]):
    html = worlds([], per_group=1).client.get("/projects/demo/quality").text
    assert "Nobody has judged yet." in html and "Nothing to compare yet" in html
