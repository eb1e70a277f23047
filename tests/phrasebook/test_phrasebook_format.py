"""The format `phrasebook`: its five parts, what is held out of which, the simulated demonstrators' rates."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from tropism.errors import TropismError
from tropism.formats.phrasebook import Phrasebook
from tropism.phrasebook.phrases import COMBINATORIAL, LANGUAGES, countries, make
from tropism.protocols import Format
from tropism.recipe.build import build
from tropism.stages._read import held_out
from tropism.store.plain import group_from_json, to_json
from tropism.types import Group

PARTS = {"documents": 30_000, "demonstrations": 6_000, "prompts": 1_200, "held_out": 300, "glossary": 300}


@pytest.fixture(scope="module")
def parts() -> dict[str, list[Group]]:
    return {part: list(Phrasebook(part, count=12_000 * (part == "documents")).groups()) for part in PARTS}  # type: ignore[arg-type]


def _phrases(groups: list[Group]) -> set[tuple[str, str]]:
    return {(group.meta["kind"], group.meta["key"]) for group in groups}


def _question(group: Group) -> str:
    return group.prompt[0].content


def test_what_a_held_out_document_says_is_in_no_training_document(parts: dict[str, list[Group]]) -> None:
    train, test = held_out(parts["documents"], 0.02)
    assert 0.01 < len(test) / 12_000 < 0.03
    texts = {group.completions[0].text for group in train}
    assert sum(group.completions[0].text in texts for group in test) == 0
    assert _phrases(train).isdisjoint(_phrases(test))
    names = {kind for kind, _ in _phrases(parts["documents"])} - set(COMBINATORIAL)
    assert names and names.isdisjoint(group.meta["kind"] for group in test)  # nothing else teaches a name


def test_what_a_held_out_demonstration_answers_no_training_demonstration_does(parts: dict[str, list[Group]]) -> None:
    train, test = held_out(parts["demonstrations"], 0.02)
    assert 0.01 < len(test) / 6_000 < 0.03
    assert {_question(group) for group in train}.isdisjoint(_question(group) for group in test)


def test_documents_say_one_phrase_in_each_language(parts: dict[str, list[Group]]) -> None:
    orders = Counter()
    for group in parts["documents"]:
        assert group.prompt == ()
        lines = [line.split(": ", 1) for line in group.completions[0].text.split("\n")]
        assert dict(lines) == dict(make(group.meta["kind"], group.meta["key"]).texts)
        orders[tuple(language for language, _ in lines)] += 1
    assert len(orders) == 24
    assert min(orders.values()) > 0.7 * 12_000 / 24


@pytest.mark.parametrize("part", ["demonstrations", "prompts", "held_out"])
def test_requests(parts: dict[str, list[Group]], part: str) -> None:
    pairs = set()
    for group in parts[part]:
        texts = make(group.meta["kind"], group.meta["key"]).texts
        source, target = group.meta["source_language"], group.meta["target_language"]
        assert [m.role for m in group.prompt] == ["user"]
        assert _question(group) == f"Translate into {target}: {texts[source]}"
        assert group.target == texts[target] != texts[source]
        pairs.add((source, target))
    assert len(pairs) == len(LANGUAGES) * (len(LANGUAGES) - 1)


def test_glossary_prompts_are_raw_text(parts: dict[str, list[Group]]) -> None:
    for group in parts["glossary"]:
        texts = make(group.meta["kind"], group.meta["key"]).texts
        source, target = group.meta["source_language"], group.meta["target_language"]
        assert group.prompt[0].role == "text"
        assert _question(group) == f"{source}: {texts[source]}\n{target}:"
        assert group.target == texts[target]
        assert group.meta["kind"] in COMBINATORIAL


def test_counts_and_ids(parts: dict[str, list[Group]]) -> None:
    for part, count in PARTS.items():
        assert len(parts[part]) == (12_000 if part == "documents" else count)
    ids = [group.id for groups in parts.values() for group in groups]
    assert len(set(ids)) == len(ids)
    assert len(list(Phrasebook("prompts", count=7).groups())) == 7


def test_no_prompt_comes_twice(parts: dict[str, list[Group]]) -> None:
    for part in ("prompts", "held_out", "glossary"):
        questions = [_question(group) for group in parts[part]]
        assert len(set(questions)) == len(questions)
        phrases = [g.meta["key"] for g in parts[part] if g.meta["kind"] in COMBINATORIAL]
        assert len(set(phrases)) == len(phrases)


def test_held_out_phrases_are_nowhere_else(parts: dict[str, list[Group]]) -> None:
    big = list(Phrasebook("held_out", count=2_000, seed=1).groups())
    secret = _phrases(parts["held_out"]) | _phrases(parts["glossary"]) | _phrases(big)
    assert len(secret) > 1_500
    trained = _phrases(parts["demonstrations"]) | _phrases(parts["prompts"])
    assert not secret & trained
    read = _phrases(parts["documents"])
    assert {kind for kind, _ in secret & read} == {"country", "weekday"}  # names cannot be guessed
    # and by what is written, not by key: no reader of the training parts has seen a held-out text in English
    english = {make(*phrase).texts["English"] for phrase in secret if phrase[0] in COMBINATORIAL}
    assert not english & {make(*phrase).texts["English"] for phrase in read | trained}


def test_every_name_is_read_and_a_held_out_one_never_asked(parts: dict[str, list[Group]]) -> None:
    names = {("country", code) for code in countries()} | {("weekday", str(day)) for day in range(7)}
    assert names <= _phrases(parts["documents"])
    asked = _phrases(parts["demonstrations"]) | _phrases(parts["prompts"])
    assert {name for name in names if name not in asked} == {name for name in names if make(*name).held_out}


def test_simulated_demonstrators(parts: dict[str, list[Group]]) -> None:
    groups = parts["demonstrations"]
    habits = []
    for group in groups:
        text, target = group.completions[0].text, group.target or ""
        mistyped, chatter = target not in text, len(text) > len(target)  # a typing mistake keeps the length
        assert (mistyped, chatter) == (group.meta["mistyped"], group.meta["chatter"])
        if mistyped and not chatter:
            wrong = [(a, b) for a, b in zip(text, target) if a != b]
            assert len(wrong) == 1
            assert wrong[0][0].isdigit() == wrong[0][1].isdigit() == any(map(str.isdigit, target))
        habits.append((mistyped, chatter))
    share = {pair: count / len(groups) for pair, count in Counter(habits).items()}
    assert share[True, True] + share[True, False] == pytest.approx(0.15, abs=0.02)
    assert share[True, True] + share[False, True] == pytest.approx(0.35, abs=0.025)
    assert share[True, True] == pytest.approx(0.15 * 0.35, abs=0.012)  # independent
    assert all("simulated" in group.meta["source"] for group in groups)


@pytest.mark.parametrize("part", PARTS)
def test_the_same_seed_gives_the_same_groups(part: str) -> None:
    first = list(Phrasebook(part, 60, seed=4).groups())  # type: ignore[arg-type]
    assert first == list(Phrasebook(part, 60, seed=4).groups())  # type: ignore[arg-type]
    assert first == list(Phrasebook(part, 90, seed=4).groups())[:60]  # type: ignore[arg-type]
    other = list(Phrasebook(part, 60, seed=5).groups())  # type: ignore[arg-type]
    assert [g.prompt + g.completions for g in first] != [g.prompt + g.completions for g in other]
    assert [group_from_json(json.loads(json.dumps(to_json(group)))) for group in first] == first


def test_another_process_gives_the_same_groups() -> None:
    code = (
        "import hashlib; from tropism.formats.phrasebook import Phrasebook; "
        "print(hashlib.sha256(repr(list(Phrasebook('demonstrations', 200).groups())).encode()).hexdigest())"
    )
    env = os.environ | {"PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "LANG": "ru_RU"}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    here = hashlib.sha256(repr(list(Phrasebook("demonstrations", 200).groups())).encode()).hexdigest()
    assert said.stdout.strip() == here


def test_in_a_recipe() -> None:
    data = build(Format, {"kind": "phrasebook", "part": "prompts", "count": 3}, "sft.data")
    assert data == Phrasebook("prompts", 3)
    assert isinstance(data, Format)
    assert list(data.files()) == []
    with pytest.raises(TropismError, match="documents"):
        build(Format, {"kind": "phrasebook", "part": "promts"}, "sft.data")


def test_mistakes_are_named() -> None:
    with pytest.raises(TropismError, match=r"'promts' .* use documents"):
        Phrasebook("promts")  # type: ignore[arg-type]
