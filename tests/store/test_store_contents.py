"""Which side of a split a group is on, and when two groups ask or say the same."""

from __future__ import annotations

import itertools
import unicodedata
from dataclasses import replace

import pytest

from tropism.store.contents import mark, side
from tropism.types import Completion, Group, Message


def asked(*messages: tuple[str, str]) -> Group:
    return Group("", tuple(Message(role, text) for role, text in messages))  # type: ignore[arg-type]


def document(text: str, **meta: object) -> Group:
    return Group("", (), (Completion(text),), meta=meta)


SHARES = [share / 20 for share in range(21)]
QUESTIONS = [asked(("user", f"question {n}")) for n in range(4000)]


def test_the_side_is_by_the_prompt_alone() -> None:
    group = QUESTIONS[0]
    other = replace(group, id="b", completions=(Completion("x"),), meta={"source": "elsewhere", "about": "y"})
    assert [side(group, share) for share in SHARES] == [side(other, share) for share in SHARES]


@pytest.mark.parametrize(
    "text", ["question 0 ", " question 0", "question\u00a0 0", "question\n0\n", "question\t\t0\u3000"]
)
def test_white_space_makes_no_other_prompt(text: str) -> None:
    assert mark(asked(("user", text))) == mark(QUESTIONS[0])


def test_composed_and_decomposed_letters_are_the_same() -> None:
    composed, apart = (unicodedata.normalize(form, "déjà vu, й") for form in ("NFC", "NFD"))
    assert composed != apart and mark(asked(("user", composed))) == mark(asked(("user", apart)))
    assert mark(document(composed)) == mark(document(apart))


def test_what_differs_is_told_apart() -> None:
    different = [
        asked(("user", "a b")),
        asked(("user", "A b")),
        asked(("user", "ab")),
        asked(("system", "a b")),
        asked(("user", "a"), ("user", "b")),
        asked(("user", "a"), ("assistant", "b")),
        document("a b"),
        document("x", about="a b"),
    ]
    assert len({mark(group) for group in different}) == len(different)


def test_a_larger_share_only_adds() -> None:
    held_out = [{g.prompt for g in QUESTIONS if side(g, share) == "test"} for share in SHARES]
    assert all(a <= b for a, b in itertools.pairwise(held_out))
    assert not held_out[0] and len(held_out[-1]) == 4000
    for share, found in zip(SHARES, held_out):
        assert abs(len(found) / 4000 - share) <= 4 * (share * (1 - share) / 4000) ** 0.5


def test_documents_about_the_same_are_on_one_side() -> None:
    assert mark(document("in a week", about="week +1")) == mark(document("через неделю", about="week +1"))
    assert mark(document("in a week")) != mark(document("через неделю"))
    assert all(side(document(f"{n}", about=None), 0.999) == "train" for n in range(50))
