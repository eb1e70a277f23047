"""The format `thumbs`: the published shapes of one thing, and what makes a record a broken one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tropism.errors import TropismError
from tropism.formats.thumbs import Thumbs
from tropism.protocols import Format
from tropism.recipe.build import build
from tropism.types import Completion, Group, Judgment, Message

DATA = Path(__file__).parents[3] / "shared" / "data" / "preferences" / "kto_en.json.gz"


def read(tmp_path: Path, *records: object) -> list[Group]:
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return list(Thumbs(str(file)).groups())


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


ASKED = user("Name a colour.")
ONE = [("user", "Name a colour.")]


@pytest.mark.parametrize(
    ("record", "prompt"),
    [
        ({"messages": [ASKED, assistant("Red.")]}, ONE),
        (
            {"messages": [user("Hi"), assistant("Hello."), ASKED, assistant("Red.")]},
            [("user", "Hi"), ("assistant", "Hello."), *ONE],
        ),
        (
            {"conversations": [{"from": "human", "value": "Name a colour."}, {"from": "gpt", "value": "Red."}],
             "system": "S"},
            [("system", "S"), *ONE],
        ),
        ({"instruction": "Name one.", "input": "A colour.", "output": "Red."}, [("user", "Name one.\nA colour.")]),
        # TRL's unpaired preferences, of texts and of messages
        ({"prompt": "Name a colour.", "completion": "Red."}, ONE),
        ({"prompt": [ASKED], "completion": [assistant("Red.")]}, ONE),
        ({"prompt": [ASKED], "completion": assistant("Red.")}, ONE),
        ({"prompt": "\n\nHuman: Name a colour.\n\nAssistant:", "completion": "Red."}, ONE),
        ({"messages": [ASKED], "completion": "Red."}, ONE),
        ({"prompt": "Name a colour.", "completion": "Red.", "messages": [user("x"), assistant("y")]}, ONE),
        ({"prompt": "x", "messages": [ASKED, assistant("Red.")]}, ONE),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("label", "score"), [(True, 1.0), (False, 0.0)])
def test_every_shape(
    tmp_path: Path, record: dict[str, Any], prompt: list[tuple[str, str]], label: bool, score: float
) -> None:
    assert read(tmp_path, record | {"label": label}) == [
        Group(
            id="x.jsonl:1",
            prompt=tuple(Message(role, content) for role, content in prompt),  # type: ignore[arg-type]
            completions=(Completion("Red."),),
            judgments=(Judgment(judge="thumbs", scores=(score,), scale="interval"),),
            meta={"source": "x.jsonl"},
        )
    ]


TALK = {"messages": [ASKED, assistant("Red.")]}
PLAIN = {"prompt": "q", "completion": "a"}


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (TALK, "field 'label' is missing; add it"),
        (PLAIN, "field 'label' is missing; add it"),
        ({**TALK, "label": None}, "field 'label' is missing"),
        ({**TALK, "label": 1}, "field 'label' is a number, not true or false; write true or false"),
        ({**TALK, "label": "yes"}, "field 'label' is a text, not true or false"),
        ({**PLAIN, "label": [True]}, "field 'label' is a list, not true or false"),
        ({"prompt": "q", "label": True}, "field 'completion' is missing; add it"),
        ({"completion": "a", "label": True}, "field 'prompt' is missing; add it"),
        ({"label": True}, "field 'completion' is missing"),
        ({"prompt": "q", "completion": " ", "label": True}, "field 'completion' is empty"),
        ({"prompt": "q", "completion": 3, "label": True}, "field 'completion' is a number, not a text"),
        ({"prompt": "q", "completion": [], "label": True}, "field 'completion' is empty"),
        ({"prompt": "q", "completion": ["a"], "label": True}, "field 'completion[0]' is a text, not a message"),
        ({"prompt": "q", "completion": user("a"), "label": True}, "field 'completion' ends with a user turn; end it"),
        (
            {"prompt": "q", "completion": [assistant("a"), user("b"), assistant("c")], "label": True},
            "field 'completion' is not one assistant turn",
        ),
        ({"prompt": [assistant("q")], "completion": "a", "label": True}, "the prompt in field 'prompt' has no turn to"),
        ({"messages": [ASKED], "label": True}, "field 'messages' ends with a user turn; end it with an assistant turn"),
        ({"messages": [assistant("a")], "label": False}, "the prompt in field 'messages' has no turn to answer"),
        ({"messages": [ASKED, assistant("")], "label": True}, "field 'messages[1].content' is empty"),
        ({"instruction": "q", "label": True}, "field 'output' is missing"),
    ],
)
def test_broken_records(tmp_path: Path, record: object, says: str) -> None:
    with pytest.raises(TropismError) as caught:
        read(tmp_path, {**PLAIN, "label": True}, record)
    assert str(caught.value).startswith(f"{tmp_path}/x.jsonl line 2: {says}")
    assert str(caught.value).endswith(' or set on_error = "skip"')


def test_it_reads_what_all_formats_read(tmp_path: Path) -> None:
    for number, labels in enumerate(("TF", "?T", "F")):
        rows = [{**PLAIN, "label": {"T": True, "F": False}.get(sign)} for sign in labels]
        (tmp_path / f"{number}.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    table = {"kind": "thumbs", "path": f"{tmp_path}/*.json.gz", "on_error": "skip", "offset": 1, "limit": 2}
    source = build(Format, table, "data")
    groups = source.groups()
    assert [(g.id, g.judgments[0].scores) for g in groups] == [("0.json.gz:2", (0.0,)), ("1.json.gz:2", (1.0,))]
    assert groups.skipped == [f"{tmp_path}/1.json.gz record 1: field 'label' is missing"]
    assert [file.name for file in source.files()] == ["0.json.gz", "1.json.gz", "2.json.gz"]


@pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not there")
def test_real_thumbs() -> None:
    with gzip.open(DATA) as opened:
        rows = json.load(opened)
    groups = list(Thumbs(str(DATA)).groups())
    assert len(groups) == 300
    for group, row in zip(groups, rows, strict=True):
        turns = [(m["role"], m["content"]) for m in row["messages"]]
        assert [(m.role, m.content) for m in group.prompt] == turns[:-1]
        assert [("assistant", c.text) for c in group.completions] == turns[-1:]
        assert group.judgments[0].scores == (1.0 if row["label"] else 0.0,)
        assert group.target is None
    assert sum(g.judgments[0].scores == (1.0,) for g in groups) == 150
