"""Searches against a plain walk over all groups, which knows nothing of SQL, of full text search and of arrays."""

from __future__ import annotations

import itertools
import random
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import URL, create_engine, text, update

from tropism.errors import TropismError
from tropism.feedback import find, importing, people
from tropism.feedback import project as projects
from tropism.feedback.columns import columns
from tropism.feedback.find import Filter, search
from tropism.feedback.schema import Comment, Person, StoredCompletion, Tag
from tropism.feedback.store import Store, open_store
from tropism.types import Completion, Group, Judgment, Message

WORDS = ["sea", "salt", "deep", "blue", "sun", "don't", "été", "Море"]
DAY = datetime(2026, 11, 20, tzinfo=UTC).timestamp()


@dataclass(frozen=True)
class World:
    store: Store
    groups: list[Group]  # group number i + 1 of the store
    comments: dict[int, list[tuple[str, str]]]
    added: list[tuple[str, float]]


def texts(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, 6)))


def made(rng: random.Random, g: int) -> Group:
    k = rng.randint(2, 4)
    judges = rng.sample(["anna", "judge@1"], rng.randint(0, 2))
    return Group(
        f"g{g}",
        (Message("user", f"{texts(rng)} {g}"),),
        tuple(Completion(texts(rng), policy=rng.choice(["p@1", "q@2"])) for _ in range(k)),
        tuple(Judgment(j, tuple(rng.choice([0.0, 1.0, None]) for _ in range(k)), rationale=texts(rng)) for j in judges),
        meta={
            "category": rng.choice(["a", "b"]),
            "source": rng.choice(["x", ""]),
            "split": "train",
            "tags": rng.choice([[], ["t"]]),
        },
    )


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if request.param == "sqlite":
        store = open_store(tmp_path_factory.mktemp("find") / "store.db", create=True)
    else:
        server = request.getfixturevalue("postgres")
        name = f"tropism_find_{secrets.token_hex(4)}"
        administer(server, f"CREATE DATABASE {name}")
        store = open_store(server.set(database=name).render_as_string(hide_password=False), create=True)
    yield filled(store)
    store.close()
    if request.param == "postgresql":
        administer(server, f"DROP DATABASE {name} WITH (FORCE)")


def administer(server: URL, command: str) -> None:
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(command))
    engine.dispose()


def filled(store: Store) -> World:
    rng = random.Random(5)
    groups = [made(rng, g) for g in range(120)]
    with store.writing() as session:
        projects.create(session, "other", "rank", {}, 1, 0, "", DAY)
        projects.create(session, "demo", "rank", {}, 1, 0, "", DAY)
        by = {name: people.add(session, name, DAY) for name in ("ben", "chen")}
    added = []
    for g, group in enumerate(groups):
        name, when = rng.choice(["ben", "chen"]), DAY + (g % 4) * 86_400
        importing.add_groups(store, "demo", [group], now=when, person=by[name])
        added.append((name, when))
    importing.add_groups(store, "other", [replace(g, prompt=(Message("user", "sea"),)) for g in groups[:5]])
    comments: dict[int, list[tuple[str, str]]] = {}
    with store.writing() as session:
        for g in rng.sample(range(120), 15):
            name, text = rng.choice(["ben", "chen"]), texts(rng)
            comments.setdefault(g, []).append((name, text))
            session.add(Comment(group_id=g + 1, number=None, person_id=by[name].id, text=text, created_at=DAY))
    return World(store, groups, comments, added)


def said(text: str) -> list[str]:
    return text.casefold().replace("don't", "don t").replace("é", "e").split()


def has(text: str, typed: str, dialect: str) -> bool:
    """The few searches of the tests, by their meaning."""
    words = said(text)
    checks: dict[str, Any] = {
        "": lambda: True,
        "sea": lambda: "sea" in words,
        "deep blue": lambda: {"deep", "blue"} <= set(words),
        '"deep blue"': lambda: ("deep", "blue") in list(itertools.pairwise(words)),
        "sea -salt": lambda: "sea" in words and "salt" not in words,
        "sun OR deep blue": lambda: "sun" in words or {"deep", "blue"} <= set(words),
        "s*": lambda: any(w.startswith("s") for w in words),
        "don't": lambda: ("don", "t") in list(itertools.pairwise(words)),
        "ETE": lambda: "ete" in words and dialect == "sqlite",  # PostgreSQL keeps the accents
        "море": lambda: "море" in words,
        "!": lambda: False,
    }
    return checks[typed]()


