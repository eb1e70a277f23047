"""The format `chat`: three published shapes, and what makes a conversation a broken record."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tropism.errors import TropismError
from tropism.formats.chat import Chat
from tropism.types import Completion, Group, Message

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not there")

HI, YO = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}


def read(tmp_path: Path, *records: object) -> list[Group]:
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return list(Chat(str(file)).groups())


def turns(group: Group) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in group.prompt]


def test_openai(tmp_path: Path) -> None:
    record = {
        "messages": [
            {"role": "developer", "content": "be brief"},
            HI,
            YO,
            {"role": "tool", "content": ""},
            {"role": "user", "content": [{"type": "text", "text": "and "}, {"type": "text", "text": "you?"}]},
            {"role": "assistant", "content": "fine", "tool_calls": [], "name": None},
        ]
    }
    (group,) = read(tmp_path, record)
    assert group == Group(
        id="x.jsonl:1",
        prompt=(
            Message("system", "be brief"),
            Message("user", "hi"),
            Message("assistant", "yo"),
            Message("tool", ""),
            Message("user", "and you?"),
        ),
        completions=(Completion("fine"),),
        target="fine",
        meta={"source": "x.jsonl"},
    )


def test_sharegpt(tmp_path: Path) -> None:
    said = [
        ("human", "6 * 7?", "user"),
        ("function_call", "times(6, 7)", "assistant"),
        ("observation", "42", "tool"),
        ("gpt", "42.", "assistant"),
        ("user", "and 6 + 7?", "user"),
        ("gpt", "13.", "assistant"),
    ]
    record = {
        "conversations": [{"from": who, "value": text} for who, text, _ in said],
        "system": "count",
        "tools": "[]",
    }
    (group,) = read(tmp_path, record)
    assert turns(group) == [("system", "count")] + [(role, text) for _, text, role in said[:-1]]
    assert group.target == group.completions[0].text == "13."


def test_a_system_turn_is_not_doubled(tmp_path: Path) -> None:
    record = {"system": "field", "messages": [{"role": "system", "content": "turn"}, HI, YO]}
    assert turns(read(tmp_path, record)[0]) == [("system", "turn"), ("user", "hi")]


def test_alpaca(tmp_path: Path) -> None:
    groups = read(
        tmp_path,
        {"instruction": "Add.", "input": "1 + 1", "output": "2"},
        {"instruction": "Say a.", "input": "", "output": "a", "system": "", "history": []},
        {"instruction": "More.", "output": "c", "system": "S", "history": [["Say b.", "b"]]},
    )
    assert [turns(group) for group in groups] == [
        [("user", "Add.\n1 + 1")],
        [("user", "Say a.")],
        [("system", "S"), ("user", "Say b."), ("assistant", "b"), ("user", "More.")],
    ]
    assert [group.target for group in groups] == ["2", "a", "c"]


def test_raw_text_before_an_answer(tmp_path: Path) -> None:
    (group,) = read(
        tmp_path, {"messages": [{"role": "text", "content": "1, 2,"}, {"role": "assistant", "content": " 3"}]}
    )
    assert (turns(group), group.target) == ([("text", "1, 2,")], " 3")


def test_shapes_may_differ_from_record_to_record_and_nulls_are_absent(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    shapes = [
        {"messages": [HI, YO], "instruction": None, "output": None},
        {"messages": None, "instruction": "hi", "output": "yo"},
    ]
    pq.write_table(pa.Table.from_pylist(shapes), file)
    assert [(turns(g), g.target) for g in Chat(str(file)).groups()] == [([("user", "hi")], "yo")] * 2


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"instruction": "a"}, "field 'output' is missing; add it"),
        ({"instruction": "a", "output": ""}, "field 'output' is empty"),
        ({"instruction": "a", "output": "  "}, "field 'output' is empty"),
        ({"instruction": "", "output": "b"}, "field 'instruction' is empty"),
        ({"instruction": "a", "input": 3, "output": "b"}, "field 'input' is a number, not a text"),
        ({"instruction": "a", "output": "b", "history": "h"}, "field 'history' is a text, not a list"),
        ({"instruction": "a", "output": "b", "history": [["h"]]}, "field 'history[0]' is not [question, answer]"),
        (
            {"instruction": "a", "output": "b", "history": [["h", None]]},
            "field 'history[0].answer' is missing",
        ),
        ({"question": "a", "answer": "b"}, "has no field 'messages' or 'conversations' or 'instruction' (its fields:"
         " 'question', 'answer')"),
        ({"messages": []}, "field 'messages' is empty"),
        ({"messages": "hi"}, "field 'messages' is a text, not a list of messages"),
        ({"messages": [HI, "yo"]}, "field 'messages[1]' is a text, not a message"),
        ({"messages": [HI]}, "field 'messages' ends with a user turn; end it with an assistant turn"),
        ({"messages": [HI, YO, HI]}, "field 'messages' ends with a user turn"),
        ({"messages": [YO]}, "the prompt in field 'messages' has no turn to answer at its end"),
        ({"messages": [HI, YO, YO]}, "the prompt in field 'messages' has no turn to answer at its end"),
        ({"messages": [{"role": "user"}, YO]}, "field 'messages[0].content' is missing"),
        ({"messages": [{"content": "hi"}, YO]}, "field 'messages[0].role' is missing"),
        ({"messages": [{"role": "usr", "content": "hi"}, YO]}, "field 'messages[0].role' = 'usr' is not a known role"),
        ({"messages": [{"role": "user", "content": " "}, YO]}, "field 'messages[0].content' is empty"),
        (
            {"messages": [HI, {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}, YO]},
            "field 'messages[1].tool_calls' cannot be read",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, YO]},
            "field 'messages[0].content[0]' is not a text part",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}, YO]},
            "field 'messages[0].content[0].text' is missing",
        ),
        ({"messages": [HI, {"role": "text", "content": "x"}, YO]}, "field 'messages' has a role 'text' beside other"),
        ({"conversations": [{"from": "human"}]}, "field 'conversations[0].value' is missing"),
        ({"conversations": [{"from": "bot", "value": "x"}]}, "field 'conversations[0].from' = 'bot' is not a known role"),
        ({"messages": [HI, YO], "tools": [{"name": "f"}]}, "field 'tools' has tool definitions"),
    ],
)  # fmt: skip
def test_broken_conversations(tmp_path: Path, record: object, says: str) -> None:
    with pytest.raises(TropismError) as caught:
        read(tmp_path, {"messages": [HI, YO]}, record)
    assert str(caught.value).startswith(f"{tmp_path}/x.jsonl line 2: {says}")
    assert str(caught.value).endswith(' or set on_error = "skip"')


@needs_data
def test_real_alpaca() -> None:
    file = DATA / "chat" / "alpaca_en.json.gz"
    with gzip.open(file) as opened:
        rows = json.load(opened)
    groups = list(Chat(str(file)).groups())
    assert len(groups) == len(rows) == 999
    assert [g.target for g in groups] == [row["output"] for row in rows]
    assert all(g.prompt[0].content.startswith(row["instruction"]) for g, row in zip(groups, rows))
    assert all(g.prompt[-1].content.endswith(row["input"]) for g, row in zip(groups, rows))
    assert len({g.id for g in groups}) == 999


@needs_data
def test_real_messages() -> None:
    file = DATA / "preferences" / "kto_en.json.gz"
    with gzip.open(file) as opened:
        rows = json.load(opened)
    for group, row in zip(Chat(str(file)).groups(), rows, strict=True):
        *before, answer = row["messages"]
        assert turns(group) == [(m["role"], m["content"]) for m in before]
        assert group.target == answer["content"]


@pytest.mark.parametrize(
    ("record", "prompt"),
    [
        ({"instruction": "Name one.", "context": "", "response": "Red.", "category": "open_qa"}, "Name one."),
        ({"instruction": "Name one.", "context": "Colours.", "response": "Red."}, "Name one.\nColours."),
        ({"instruction": "Name one.", "input": "Colours.", "output": "Red.", "context": "no"}, "Name one.\nColours."),
        ({"prompt": "Name one.", "completion": "Red."}, "Name one."),
        (
            {
                "prompt": [{"role": "user", "content": "Name one."}],
                "completion": [{"role": "assistant", "content": "Red."}],
            },
            "Name one.",
        ),
        ({"prompt": "Name one.", "completion": {"role": "assistant", "content": "Red."}}, "Name one."),
    ],
)
def test_dolly_and_prompt_with_completion(tmp_path: Path, record: dict[str, object], prompt: str) -> None:
    (group,) = read(tmp_path, record)
    assert turns(group) == [("user", prompt)]
    assert group.target == group.completions[0].text == "Red."


def test_a_completion_of_several_turns_and_a_system_prompt(tmp_path: Path) -> None:
    record = {"prompt": [{"role": "system", "content": "be brief"}, HI], "completion": [YO, HI, YO]}
    (group,) = read(tmp_path, record)
    assert turns(group) == [("system", "be brief"), ("user", "hi"), ("assistant", "yo"), ("user", "hi")]
    with pytest.raises(TropismError, match="x.jsonl line 1: field 'completion' ends with a user turn; end it"):
        read(tmp_path, {"prompt": "hi", "completion": [HI]})
    with pytest.raises(TropismError, match="field 'completion' is empty"):
        read(tmp_path, {"prompt": "hi", "completion": " "})
    with pytest.raises(TropismError, match="field 'prompt' is missing"):
        read(tmp_path, {"completion": "hi"})
