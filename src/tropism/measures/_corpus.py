"""Corpus scores of answers compared with references, by sacrebleu, from 0 to 100 with a 95 % interval.

Counts of n-grams are added up over all sentences and the score is computed once, so the value equals `corpus_score`
exactly. For the interval, prompts are drawn with replacement, their counts are added up and the score is computed
again; a mean of sentence BLEU, or its interval, would be another measure. Two average prompts are added before drawing,
one answered with its reference and one with nothing: there may be such prompts among unseen ones, so a score of 0 or
100 is not certain.

With n samples for each prompt, the i-th samples of all prompts are one system, and the figure is the mean score of the
n systems: the expected score of one sample for each prompt. The samples of a prompt are drawn together, as they are not
independent.

Axes: N samples of a prompt, P prompts, R resamples, C counts from which a score is computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from tropism.statistics import RESAMPLES, Figure, rounded
from tropism.types import Drawn, Evaluation, Group


def signature(metric: BLEU | CHRF) -> str:
    """The measure and its settings, as sacrebleu wants them cited: "BLEU|nrefs:1|…"."""
    return f"{metric.corpus_score(['a'], [['a']]).name}|{metric.get_signature()}"


def corpora(metric: BLEU | CHRF, found: Evaluation, drawn: Drawn) -> dict[str, Figure | str]:
    """The figure of each model, with the one reference of each prompt."""
    return {name: _corpus(metric, *texts(answers[drawn])) for name, answers in found.answers.items()}


def texts(groups: Sequence[Group]) -> tuple[list[list[str]], list[str]]:
    """The answers to each prompt and its reference, without blanks at their ends."""
    return [[c.text.strip() for c in g.completions] for g in groups], [(g.target or "").strip() for g in groups]


def _corpus(metric: BLEU | CHRF, answers: list[list[str]], references: list[str]) -> Figure:
    counts_NPC = np.asarray([metric._extract_corpus_statistics(system, [references]) for system in zip(*answers)])
    all_right_C, all_empty_C = (
        np.asarray(metric._extract_corpus_statistics(system, [references])).sum(0)
        for system in (references, [""] * len(references))
    )
    prompts = len(references)
    drawn_RP = np.random.default_rng(0).integers(0, prompts + 2, (RESAMPLES, prompts))  # the same for every model
    times_RP = np.stack([np.bincount(drawn_P, minlength=prompts + 2) for drawn_P in drawn_RP])
    more_RC = times_RP[:, -2:] @ np.stack([all_right_C, all_empty_C])  # times `prompts`: whole numbers
    resampled_NRC = prompts * (times_RP[:, :prompts] @ counts_NPC) + more_RC
    low, high = np.quantile([_score(metric, counts_NC) for counts_NC in resampled_NRC.swapaxes(0, 1)], [0.025, 0.975])
    return rounded(_score(metric, counts_NPC.sum(1)), low, high)


def _score(metric: BLEU | CHRF, counts_NC: np.ndarray) -> float:
    """The mean score of the systems with these counts."""
    return float(np.mean([metric._compute_score_from_stats(row).score for row in counts_NC.tolist()]))