def scores(group: Group) -> list[float | None]:
    """The mean of the judgments that say something, each from 0 to 1 inside its group; those of the tests are 0 and 1."""
    found: list[list[float]] = [[] for _ in group.completions]
    for judgment in group.judgments:
        known = [s for s in judgment.scores if s is not None]
        for k, s in enumerate(judgment.scores):
            if s is not None:
                low, high = min(known), max(known)
                found[k].append(s if low == high else (s - low) / (high - low))
    return [sum(f) / len(f) if f else None for f in found]


def walked(world: World, f: Filter) -> set[str]:
    found = set()
    for g, group in enumerate(world.groups):
        name, when = world.added[g]
        wrong = [
            f.category and group.meta["category"] != f.category,
            f.source and group.meta["source"] != f.source,
            f.split and group.meta["split"] != f.split,
            f.tag and f.tag not in group.meta["tags"],
            f.since is not None and when < f.since,
            f.until is not None and when >= f.until,
        ]
        ranges = (f.min_words, f.max_words, f.min_score, f.max_score)
        inside = []
        for completion, score in zip(group.completions, scores(group)):
            n = len(completion.text.split())
            inside.append(
                has(completion.text, f.text, world.store.dialect)
                and f.author in ("", completion.policy)
                and (f.min_words or 0) <= n <= (f.max_words or 10**9)
                and (f.min_score is None or (score is not None and score >= f.min_score))
                and (f.max_score is None or (score is not None and score <= f.max_score))
            )
        others = [(name, group.prompt[0].content), *world.comments.get(g, [])] + [
            (j.judge, j.rationale) for j in group.judgments
        ]
        names = {"judge@1": {"judge@1", "judge"}}
        also = all(bound is None for bound in ranges) and any(
            has(text, f.text, world.store.dialect) and (not f.author or f.author in names.get(by, {by}))
            for by, text in others
        )
        if not any(wrong) and (any(inside) or also):
            found.add(group.id)
    return found


def ids(world: World, wanted: Filter, project: str = "demo") -> list[str]:
    with world.store.reading() as session:
        found = search(session, projects.find(session, project), wanted, 0, 1000)
    assert found.count == len(found.groups)
    return [g["id"] for g in found.groups]


SEARCHES = ["", "sea", "deep blue", '"deep blue"', "sea -salt", "sun OR deep blue", "s*", "don't", "ETE", "море", "!"]


@pytest.mark.parametrize("typed", SEARCHES)
def test_a_search_finds_what_a_walk_finds(world: World, typed: str):
    found = ids(world, Filter(text=typed))
    assert set(found) == walked(world, Filter(text=typed))
    assert len(found) == len(set(found))
    assert typed in ("", "s*") or len(found) < 120


def test_any_filters_together(world: World):
    rng, sizes = random.Random(1), []
    for _ in range(200):
        wanted = Filter(
            text=rng.choice(SEARCHES[:-1]),
            category=rng.choice(["", "", "a"]),
            tag=rng.choice(["", "", "t"]),
            author=rng.choice(["", "", "p@1", "anna", "judge@1", "judge", "ben"]),
            source=rng.choice(["", "x"]),
            min_words=rng.choice([None, None, 3]),
            max_words=rng.choice([None, None, 4]),
            min_score=rng.choice([None, None, 0.5]),
            max_score=rng.choice([None, None, 0.9]),
            since=rng.choice([None, None, DAY + 86_400]),
            until=rng.choice([None, None, DAY + 2 * 86_400]),
        )
        found = set(ids(world, wanted))
        assert found == walked(world, wanted), wanted
        sizes.append(len(found))
    assert sum(size > 0 for size in sizes) > 40


def test_disagreement(world: World):
    """Two judges that order two answers the other way round disagree wholly; one judge alone not at all."""
    with world.store.reading() as session:
        shown = search(session, projects.find(session, "demo"), Filter(sort="disagreement"), 0, 1000).groups
    values = [g["disagreement"] for g in shown]
    known = [v for v in values if v is not None]
    assert known == sorted(known, reverse=True) and values == known + [None] * (120 - len(known))
    assert len(ids(world, Filter(min_disagreement=0.5))) == sum(v >= 0.5 for v in known) > 0


@pytest.mark.parametrize(
    ("sort", "best", "down"),
    [("longest", "words", True), ("shortest", "words", False), ("best", "score", True), ("worst", "score", False)],
)
def test_orders(world: World, sort: Any, best: str, down: bool):
    with world.store.reading() as session:
        shown = search(session, projects.find(session, "demo"), Filter(sort=sort), 0, 1000).groups
    values = [[c[best] for c in g["completions"] if c[best] is not None] for g in shown]
    ends = [(max if down else min)(v) for v in values if v]
    assert ends == sorted(ends, reverse=down)
    assert not any(values[len(ends) :])  # groups without a value come last


