"""What is said in a chat becomes groups that can be exported and trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from talkers import Broken, Talker, events

from tropism.feedback import exporting, queue
from tropism.feedback import project as projects
from tropism.feedback.people import find

SAID = "I **am** <script>alert(1)</script>"


class Changing(Talker):
    """Another answer each time."""

    def stream(self, prompt: Any, params: Any) -> Any:
        yield from super().stream(prompt, params)
        yield f"No. {len(self.asked)}"


@pytest.fixture(scope="module")
def world(worlds: Callable[..., Any]) -> Any:
    return worlds(models={"one": Talker(SAID), "changing": Changing("This is"), "torn": Broken()})


def ask(world: Any, *contents: str, model: str = "one") -> list[tuple[str, dict[str, Any]]]:
    turns = [{"role": ("user", "assistant")[k % 2], "content": c} for k, c in enumerate(contents)]
    answer = world.client.post("/api/chat/answers", json={"model": model, "messages": turns})
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
    return events(answer.text)


def groups(world: Any, project: str) -> list[Any]:
    return list(exporting.groups(world.store, project))


def test_an_answer_comes_in_pieces_and_its_html_runs_nothing(world: Any):
    *pieces, (name, whole) = ask(world, "Who?")
    assert len(pieces) == 5 and {name for name, _ in pieces} == {"piece"} and name == "answer"
    assert "".join(data["text"] for _, data in pieces) == whole["text"] == f"{SAID} (turn 1). "
    assert "<strong>am</strong>" in whole["html"] and "<script" not in whole["html"]


def test_a_thumb_is_a_judgment_of_one_answer_and_may_change(world: Any):
    slip = ask(world, "Who?", "Nobody", "Really?")[-1][1]["answer"]
    for good, score in ((True, 1.0), (False, 0.0)):
        answer = world.client.post("/api/chat/thumbs", json={"answer": slip, "good": good})
        assert answer.status_code == 201 and answer.json().keys() == {"judgment"}
        (group,) = groups(world, "chat-thumbs")
        assert [(m.role, m.content) for m in group.prompt][1:] == [("assistant", "Nobody"), ("user", "Really?")]
        assert [(c.text, c.policy) for c in group.completions] == [(f"{SAID} (turn 2). ", "one")]
        (judgment,) = group.judgments
        assert (judgment.judge, judgment.scores, judgment.scale) == ("tester", (score,), "interval")


def test_the_chosen_one_of_several_answers_is_ranked_above_the_others(world: Any):
    slips = [ask(world, "Who?", model="changing")[-1][1]["answer"] for _ in range(3)]
    assert world.client.post("/api/chat/choices", json={"answers": slips, "best": 1}).status_code == 201
    (group,) = groups(world, "chat-choices")
    assert [c.text[-5:] for c in group.completions] == ["No. 2", "No. 1", "No. 3"]
    assert group.judgments[0].scores == (-1.0, -2.0, -2.0) and group.judgments[0].best == 0


def test_a_better_answer_is_a_completion_by_the_person_ranked_above(world: Any):
    slip = ask(world, "Who?")[-1][1]["answer"]
    answer = world.client.post("/api/chat/edits", json={"answer": slip, "text": "I am <b>I</b>."})
    assert answer.status_code == 201 and "&lt;b&gt;" in answer.json()["html"]
    (group,) = groups(world, "chat-edits")
    assert [(c.text, c.policy) for c in group.completions] == [
        (f"{SAID} (turn 1). ", "one"),
        ("I am <b>I</b>.", "tester"),
    ]
    assert group.judgments[0].scores == (0.0, 1.0)


def test_nobody_is_asked_about_them_again(world: Any):
    with world.store.writing() as session:
        for name in ("chat-thumbs", "chat-choices", "chat-edits"):
            assert queue.next_group(session, projects.find(session, name), find(session, "tester"), 1.0) is None


def test_bodies_that_do_not_fit_name_the_field(world: Any):
    slip, other = ask(world, "Who?")[-1][1]["answer"], ask(world, "What?")[-1][1]["answer"]
    user = [{"role": "user", "content": "x"}]
    for path, body, field in (
        ("answers", {"model": "none", "messages": user}, "model"),
        ("answers", {"model": ["one"], "messages": user}, "model"),
        ("answers", {"model": "one", "messages": []}, "messages"),
        ("answers", {"model": "one", "messages": user * 2}, "messages"),
        ("answers", {"model": "one", "messages": [{"role": "system", "content": "x"}]}, "messages"),
        ("answers", {"model": "one", "messages": [{"role": "user", "content": " "}]}, "messages"),
        ("thumbs", {"answer": slip, "good": "yes"}, "good"),
        ("thumbs", {"answer": slip[:-2] + "xx", "good": True}, "answer"),
        ("thumbs", {"good": True}, "answer"),
        ("choices", {"answers": [slip], "best": 0}, "answers"),
        ("choices", {"answers": [slip, other], "best": 0}, "answers"),
        ("choices", {"answers": [slip, slip], "best": 2}, "best"),
        ("edits", {"answer": slip, "text": " "}, "text"),
        ("edits", {"answer": slip, "text": f"{SAID} (turn 1). "}, "text"),
    ):
        answer = world.client.post(f"/api/chat/{path}", json=body)
        assert (answer.status_code, answer.json()["error"].get("field")) == (422, field), body
    same = world.client.post("/api/chat/choices", json={"answers": [slip, slip], "best": 0})
    assert same.status_code == 400 and "say the same" in same.json()["error"]["message"]


def test_a_model_that_fails_says_why_in_a_sentence(world: Any):
    (name, said) = ask(world, "Who?", model="torn")[-1]
    assert (
        name == "failed" and said["message"].startswith("the model torn gave no answer") and "\n" not in said["message"]
    )


def test_viewers_talk_to_no_model(world: Any):
    viewer = world.key("looks on", "viewer")
    body = {"model": "one", "messages": [{"role": "user", "content": "x"}]}
    assert world.client.post("/api/chat/answers", json=body, headers=viewer).status_code == 403
