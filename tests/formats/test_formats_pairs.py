"""The format `pairs`: five published shapes of one thing, and what makes a pair a broken record."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tropism.errors import TropismError
from tropism.formats.pairs import Pairs
from tropism.types import Completion, Group, Judgment, Message

DATA = Path(__file__).parents[3] / "shared" / "data" / "preferences" / "dpo_en.json.gz"


def read(tmp_path: Path, *records: object) -> list[Group]:
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return list(Pairs(str(file)).groups())


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


HH = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Name a colour.\nJust one.\n\nAssistant:"
HH_TURNS = [("user", "Hi"), ("assistant", "Hello."), ("user", "Name a colour.\nJust one.")]
ONE = [("user", "Name a colour.")]
ASKED = user("Name a colour.")


@pytest.mark.parametrize(
    ("record", "prompt"),
    [
        ({"chosen": HH + " Red.", "rejected": HH + " Seven."}, HH_TURNS),
        ({"prompt": HH, "chosen": "Red.", "rejected": "Seven."}, HH_TURNS),
        ({"prompt": "Name a colour.", "chosen": "Red.", "rejected": "Seven."}, ONE),
        (
            {"prompt": "Name a colour.", "system": "S", "chosen": "Red.", "rejected": "Seven."},
            [("system", "S"), *ONE],
        ),
        ({"prompt": [ASKED], "chosen": [assistant("Red.")], "rejected": [assistant("Seven.")]}, ONE),
        ({"chosen": [ASKED, assistant("Red.")], "rejected": [ASKED, assistant("Seven.")]}, ONE),
        (  # ultrafeedback_binarized
            {
                "prompt": "Name a colour.",
                "messages": [ASKED, assistant("Red.")],
                "chosen": [ASKED, assistant("Red.")],
                "rejected": [ASKED, assistant("Seven.")],
                "score_chosen": 8.0,
            },
            ONE,
        ),
        (  # the prompt field is the last turn of a longer prompt
            {
                "prompt": "Name a colour.",
                "chosen": [{"role": "system", "content": "S"}, ASKED, assistant("Red.")],
                "rejected": [{"role": "system", "content": "S"}, ASKED, assistant("Seven.")],
            },
            [("system", "S"), *ONE],
        ),
        (
            {
                "conversations": [{"from": "human", "value": "Name a colour."}],
                "chosen": {"from": "gpt", "value": "Red."},
                "rejected": {"from": "gpt", "value": "Seven."},
            },
            ONE,
        ),
        ({"messages": [ASKED], "chosen": assistant("Red."), "rejected": assistant("Seven.")}, ONE),
        (
            {"instruction": "Name one.", "input": "A colour.", "chosen": "Red.", "rejected": "Seven."},
            [("user", "Name one.\nA colour.")],
        ),
    ],
)
def test_every_shape(tmp_path: Path, record: dict[str, Any], prompt: list[tuple[str, str]]) -> None:
    assert read(tmp_path, record) == [
        Group(
            id="x.jsonl:1",
            prompt=tuple(Message(role, content) for role, content in prompt),  # type: ignore[arg-type]
            completions=(Completion("Red."), Completion("Seven.")),
            judgments=(Judgment(judge="pairs", scores=(1.0, 0.0), scale="ordinal"),),
            meta={"source": "x.jsonl"},
        )
    ]


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "field 'chosen' equals field 'rejected'; fix the pair or"),
        ({"prompt": "q", "chosen": "a", "rejected": " a\n"}, "field 'chosen' equals field 'rejected'"),
        ({"chosen": HH + " a", "rejected": HH + " a"}, "field 'chosen' equals field 'rejected'"),
        ({"prompt": "q", "chosen": "a"}, "field 'rejected' is missing"),
        ({"prompt": "q", "rejected": "a"}, "field 'chosen' is missing"),
        ({"prompt": "q", "chosen": "a", "rejected": ""}, "field 'rejected' is empty"),
        ({"prompt": "q", "chosen": "a", "rejected": 3}, "field 'rejected' is a number, not a text"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "field 'prompt' is empty"),
        ({"prompt": {"q": 1}, "chosen": "a", "rejected": "b"}, "field 'prompt' is an object, not a text"),
        ({"prompt": [assistant("q")], "chosen": "a", "rejected": "b"}, "the prompt in field 'prompt' has no turn to"),
        ({"prompt": HH + " x", "chosen": "a", "rejected": "b"}, "the prompt in field 'prompt' has no turn to answer"),
        ({"chosen": "a", "rejected": "b"}, "field 'chosen' does not begin with 'Human:'"),
        ({"chosen": HH + " a", "rejected": HH}, "field 'rejected' does not end with an assistant turn; add the"),
        ({"chosen": HH + " a", "rejected": HH + " b\n\nHuman: c"}, "field 'rejected' does not end with an assistant"),
        ({"chosen": HH + " a", "rejected": HH + "\n\nHuman: x\n\nAssistant: b"}, "field 'rejected' has an empty turn"),
        (
            {"chosen": HH + " a", "rejected": HH.replace("Hi", "Ho") + " b"},
            "fields 'chosen' and 'rejected' differ before their last turn",
        ),
        ({"chosen": "\n\nAssistant: a", "rejected": "\n\nAssistant: b"}, "field 'prompt' is missing"),
        ({"chosen": assistant("a"), "rejected": assistant("b")}, "field 'prompt' is missing"),
        ({"prompt": "q", "chosen": user("a"), "rejected": assistant("b")}, "field 'chosen' does not end with an"),
        ({"prompt": "q", "chosen": [user("q")], "rejected": [user("q")]}, "field 'chosen' does not end with an"),
        ({"prompt": "q", "chosen": [], "rejected": []}, "field 'chosen' is empty"),
        (
            {"prompt": "q", "chosen": [user("p"), assistant("a")], "rejected": [user("p"), assistant("b")]},
            "field 'chosen' begins with another prompt than field 'prompt'",
        ),
        (
            {"chosen": [user("p"), assistant("x"), assistant("a")],
             "rejected": [user("p"), assistant("x"), assistant("b")]},
            "the prompt in field 'chosen' has no turn to answer at its end",
        ),
        (
            {"conversations": [user("p"), assistant("x")], "chosen": assistant("a"), "rejected": assistant("b")},
            "the prompt in field 'conversations' has no turn to answer at its end",
        ),
    ],
)  # fmt: skip
def test_broken_pairs(tmp_path: Path, record: object, says: str) -> None:
    with pytest.raises(TropismError) as caught:
        read(tmp_path, {"prompt": "q", "chosen": "a", "rejected": "b"}, record)
    assert str(caught.value).startswith(f"{tmp_path}/x.jsonl line 2: {says}")
    assert str(caught.value).endswith(' or set on_error = "skip"')


@pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not there")
def test_real_pairs() -> None:
    with gzip.open(DATA) as opened:
        rows = json.load(opened)
    roles = {"human": "user", "gpt": "assistant", "system": "system"}
    groups = list(Pairs(str(DATA)).groups())
    assert len(groups) == 300
    for group, row in zip(groups, rows, strict=True):
        assert [(m.role, m.content) for m in group.prompt] == [
            (roles[m["from"]], m["value"]) for m in row["conversations"]
        ]
        assert [c.text for c in group.completions] == [row["chosen"]["value"], row["rejected"]["value"]]
        assert group.judgments[0].scores == (1.0, 0.0)
