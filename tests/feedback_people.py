"""People for tests: they are added to a store and judge what it gives them, through the queue as the pages do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy import select

from tropism.feedback import people, queue
from tropism.feedback import project as projects
from tropism.feedback.schema import Person
from tropism.feedback.store import open_store


def judge(
    store: str | Path, project: str, name: str, say: Callable[[list[str]], dict[str, object]], most: int = 10**9
) -> list[str]:
    """The person `name`, added if need be, judges at most `most` groups of a project: `say` has the answer to the texts by
    slot. Returns the first prompt of each in the order in which they came."""
    opened, seen = open_store(store), []
    try:
        with opened.writing() as session:
            now = opened.now(session)
            found = session.scalar(select(Person).where(Person.name == name)) or people.add(session, name, now)
            people.grant(session, projects.find(session, project), found, "annotator")
        while len(seen) < most:
            with opened.writing() as session:
                of, person = projects.find(session, project), session.get_one(Person, found.id)
                given = queue.next_group(session, of, person, opened.now(session))
                if given is None:
                    break
                answer = say([completion.text for completion in given.completions])
                if answer:
                    queue.submit(session, given.token, person, answer, opened.now(session))
                else:
                    queue.discard(session, given.token, person, "of no use", opened.now(session))
                seen.append(given.group.prompt[0]["content"])
    finally:
        opened.close()
    return seen


def by_length(texts: Sequence[str]) -> dict[str, object]:
    """The shortest is the best, equal lengths are ties."""
    lengths = sorted({len(text) for text in texts})
    return {"ranks": [lengths.index(len(text)) + 1 for text in texts]}
