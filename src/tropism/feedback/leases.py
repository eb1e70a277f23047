"""Leases: a group in a person's hands for a while, and the locks that make it one person's.

**Locks.** On SQLite a writing session is alone (`store.py`), and the locks below are nothing. On PostgreSQL every function
takes them in one order: the person, then a lease, then groups by rising id. Nobody who holds a group waits for a person
or a lease, so no circle of waiting can close. `FOR NO KEY UPDATE` throughout: it bars those who take the same lock but not
those whose new rows merely point at this one.

A lease lasts three times the median of the seconds that judgments of the project took, at least two minutes; a draft that
is saved renews it. One that has expired is swept by whoever asks for the next group.
"""

from __future__ import annotations

import hashlib
import secrets
import statistics
from collections.abc import Sequence
from typing import Any

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from tropism.errors import TropismError
from tropism.feedback.schema import Lease, Person, Project, Question, StoredGroup, StoredJudgment

SEEN = ("open", "submitted", "skipped", "discarded")  # states after which a person is not shown the group again
FIRST_S, LEAST_S = 3600.0, 120.0  # how long a lease lasts before there is a pace, and at least
PACE = 101  # the pace is the median of so many judgments, the newest


class Gone(TropismError):
    """The lease is not this person's, or no longer."""


def hold(session: Session, person: Person) -> None:
    """Locks the person: of two requests of one person the second waits, and then sees what the first has done. Without this
    both could find no open lease and take a group each, or the same one twice."""
    lock = select(Person).where(Person.id == person.id).with_for_update(key_share=True)
    found = session.scalars(lock.execution_options(populate_existing=True)).one_or_none()
    if found is None or found.removed_at is not None:
        raise Gone("you are no longer one of those who answer here: ask who runs the store")


def own(session: Session, token: str, person: Person) -> Lease:
    """The person's own lease, locked: against a sweep, which does not hold the person."""
    mine = select(Lease).where(Lease.token == token, Lease.person_id == person.id).with_for_update(key_share=True)
    lease = session.scalars(mine.execution_options(populate_existing=True)).one_or_none()
    if lease is None:
        raise Gone("there is no such lease of yours: ask for the next group")
    return lease


def refuse_ended(lease: Lease, now: float) -> None:
    if lease.state != "open" or lease.expires_at <= now:
        what = "expired" if lease.state == "open" else lease.state
        raise Gone(f"the lease is over ({what}): ask for the next group")


def lock(session: Session, ids: Sequence[int]) -> list[StoredGroup]:
    """The groups, locked in the order of their ids and read after that."""
    if not ids:
        return []
    rows = select(StoredGroup).where(StoredGroup.id.in_(ids)).order_by(StoredGroup.id).with_for_update(key_share=True)
    return list(session.scalars(rows.execution_options(populate_existing=True)))


def free(session: Session, project: Project, person: Person) -> StoredGroup | None:
    """The first group that is wanted and that the person has not seen, locked.

    A group that somebody else is just taking is passed over (SKIP LOCKED) rather than waited for. PostgreSQL looks at
    `wanted` once more after it has the lock, so what it returns is wanted now and stays so until we commit.
    """
    seen = exists().where(Lease.person_id == person.id, Lease.group_id == StoredGroup.id, Lease.state.in_(SEEN))
    wanted = select(StoredGroup).where(StoredGroup.project_id == project.id, StoredGroup.wanted > 0, ~seen)
    first = wanted.order_by(StoredGroup.priority, StoredGroup.id).limit(1)
    locked = first.with_for_update(skip_locked=True, key_share=True, of=StoredGroup)
    return session.scalars(locked.execution_options(populate_existing=True)).one_or_none()


def begin(
    session: Session,
    project: Project,
    person: Person,
    group: StoredGroup,
    asked: Question,
    shown: list[int],
    now: float,
) -> Lease:
    lease = Lease(
        token=secrets.token_urlsafe(16),
        project_id=project.id,
        group_id=group.id,
        person_id=person.id,
        question_id=asked.id,
        shown=shown,
        created_at=now,
        expires_at=now + lasts(session, project),
    )
    session.add(lease)
    session.flush()
    return lease


def end(session: Session, lease: Lease, state: str, now: float) -> None:
    lease.state, lease.ended_at = state, now
    session.flush()


def release(lease: Lease, group: StoredGroup, now: float) -> None:
    group.wanted += 1
    lease.state, lease.ended_at = "expired", now


def sweep(session: Session, project: Project, now: float) -> None:
    """Takes back the leases of the project that have expired."""
    late = select(Lease).where(Lease.project_id == project.id, Lease.state == "open", Lease.expires_at <= now)
    # Who is just ending a lease holds it: it is theirs to end, and the next sweep sees what became of it.
    give_back(session, late.limit(100).with_for_update(skip_locked=True, key_share=True), now)


def give_back(session: Session, leases: Any, now: float) -> None:
    """Ends the open leases of this selection, without a judgment, and puts their groups back into the queue."""
    found = list(session.scalars(leases))
    groups = {g.id: g for g in lock(session, [lease.group_id for lease in found])}
    for lease in found:
        release(lease, groups[lease.group_id], now)
    session.flush()


def lasts(session: Session, project: Project) -> float:
    """Seconds that a lease given now lasts."""
    timed = (StoredJudgment.project_id == project.id, StoredJudgment.seconds.is_not(None))
    newest = select(StoredJudgment.seconds).where(*timed).order_by(StoredJudgment.id.desc()).limit(PACE)
    took = [s for s in session.scalars(newest) if s is not None]
    return FIRST_S if len(took) < 5 else max(LEAST_S, 3 * statistics.median(took))


def order(project: Project, person_id: int, group: StoredGroup) -> list[int]:
    """The numbers of the completions in the order in which this person is shown them, always the same."""

    def drawn(number: int) -> bytes:
        return hashlib.sha256(f"{project.seed}\n{person_id}\n{group.digest}\n{number}".encode()).digest()

    return sorted(range(group.k), key=drawn)
