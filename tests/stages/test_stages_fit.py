"""What the training stages share: what is held out, which groups are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tropism.formats.parallel import Parallel
from tropism.stages._read import held_out, read_split
from tropism.stages.label import Label
from tropism.store.groups import GROUPS_FILE, read_groups, write_groups
from tropism.store.run import Run
from tropism.types import Completion, Group, Judgment, Message


def judged(texts: list[str]) -> list[Group]:
    two = (Completion("a"), Completion("b"))
    return [Group(t, (Message("user", t),), two, (Judgment("j", (1.0, 0.0)),)) for t in texts]


def questions(groups: list[Group]) -> set[str]:
    return {g.prompt[0].content.strip() for g in groups}


def test_the_same_prompt_never_stands_on_both_sides() -> None:
    groups = judged([f"question {n % 49}" + " " * (n // 49) for n in range(200)])
    train, test = held_out(groups, 0.2)
    assert len(train) + len(test) == 200 and len(questions(test)) >= 3
    assert questions(train).isdisjoint(questions(test))
    less = held_out(groups, 0.1)[1]
    assert questions(less) <= questions(test)
    assert held_out(groups, 0.0) == (groups, [])


def test_something_is_left_to_train_on() -> None:
    for n in range(40):
        one = judged([f"the only question {n}"])
        assert held_out(one, 0.5) == (one, [])


@pytest.fixture
def labelled(run: Run, tmp_path: Path) -> list[Path]:
    """The same 300 prompts, the second time with a blank behind them, held out in shares of 0.05 and 0.3."""
    found = []
    for name, blank, share in (("a", "", 0.05), ("b", " ", 0.3)):
        (tmp_path / name).mkdir()
        write_groups(judged([f"question {n}{blank}" for n in range(300)]), tmp_path / name / GROUPS_FILE)
        found.append(run(Label(str(tmp_path / name), test=share), name))
    return found


def test_a_prompt_held_out_by_one_label_stage_is_trained_on_from_none(labelled: list[Path]) -> None:
    sides = [{g.prompt[0].content.strip(): g.meta["split"] for g in read_groups(path)} for path in labelled]
    apart = [text for text in sides[0] if (sides[0][text], sides[1][text]) == ("train", "test")]
    assert len(apart) > 30  # what both sides would have had
    assert not any(side == ("test", "train") for side in zip(sides[0].values(), sides[1].values()))
    train, test = read_split([str(path) for path in labelled])
    assert len(train) + len(test) == 600
    assert questions(train).isdisjoint(questions(test))
    assert questions(test) == {text for text, side in sides[1].items() if side == "test"}


def test_the_pairs_of_a_source_line_stay_together(tmp_path: Path) -> None:
    (tmp_path / "en").write_text("".join(f"line {n % 61}\n" for n in range(244)))
    (tmp_path / "fr").write_text("".join(f"ligne {n}\n" for n in range(244)))
    groups = list(Parallel(str(tmp_path / "en"), str(tmp_path / "fr"), "documents").groups())
    train, test = held_out(groups, 0.3)
    first = [{g.completions[0].text.split("\n")[0] for g in side} for side in (train, test)]
    assert first[0].isdisjoint(first[1]) and len(first[1]) > 5 and len(test) == 4 * len(first[1])
    unsaid = [replace(g, meta={}) for g in groups]
    assert len({g.completions[0].text for g in unsaid}) == 244
