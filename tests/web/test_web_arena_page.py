"""The arena and the chat in a real browser: by keyboard, on a phone, in the dark, in Malay; nothing names a model early."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from talkers import Talker

from tropism.feedback import exporting

ONE, TWO = "zebra-one-7b", "yak-two-3b"
SAYS = "I say **this** <script>document.title = 'run'</script>"
TALKERS = {ONE: Talker(SAYS, 0.005), TWO: Talker("I say that", 0.005)}
Visit = Callable[..., Any]


@pytest.fixture(scope="module")
def world(worlds: Callable[..., Any]) -> Any:
    return worlds(models=TALKERS)


def test_a_battle_by_keyboard_alone_and_no_byte_names_a_model_before_the_vote(world: Any, visit: Visit, axe: Any):
    page = visit(world, "/arena")
    sent: list[bytes] = []

    def keep(response: Any) -> None:
        if response.status < 300:
            response.finished()
            sent.append(response.body())

    page.reload()
    page.on("response", keep)
    page.keyboard.type("Who are you?")  # the field has the focus
    page.keyboard.press("Enter")
    page.wait_for_selector("#vote:not([hidden])")
    assert "I say that (turn 1)." in page.inner_text(".turn") and page.inner_text(".answer strong") == "this"
    assert page.title() == "Arena · tropism" and "<script>" in page.inner_text(".turn")
    page.keyboard.press("/")
    page.keyboard.type("And now? 1 = 0")  # no votes while one writes
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=I say that (turn 2).")
    page.wait_for_selector(".turn >> nth=1")
    page.reload()  # an open battle is where it was
    page.wait_for_selector("text=I say that (turn 2).")
    seen = page.content() + page.url
    assert not re.search("zebra|yak", seen + b" ".join(sent).decode())
    assert len(sent) >= 4 and axe(page) == []
    page.keyboard.press("0")
    page.wait_for_selector("#again:not([hidden])")
    assert {ONE, TWO} <= set(re.findall("[a-z]+-[a-z]+-[0-9]b", page.inner_text("#names")))
    assert page.get_attribute("[data-vote=bad]", "aria-pressed") == "true" and axe(page) == []
    page.keyboard.press("n")
    page.wait_for_url("**/arena")
    (group,) = exporting.groups(world.store, "arena")
    assert group.judgments[0].scores == (0.0, 0.0) and group.meta["category"] == "several turns"


def test_on_a_phone_in_the_dark_in_malay(world: Any, visit: Visit, axe: Any):
    page = visit(world, "/arena", locale="ms-MY", dark=True, width=360, height=740)
    page.fill("#prompt", "Siapa anda? " + "x" * 300)
    page.click('button:has-text("Hantar")')
    page.click('button:has-text("A lebih baik")')
    page.wait_for_selector("#names p")
    assert axe(page) == []
    for path in ("/arena/ratings", "/chat"):
        page.goto(world.url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert axe(page) == []


def test_ratings_show_models_and_what_only_admins_see(world: Any, visit: Visit):
    page = visit(world, "/arena/ratings")
    assert page.locator(".ratings tbody tr").count() == 2 and page.locator(".ratings svg .interval").count() == 2
    assert page.locator(".pairs tbody td").count() == 4


def test_a_chat_by_keyboard_with_thumb_choice_and_edit(world: Any, visit: Visit, axe: Any):
    page = visit(world, "/chat")
    page.select_option("#model", TWO)
    page.focus("#prompt")
    page.keyboard.type("Hello")
    page.keyboard.press("Enter")
    page.wait_for_selector(".tools:not([hidden])")
    page.locator(".thumb[data-good=true]").press("Enter")
    page.wait_for_selector(".thumb[data-good=true][aria-pressed=true]")
    page.select_option("#model", ONE)
    page.locator(".again").press("Enter")
    page.wait_for_selector(".side >> nth=1 >> .choose:not([hidden])")
    page.locator(".side >> nth=1 >> .choose").press("Enter")
    page.wait_for_selector(".side.best")
    assert axe(page) == []
    page.locator(".side >> nth=1 >> .write").press("Enter")
    page.keyboard.press("Control+A")
    page.keyboard.type("I say <i>more</i>")
    page.locator(".better >> nth=1 >> text=Keep it").press("Enter")
    page.wait_for_selector("text=I say <i>more</i>")
    page.fill("#prompt", "And then?")
    page.keyboard.press("Enter")
    page.wait_for_selector(".turn >> nth=1 >> .tools:not([hidden])")
    said = TALKERS[ONE].asked[-1]
    assert [m.content for m in said] == ["Hello", "I say <i>more</i>", "And then?"]
    (thumb,), (choice,), (edit,) = (exporting.groups(world.store, f"chat-{n}") for n in ("thumbs", "choices", "edits"))
    assert (thumb.completions[0].policy, thumb.judgments[0].scores) == (TWO, (1.0,))
    assert [c.policy for c in choice.completions] == [ONE, TWO] and choice.judgments[0].scores == (-1.0, -2.0)
    assert [c.policy for c in edit.completions] == [ONE, "tester"] and edit.judgments[0].scores == (0.0, 1.0)
