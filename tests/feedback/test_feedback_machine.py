"""Any order of what people may do (Hypothesis), against a model of a few dictionaries, on both databases.

The model knows nothing of `wanted`, of rows that supersede or of SQL: it has who holds which group until when, who has said
what, and what is skipped or discarded. After every step the store has to say the same.
"""

from __future__ import annotations

import pytest
from feedback_cases import group, person
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import select

from tropism.feedback import exporting, importing, leases, queue
from tropism.feedback import project as projects
from tropism.feedback.schema import Lease, Person, StoredGroup
from tropism.feedback.store import Store

PEOPLE = ("ann", "bob", "cat")
WHO = st.sampled_from(PEOPLE)
RANKS = st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(any)


class Machine(RuleBasedStateMachine):
    store: Store  # of each subclass its own
    runs = 0

    @initialize(per_group=st.integers(1, 2), groups=st.integers(1, 3))
    def begin(self, per_group: int, groups: int) -> None:
        type(self).runs += 1
        self.name = f"p{type(self).runs}"
        self.per_group, self.time = per_group, 1000.0
        self.held: dict[str, tuple[str, str, float, list[int]]] = {}  # token, group, expires, shown
        self.said: dict[tuple[str, str], tuple[float | None, ...]] = {}
        self.out: dict[tuple[str, str], str] = {}  # skipped or discarded
        self.done: dict[str, list[tuple[str, str]]] = {who: [] for who in PEOPLE}  # what can be undone: group, how
        with self.store.writing() as session:
            self.project = projects.create(session, self.name, "rank", {}, per_group, 7, "", 0.0)
            known = {p.name: p for p in session.scalars(select(Person))}
            self.people = {who: known.get(who) or person(session, who) for who in PEOPLE}
        importing.add_groups(self.store, self.name, map(group, range(groups)))
        self.groups = [f"g{n}" for n in range(groups)]

    def free(self, uid: str) -> int:
        """How many more may be given away, leases that have expired counted as given back."""
        used = sum(g == uid for _, g in self.said) + sum(
            g == uid and how == "discarded" for (_, g), how in self.out.items()
        )
        return self.per_group - used - sum(h[1] == uid for h in self.held.values())

    def sweep(self) -> None:
        self.held = {who: h for who, h in self.held.items() if h[2] > self.time}

    def open_lease(self, who: str) -> bool:
        return who in self.held and self.held[who][2] > self.time

    @rule(who=WHO)
    def next(self, who: str) -> None:
        self.sweep()
        with self.store.writing() as session:
            got = queue.next_group(session, self.project, self.people[who], self.time)
        if who in self.held:
            assert got and got.token == self.held[who][0]
            return
        open_to = [
            g for g in self.groups if self.free(g) > 0 and (who, g) not in self.said and (who, g) not in self.out
        ]
        assert (got.group.uid if got else None) == (open_to[0] if open_to else None)
        if got:
            assert [c.number for c in got.completions] == got.shown and sorted(got.shown) == [0, 1, 2]
            self.held[who] = (got.token, got.group.uid, got.expires_at, got.shown)

    @rule(who=WHO, ranks=RANKS)
    def submit(self, who: str, ranks: list[int]) -> None:
        if who not in self.held:
            return
        token, uid, _, shown = self.held[who]
        with self.store.writing() as session:
            if not self.open_lease(who):
                with pytest.raises(leases.Gone):
                    queue.submit(session, token, self.people[who], {"ranks": ranks}, self.time)
                return
            first = queue.submit(session, token, self.people[who], {"ranks": ranks}, self.time, 60.0, idempotency="k")
            again = queue.submit(session, token, self.people[who], {"ranks": [1, 1, 1]}, self.time, idempotency="k")
        assert first[1] and again == (first[0], False)
        self.said[who, uid] = tuple(-float(ranks[shown.index(n)]) or None for n in range(3))
        self.end(who, uid, "submitted")

    @rule(who=WHO, how=st.sampled_from(("skipped", "discarded")))
    def leave(self, who: str, how: str) -> None:
        if not self.open_lease(who):
            return
        token, uid, _, _ = self.held[who]
        with self.store.writing() as session:
            (queue.skip if how == "skipped" else queue.discard)(session, token, self.people[who], "why", self.time)
        self.out[who, uid] = how
        self.end(who, uid, how)

    def end(self, who: str, uid: str, how: str) -> None:
        del self.held[who]
        self.done[who].append((uid, how))
        self.time += 1  # so that the newest is the newest

    @rule(who=WHO)
    def undo(self, who: str) -> None:
        with self.store.writing() as session:
            got = queue.undo(session, self.project, self.people[who], self.time)
        if not self.done[who]:
            assert got is None
            return
        uid, how = self.done[who][-1]
        # A lease that has expired and that nobody has swept still has its place.
        if how == "skipped" and self.free(uid) < 1:
            assert got is None
            return
        assert got and got.group.uid == uid
        self.done[who].pop()
        (self.said if how == "submitted" else self.out).pop((who, uid))
        self.held[who] = (got.token, uid, got.expires_at, got.shown)

    @rule(who=WHO)
    def draft(self, who: str) -> None:
        if self.open_lease(who):
            token, uid, expires, shown = self.held[who]
            with self.store.writing() as session:
                later = queue.draft(session, token, self.people[who], {"ranks": [1, 0, 0]}, self.time)
            assert later >= expires
            self.held[who] = (token, uid, later, shown)

    @rule(seconds=st.sampled_from((1.0, 100.0, 4000.0)))
    def wait(self, seconds: float) -> None:
        self.time += seconds

    @rule()
    def add_again(self) -> None:
        counts = importing.add_groups(self.store, self.name, map(group, range(len(self.groups))))
        assert (counts.added, counts.known) == (0, len(self.groups))

    @invariant()
    def the_store_says_the_same(self) -> None:
        if not hasattr(self, "project"):
            return
        found = {(j.judge, g.id): j.scores for g in exporting.groups(self.store, self.name) for j in g.judgments}
        assert found == self.said
        with self.store.reading() as session:
            of = (StoredGroup.project_id == self.project.id,)
            wanted = dict(session.execute(select(StoredGroup.uid, StoredGroup.wanted).where(*of)).all())
            where = (Lease.project_id == self.project.id, Lease.state == "open")
            held = set(session.scalars(select(Lease.token).where(*where)))
        assert held == {h[0] for h in self.held.values()}
        assert wanted == {uid: self.free(uid) for uid in self.groups}
        assert min(wanted.values()) >= 0


def test_any_order_of_operations(store: Store):
    machine = type("OnThisStore", (Machine,), {"store": store})
    quick = settings(
        max_examples=12, stateful_step_count=25, deadline=None, database=None, derandomize=True,
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
    )  # fmt: skip
    run_state_machine_as_test(machine, settings=quick)
