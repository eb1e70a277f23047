"""The true quality of an answer, compared with its reference: correctness first, brevity second. No model sees it.

    1                              the answer, and nothing else
    0.5 + 0.3 exp(-extra / 40)     the answer in `extra` characters of chatter: below 0.8, never below 0.5
    0, 0.1, 0.2 or 0.3             anything else: by its similarity to the answer, chrF, in quarters of the scale

So every right answer is above every wrong one, and a mistyped digit is wrong. The similarity has only four levels
because people cannot order two wrong answers more finely. An answer may have chatter around it if each side of it is an
end of the text, punctuation or the word "is", and if the chatter has no number that is not in the answer: neither "in 3
weeks" nor "3 weeks, or 4 weeks" counts as "3 weeks". chrF: Popović 2015 (WMT), computed by sacrebleu. Left out: an
answer with several names ("Malaysia, Japan"), which loses only for the length of the chatter.
"""

from __future__ import annotations

import functools
import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sacrebleu.metrics.chrf import CHRF

_WRONG = (0.0, 0.1, 0.2, 0.3)  # by the quarter of chrF; the highest chrF is still wrong
_CHATTER_LEAST = 0.5
_CHATTER_MOST = 0.8
_CHATTER_DECAY = 40.0

_OPENS = re.compile(r"(^|[.,:;!?\n]|\bis )[ \"'«“(]*$")
_CLOSES = re.compile(r"[ \"'»”)]*($|[.,:;!?\n])| is\b")
_DIGIT_BEFORE = re.compile(r"\d[\s.,:]*$")
_DIGIT_AFTER = re.compile(r"[\s.,:]*\d")


def quality(completion: str, target: str) -> float:
    """The true quality of `completion` in [0, 1] by its reference `target`; space at the ends is ignored."""
    said, right = completion.strip(), target.strip()
    if said == right:
        return 1.0
    if _stands_in(said, right):
        extra = len(said) - len(right)
        return _CHATTER_LEAST + (_CHATTER_MOST - _CHATTER_LEAST) * math.exp(-extra / _CHATTER_DECAY)
    likeness = _chrf().sentence_score(said, [right]).score / 100
    return _WRONG[min(int(likeness * len(_WRONG)), len(_WRONG) - 1)]


def exact(completion: str, target: str) -> float:
    """1.0 if `completion` is the reference `target`, white space at the ends aside, else 0.0."""
    return float(completion.strip() == target.strip())


def _stands_in(said: str, right: str) -> bool:
    """True if `said` has the answer `right` in it, and no other."""
    if not right:
        return False
    for match in re.finditer(re.escape(right), said):
        before, after = said[: match.start()], said[match.end() :]
        set_off = _OPENS.search(before) and (_CLOSES.match(after) or right[-1] in ".!?")
        if set_off and not _DIGIT_BEFORE.search(before) and not _DIGIT_AFTER.match(after):
            others = set(re.findall(r"\d+", before + " " + after))
            return others <= set(re.findall(r"\d+", right))
    return False


@functools.cache
def _chrf() -> CHRF:
    from sacrebleu.metrics.chrf import CHRF  # imported late, because it is slow

    return CHRF()