def test_dates_and_pages(world: World):
    newest, oldest = ids(world, Filter()), ids(world, Filter(sort="oldest"))
    when = dict(zip((g.id for g in world.groups), (when for _, when in world.added)))
    assert [when[i] for i in newest] == sorted(when.values(), reverse=True)
    assert [when[i] for i in oldest] == sorted(when.values())
    with world.store.reading() as session:
        project = projects.find(session, "demo")
        pages = [search(session, project, Filter(text="sea"), offset, 7) for offset in range(0, 130, 7)]
    assert [g["id"] for page in pages for g in page.groups] == ids(world, Filter(text="sea"))
    assert len({page.count for page in pages}) == 1


def test_another_project_is_another_world(world: World):
    assert set(ids(world, Filter(text="sea"), "other")) == {f"g{i}" for i in range(5)}


def test_what_is_added_later_is_found(world: World):
    """Columns in memory follow what others write: groups, tags, comments, judgments."""
    with world.store.writing() as session:
        projects.create(session, "later", "rank", {}, 1, 0, "", DAY)
    assert ids(world, Filter(), "later") == []
    one = Group("one", (Message("user", "new"),), (Completion("sea sea"), Completion("sun")))
    importing.add_groups(world.store, "later", [one])
    assert ids(world, Filter(text="sea"), "later") == ["one"]
    assert ids(world, Filter(min_score=0.5), "later") == []
    judged = replace(one, judgments=(Judgment("late@1", (0.2, 0.9)),))
    importing.add_groups(world.store, "later", [judged])
    assert ids(world, Filter(min_score=0.5, text="sun"), "later") == ["one"]
    assert ids(world, Filter(min_score=0.5, text="sea"), "later") == []
    with world.store.reading() as session:
        [told] = search(session, projects.find(session, "later"), Filter()).groups
    assert ids(world, Filter(tag="good"), "later") == ids(world, Filter(text="remark"), "later") == []
    with world.store.writing() as session:
        person = people.add(session, "dara", DAY)
        session.add(Tag(group_id=told["number"], name="good", person_id=person.id, created_at=DAY))
        session.add(Comment(group_id=told["number"], number=1, person_id=person.id, text="a remark", created_at=DAY))
    for wanted in (Filter(tag="good"), Filter(text="remark"), Filter(author="dara"), Filter(tag="good", text="sea")):
        assert ids(world, wanted, "later") == ["one"]


def test_an_erased_name_finds_nothing(world: World):
    with world.store.writing() as session:
        projects.create(session, "edits", "rank", {}, 1, 0, "", DAY)
        person = people.add(session, "edith", DAY)
    own = Group("own", (Message("user", "mine"),), (Completion("a b", policy="edith"), Completion("c")))
    importing.add_groups(world.store, "edits", [own], person=person)
    assert ids(world, Filter(author="edith"), "edits") == ["own"]
    with world.store.writing() as session:  # as people.py does it
        session.execute(update(Person).where(Person.id == person.id).values(name=f"erased-{person.id}"))
        session.execute(update(StoredCompletion).where(StoredCompletion.author == "edith").values(author="erased"))
    assert ids(world, Filter(author="edith", min_words=1), "edits") == []


def test_an_address_is_the_whole_filter():
    wanted = Filter(
        text='a "b c" -d', category="é&=", min_words=3, min_score=0.25, since=DAY, until=DAY + 86_400, sort="best"
    )
    assert find.read(find.written(wanted)) == wanted
    assert find.written(wanted)["since"] == find.written(wanted)["until"] == "2026-11-20"
    assert find.written(Filter()) == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [("min_words", "many"), ("min_words", "1.5"), ("max_score", "nan"), ("min_score", "inf"), ("since", "yesterday"),
     ("until", "2026-13-01"), ("sort", "prettiest"), ("text", "a" * 1001), ("max_words", "9" * 19)],
)  # fmt: skip
def test_a_wrong_field_is_named(field: str, value: str):
    with pytest.raises(TropismError, match=f"^{field}: "):
        find.read({field: value})


def test_columns_are_read_once(world: World):
    with world.store.reading() as session:
        first, second = columns(session), columns(session)
    assert first.completion["words"] is second.completion["words"]
