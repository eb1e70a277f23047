"""Judgments are only ever added: a correction and a withdrawal are rows that supersede the one before.

The callers hold a lock on the group (`queue.py`), so that of two changes at once the second sees the first, and the group's
score and disagreement (`tally.py`) are those of its judgments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from tropism.feedback import question as questions
from tropism.feedback import tally
from tropism.feedback.schema import Lease, Person, Question, StoredCompletion, StoredGroup, StoredJudgment
from tropism.feedback.text import clean


def record(
    session: Session,
    group: StoredGroup,
    person: Person,
    asked: Question,
    answer: Mapping[str, Any],
    now: float,
    *,
    shown: list[int] | None,
    lease: Lease | None = None,
    seconds: float | None = None,
    rationale: str = "",
    client: str = "",
    idempotency: str | None = None,
    supersedes: StoredJudgment | None = None,
) -> StoredJudgment:
    """A new judgment of a locked group. `answer` is by number and checked. An edit becomes a completion of the group."""
    if "text" in answer:
        answer = {**answer, "number": _written(session, group, person, answer["text"])}
    scores, scale = questions.scores(asked.kind, answer, group.k)
    if supersedes is not None:
        supersedes.holds = False
    made = StoredJudgment(
        project_id=group.project_id,
        group_id=group.id,
        person_id=person.id,
        question_id=asked.id,
        lease_id=lease.id if lease else None,
        idempotency=idempotency,
        supersedes=supersedes.id if supersedes else None,
        judge=person.name,
        scores=list(scores),
        scale=scale,
        answer=dict(answer),
        rationale=clean(rationale),
        shown=shown,
        seconds=seconds,
        client=clean(client),
        created_at=now,
    )
    session.add(made)
    session.flush()
    tally.refresh(session, group.id)
    return made


def withdraw(session: Session, group: StoredGroup, said: StoredJudgment, now: float) -> None:
    """A row without scores in the place of this one."""
    said.holds = False
    gone = StoredJudgment(
        project_id=said.project_id,
        group_id=said.group_id,
        person_id=said.person_id,
        question_id=said.question_id,
        lease_id=said.lease_id,
        supersedes=said.id,
        judge=said.judge,
        scores=None,
        scale=said.scale,
        answer={},
        shown=said.shown,
        client=said.client,
        created_at=now,
    )
    session.add(gone)
    session.flush()
    tally.refresh(session, group.id)


def of_lease(session: Session, lease: Lease) -> StoredJudgment | None:
    """The judgment that a lease ended with, or that was put in its place."""
    where = (StoredJudgment.lease_id == lease.id, StoredJudgment.holds, StoredJudgment.scores.is_not(None))
    return session.scalars(select(StoredJudgment).where(*where)).one_or_none()


def given(said: StoredJudgment) -> dict[str, Any]:
    """The answer by number as a person gave it, in the form that `question.check` takes."""
    answer = {name: value for name, value in said.answer.items() if name not in ("bad", "number", "labels")}
    labels = [label for label in said.answer.get("labels", []) if label != questions.NONE_IS_GOOD]
    return {**answer, **({"choice": "bad"} if "bad" in said.answer else {}), **({"labels": labels} if labels else {})}


def _written(session: Session, group: StoredGroup, person: Person, text: str) -> int:
    """The number of the completion that says just this, added if there is none."""
    where = StoredCompletion.group_id == group.id
    same = select(func.min(StoredCompletion.number)).where(where, StoredCompletion.text == text)
    number = session.scalar(same)
    if number is None:
        newest = session.scalar(select(func.max(StoredCompletion.number)).where(where))
        number = 0 if newest is None else newest + 1
        row = StoredCompletion(
            group_id=group.id,
            number=number,
            text=text,
            words=len(text.split()),
            author=person.name,
            rest={},
            score=None,
        )
        session.add(row)
        session.flush()
    return number
