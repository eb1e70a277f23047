"""Answers against references as corpora: BLEU, chrF and ROUGE-L from 0 to 100, each with a 95 % interval.

BLEU (Papineni et al. 2002) and chrF (Popović 2015) are sacrebleu's: counts of n-grams are added up over all sentences, and
the score is taken once, so the value is `corpus_score` to the last digit. The interval draws prompts with replacement, adds
up the counts of those drawn and takes the score again: a mean of sentence BLEU, or its interval, would be another measure.
It draws from two prompts more than there are, average ones, of which one is answered by its reference and one by nothing:
among unseen prompts may be such, so that a score of 0 or 100 is not certain.
ROUGE-L (Lin 2004) is the mean over sentences of the F1 of the longest common subsequence, by rouge-score; words are runs of
letters and digits of any alphabet in lower case, where that library's own tokenizer would break a word at every accent.

With n samples a prompt, the i-th samples of all prompts are a system, and the figure is the mean of the n systems' scores:
the score expected of one sample a prompt. The samples of a prompt are drawn together, as they are not independent.

Axes: N samples a prompt, P prompts, R resamples, C counts that a score is made of.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Literal

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from tropism.tensors import statistics
from tropism.tensors.statistics import RESAMPLES, Figure, rounded

TextMetric = Literal["bleu", "chrf", "rouge_l"]


def measure(metric: TextMetric, answers: Sequence[Sequence[str]], references: Sequence[str]) -> tuple[Figure, str]:
    """(figure, signature) of the `answers` to each prompt, as many for each, by its one reference.

    The signature names the measure and all it depends on, as sacrebleu has one cite it: "BLEU|nrefs:1|…".
    """
    said, right = [[text.strip() for text in row] for row in answers], [text.strip() for text in references]
    if metric == "rouge_l":
        return _rouge(said, right)
    return _corpus(BLEU() if metric == "bleu" else CHRF(), said, right)


def _corpus(metric: BLEU | CHRF, answers: list[list[str]], references: list[str]) -> tuple[Figure, str]:
    counts_NPC = np.asarray([metric._extract_corpus_statistics(system, [references]) for system in zip(*answers)])
    all_right_C, all_empty_C = (
        np.asarray(metric._extract_corpus_statistics(system, [references])).sum(0)
        for system in (references, [""] * len(references))
    )
    prompts = len(references)
    drawn_RP = np.random.default_rng(0).integers(0, prompts + 2, (RESAMPLES, prompts))  # the same for every model
    times_RP = np.stack([np.bincount(drawn_P, minlength=prompts + 2) for drawn_P in drawn_RP])
    more_RC = times_RP[:, -2:] @ np.stack([all_right_C, all_empty_C])  # each counted `prompts` times, to stay whole
    resampled_NRC = prompts * (times_RP[:, :prompts] @ counts_NPC) + more_RC
    low, high = np.quantile([_score(metric, counts_NC) for counts_NC in resampled_NRC.swapaxes(0, 1)], [0.025, 0.975])
    figure = rounded(_score(metric, counts_NPC.sum(1)), low, high)
    name = metric._compute_score_from_stats(counts_NPC[0, 0].tolist()).name
    return figure, f"{name}|{metric.get_signature()}"


def _score(metric: BLEU | CHRF, counts_NC: np.ndarray) -> float:
    """The mean score of the systems with these counts."""
    return float(np.mean([metric._compute_score_from_stats(row).score for row in counts_NC.tolist()]))


def _rouge(answers: list[list[str]], references: list[str]) -> tuple[Figure, str]:
    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    each = [
        float(np.mean([100 * scorer.score(right, text)["rougeL"].fmeasure for text in row]))
        for row, right in zip(answers, references)
    ]
    return statistics.mean(
        each, (0.0, 100.0)
    ), f"ROUGE-L|nrefs:1|f1|case:lc|tok:words|stem:no|version:{version('rouge-score')}"


class _Words(Tokenizer):
    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text.lower())
