"""Small groups, people and projects for the tests of the store."""

from __future__ import annotations

from sqlalchemy.orm import Session

from tropism.feedback import importing, people
from tropism.feedback import project as projects
from tropism.feedback.schema import Person, Project
from tropism.feedback.store import Store
from tropism.types import Completion, Group, Judgment, Message


def group(n: int, k: int = 3, *judgments: Judgment) -> Group:
    texts = tuple(Completion(f"answer {number} to {n}", policy=f"model{number}@1") for number in range(k))
    meta = {"source": "made up", "category": "even" if n % 2 == 0 else "odd", "split": "train", "tags": ["a"]}
    return Group(f"g{n}", (Message("user", f"question {n}"),), texts, judgments, meta=meta)


def project(
    store: Store, groups: int = 5, per_group: int = 2, kind: str = "rank", k: int = 3, **spec: object
) -> Project:
    """A project `p` with so many groups."""
    with store.writing() as session:
        made = projects.create(session, "p", kind, spec, per_group, 7, "Be kind.", store.now(session))
    importing.add_groups(store, "p", (group(n, k) for n in range(groups)))
    return made


def person(session: Session, name: str, project: Project | None = None) -> Person:
    made = people.add(session, name, 0.0)
    if project is not None:
        people.grant(session, project, made, "annotator")
    return made
