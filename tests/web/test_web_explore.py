"""The explorer in a real browser, and `GET /api/projects/{p}/groups` as scripts see it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tropism.feedback import people
from tropism.store.plain import group_from_json
from tropism.types import Completion, Group, Judgment, Message

SCRIPT = "<script>document.title = 'broken'</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def sea(worlds: Callable[..., Any]) -> Any:
    """60 groups of two answers; every third is of the category "sea", has the tag "wet", and its answers say salt."""

    def group(g: int) -> Group:
        wet = g % 3 == 0
        land, sand = ("salt", "salt and deep blue") if wet else ("dry", "sand")
        texts = (f"the {land} land {'water ' * (g % 5)}", f"{sand} of {g}")
        judged = (Judgment("judge@1", (0.0, 1.0), rationale="the second is nearer"),) if g < 30 else ()
        meta = {"category": "sea" if wet else "land", "source": "test", "tags": ["wet"] if wet else []}
        said = tuple(Completion(text, policy=name) for text, name in zip(texts, ("first@1", "second@2")))
        return Group(f"group-{g}", (Message("user", f"Tell me about case {g}"),), said, judged, meta=meta)

    texts = (Completion("x" * 100_000, policy="p"), Completion(SCRIPT))
    odd = Group("odd", (Message("user", SCRIPT),), texts, meta={"category": "odd"})
    return worlds([*map(group, range(60)), odd], kind="rank")


def found(sea: Any, **fields: Any) -> dict[str, Any]:
    answer = sea.client.get("/api/projects/demo/groups", params=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_interface_for_scripts(sea: Any):
    told = found(sea, text="salt", min_words=4, author="second@2", sort="oldest", limit=5, offset=5)
    assert list(told) == ["count", "seconds", "groups", "correlates"]
    assert told["count"] == 20 and [g["id"] for g in told["groups"]] == [f"group-{g}" for g in (15, 18, 21, 24, 27)]
    assert 0 < told["seconds"] < 60
    assert {tuple(c) for c in told["correlates"]} == {("word", "weight", "count")}
    assert {"blue", "deep", "#wet"} <= {c["word"] for c in told["correlates"]}
    [one] = found(sea, text="case", category="sea", max_words=100, sort="longest", limit=1)["groups"] or [None]
    assert one is None  # "case" stands in prompts alone, and a number of words is asked of answers
    assert found(sea, text="case", category="sea")["count"] == 20


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"min_words": "many"}, "min_words"),
        ({"sort": "prettiest"}, "sort"),
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"offset": "-1"}, "offset"),
        ({"categry": "sea"}, "categry"),
        ({"max_score": "nan"}, "max_score"),
    ],
)
def test_a_wrong_field_is_named(sea: Any, fields: dict[str, str], field: str):
    answer = sea.client.get("/api/projects/demo/groups", params=fields)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == field and answer.json()["error"]["message"].startswith(f"{field}: ")


def test_who_is_let_in(sea: Any):
    def status(**headers: str) -> int:
        client = type(sea.client)(base_url=sea.url)
        with client:
            return client.get("/api/projects/demo/groups", headers=headers).status_code

    assert status() == 401
    assert status(**sea.key("reader", "viewer")) == 200
    assert status(**sea.key("labeller", "annotator")) == 403
    assert status(Authorization="Bearer nothing") == 401


def test_a_page_of_another_project_has_no_such_group(sea: Any):
    assert sea.client.get("/projects/demo/explore/groups/999999").status_code == 404
    assert sea.client.get(f"/projects/demo/explore/groups/{2**70}").status_code == 404
    assert sea.client.get("/projects/none/explore").status_code == 404


def test_searching_by_keyboard_and_refining_by_a_click(sea: Any, visit: Callable[..., Any]):
    page = visit(sea, "/projects/demo/explore")
    page.get_by_role("searchbox").focus()
    page.keyboard.type("salt")
    page.keyboard.press("Enter")
    page.wait_for_url("**/explore?text=salt")
    assert page.get_by_role("status").inner_text().startswith("20 groups · 0.")
    assert page.locator("mark").first.inner_text() == "salt"
    page.locator(".cloud").get_by_role("link", name="deep", exact=True).press("Enter")
    page.wait_for_url("**/explore?text=salt+deep")
    assert page.get_by_role("status").inner_text().startswith("20 groups")
    page.get_by_role("link", name="#wet").first.click()
    page.wait_for_url("**tag=wet**")
    page.locator(".chips").get_by_role("link", name="Tag").click()
    page.wait_for_url("**/explore?text=salt+deep")
    page.reload()  # the address is the whole state
    assert page.get_by_role("searchbox").input_value() == "salt deep"


def test_filters_pages_and_nothing(sea: Any, visit: Callable[..., Any]):
    page = visit(sea, "/projects/demo/explore?sort=oldest")
    assert page.locator(".results > li").count() == 20
    page.get_by_role("link", name="Next").click()
    page.wait_for_url("**offset=20")
    assert "21 to 40 of 61" in page.locator(".pages").inner_text()
    assert page.locator(".results a").first.inner_text() == "group-20"
    page.get_by_text("Filters").click()
    page.get_by_label("Category").select_option("land")
    page.get_by_label("Score from").fill("0.5")
    page.get_by_role("button", name="Search").click()
    page.wait_for_url("**category=land&min_score=0.5**")  # fields left empty are not in the address
    assert "=&" not in page.url and not page.url.endswith("=")
    assert page.get_by_role("status").inner_text().startswith("20 groups")
    page.goto(f"{sea.url}/projects/demo/explore?text=nowhere")
    assert "Nothing was found." in page.locator("main").inner_text()


def test_a_comment_a_tag_and_a_group_of_ones_own(sea: Any, visit: Callable[..., Any]):
    page = visit(sea, "/projects/demo/explore?text=case&sort=oldest")
    page.get_by_role("link", name="group-0", exact=True).click()
    page.get_by_role("heading", name="group-0").wait_for()
    page.get_by_role("rowheader", name="judge@1").wait_for()
    page.get_by_label("About").select_option("1")
    page.get_by_label("Comment", exact=True).fill(f"odd remark {SCRIPT}")
    page.get_by_role("button", name="Add a comment").click()
    page.wait_for_url("**#comments")
    assert f"odd remark {SCRIPT}" in page.locator("#comments").inner_text()
    page.locator("input[name=tag]").fill("#seen")
    page.get_by_role("button", name="Add a tag").click()
    page.wait_for_url("**#tags")
    assert found(sea, text="remark", author="tester")["count"] == found(sea, tag="seen")["count"] == 1

    page.goto(f"{sea.url}/projects/demo/explore/add")
    page.get_by_label("Prompt").fill("What is an island?")
    for number, text in ((1, "Land with water around it."), (2, "A reef.")):
        page.get_by_label(f"Answer {number}").fill(text)
    page.get_by_label("Tags").fill("own, #new")
    page.get_by_role("button", name="Add", exact=True).click()
    page.wait_for_url("**/explore/groups/*")
    assert "added by tester" in page.locator("main").inner_text()
    [own] = found(sea, text="reef", tag="new", author="tester")["groups"]
    assert own["added_by"] == "tester" and [c["words"] for c in own["completions"]] == [5, 2]


def test_exporting_the_selection(sea: Any):
    answer = sea.client.get("/projects/demo/explore/export", params={"category": "sea", "text": '"deep blue"'})
    assert "attachment" in answer.headers["content-disposition"]
    groups = [group_from_json(json.loads(line)) for line in answer.text.splitlines()]
    assert [g.id for g in groups] == [f"group-{g}" for g in range(0, 60, 3)]
    assert groups[0].judgments[0].scores == (0.0, 1.0) and groups[0].completions[1].policy == "second@2"


def test_what_others_wrote_stays_text(sea: Any, visit: Callable[..., Any]):
    page = visit(sea, "/projects/demo/explore?category=odd")
    assert SCRIPT in page.locator(".results").inner_text()
    page.get_by_role("link", name="odd", exact=True).first.click()
    page.wait_for_url("**/explore/groups/*")
    assert page.title() == "odd · demo"
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.parametrize(
    ("locale", "dark", "width"),
    [("en-GB", False, 1280), ("en-GB", True, 390), ("ms-MY", False, 390), ("ru-RU", True, 1280)],
)
def test_looks(
    sea: Any, visit: Callable[..., Any], axe: Callable[[Any], list[str]], locale: str, dark: bool, width: int
):
    for path in ("explore?text=salt&min_words=3", "explore/groups/1", "explore/add"):
        page = visit(sea, f"/projects/demo/{path}", locale=locale, dark=dark, width=width)
        assert page.locator("html").get_attribute("lang") == locale[:2]
        assert axe(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), path


def test_who_only_labels_sees_no_link(worlds: Callable[..., Any]):
    world = worlds(accounts=True)
    keys = {role: world.key(role, role) for role in ("viewer", "annotator")}
    with world.store.writing() as session:
        assert people.find(session, "viewer")
    pages = {role: world.client.get("/projects/demo/explore", headers=key) for role, key in keys.items()}
    assert pages["viewer"].status_code == 200 and 'href="/projects/demo/explore"' in pages["viewer"].text
    assert pages["annotator"].status_code == 403
