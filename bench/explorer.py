"""How long the explorer takes over a large store, as `GET /api/projects/{p}/groups`: first page, count and correlates.

    python bench/explorer.py STORE --project P --queries 40

Words are drawn so that each size of result is as likely as another, from the rarest to the most frequent (the logarithm of
the number of answers with the word is uniform); phrases are two neighbouring words of an answer whose first is such a word;
"three filters" are a word, a category, an author and a least number of words. No search comes twice, so nothing is answered
from memory. The ten most frequent words have a row of their own: no draw is needed to meet them.

For each kind: p50, p95 and the longest in ms, of the wall clock and of the processor time of this process (on SQLite that
is all of the work; on a machine with other work the two differ). First of all, the time until filters are in memory.
"""

from __future__ import annotations

import argparse
import random
import resource
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from sqlalchemy.orm import Session

from tropism.feedback import project as projects
from tropism.feedback.columns import columns
from tropism.feedback.correlates import WORD, correlates
from tropism.feedback.find import Filter, choices, search
from tropism.feedback.schema import Project, StoredCompletion
from tropism.feedback.store import Store, open_store

SAMPLED = 20_000  # answers from which words are drawn


def sample(session: Session, project: Project, rng: random.Random) -> list[list[str]]:
    """The words of some answers."""
    known = columns(session)
    mine = np.flatnonzero(known.group["project_id"][known.completion["group_id"]] == project.id)
    ids = rng.sample(mine.tolist(), min(SAMPLED, len(mine)))
    texts = []
    for part in range(0, len(ids), 1000):
        some = session.query(StoredCompletion.text).where(StoredCompletion.id.in_(ids[part : part + 1000]))
        texts += [WORD.findall(text.casefold()) for (text,) in some]
    return texts


def spread(counts: Counter[str], rng: random.Random) -> Iterator[str]:
    """Words without end, none twice, of every frequency alike."""
    classes: dict[int, list[str]] = {}
    for word, count in counts.items():
        classes.setdefault(count.bit_length(), []).append(word)
    for words in classes.values():
        rng.shuffle(words)
    while classes:
        size = rng.choice(sorted(classes))
        yield classes[size].pop()
        if not classes[size]:
            del classes[size]


def kinds(session: Session, project: Project, queries: int, rng: random.Random) -> dict[str, list[Filter]]:
    texts = sample(session, project, rng)
    counts = Counter(word for words in texts for word in set(words))
    top = [word for word, _ in counts.most_common(10)]
    words = spread(Counter({word: n for word, n in counts.items() if word not in top}), rng)
    pairs: dict[str, str] = {}
    for said in texts:
        for one, two in pairwise(said):
            if one not in pairs or rng.random() < 0.1:
                pairs[one] = two
    known = choices(session, project)
    drawn = [next(words) for _ in range(3 * queries)]
    return {
        "a word": [Filter(text=w) for w in drawn[:queries]],
        "a phrase": [Filter(text=f'"{w} {pairs.get(w, "the")}"') for w in drawn[queries : 2 * queries]],
        "a word, three filters": [
            Filter(text=w, category=rng.choice(known["category"]), author=rng.choice(known["author"]), min_words=50)
            for w in drawn[2 * queries :]
        ],
        "the ten most frequent words": [Filter(text=w) for w in top],
    }


def measured(store: Store, name: str, wanted: Filter) -> tuple[float, float, int]:
    """Milliseconds of wall clock and of this process, and the count, of what the interface for scripts answers."""
    wall, cpu = time.perf_counter(), time.process_time()
    with store.reading() as session:
        project = projects.find(session, name)
        found = search(session, project, wanted)
        correlates(session, project, wanted)
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3, found.count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("store")
    parser.add_argument("--project", required=True)
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    store, rng = open_store(given.store), random.Random(given.seed)
    start, cpu = time.perf_counter(), time.process_time()
    with store.reading() as session:
        known = columns(session)
        seconds, used = time.perf_counter() - start, time.process_time() - cpu
        groups, answers = np.count_nonzero(known.group["project_id"]), np.count_nonzero(known.completion["group_id"])
        print(f"{store.dialect}: {groups:,} groups, {answers:,} completions; ", end="")
        print(f"filters in memory after {seconds:.1f} s ({used:.1f} s CPU)")
        project = projects.find(session, given.project)
        searches = kinds(session, project, given.queries, rng)
    print(f"{'':30}{'groups found':>26}{'wall p50':>10}{'p95':>8}{'max':>8}{'CPU p50':>10}{'p95':>8}{'max':>8}  ms")
    for kind, wanted in searches.items():
        wall, used, counts = map(np.array, zip(*(measured(store, given.project, one) for one in wanted)))
        told = "".join(
            f"{np.percentile(v, 50):{w}.0f}{np.percentile(v, 95):8.0f}{v.max():8.0f}"
            for v, w in ((wall, 10), (used, 10))
        )
        print(f"{kind:30}{f'{counts.min():,} to {counts.max():,}':>26}{told}", flush=True)
    print(f"memory at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    store.close()


if __name__ == "__main__":
    main()
