"""Which token follows: the distribution that a request asks for, and one uniform number for each token of each sample.

    token = the first at which the cumulative probability exceeds the number        (inverse transform sampling)

The numbers depend on the tokens that a sample began with, the seed and the number of the sample (docs/decisions/0004), so
what runs beside a sample changes nothing. Log-probabilities are those of the distribution that is sampled from, after
temperature, top-k, top-p and the mask; a greedy choice is certain, so its log-probability is 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from tropism.engines._sequence import Allowed
from tropism.errors import TropismError
from tropism.tensors import native
from tropism.tensors.maths import shaped
from tropism.types import SamplingParams


def draws(key: Sequence[int], seed: int, number: int, begun: int) -> Iterator[float]:
    """The uniform numbers of one sample, without the first `begun`."""
    digest = hashlib.blake2b(
        np.asarray(key, dtype=np.int64).tobytes(),
        digest_size=16,
        salt=seed.to_bytes(8, "little", signed=True) + number.to_bytes(8, "little"),
    ).digest()
    stream = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    stream.random(begun)
    return chain.from_iterable(iter(lambda: stream.random(64).tolist(), None))


def branch(number: int, child: int) -> int:
    """The number of a fork of a fork, of 64 bits; different for all."""
    return int.from_bytes(hashlib.blake2b(f"{number} {child}".encode(), digest_size=8).digest(), "little")


def masked(scores_RV: Tensor, allowed: Sequence[tuple[Allowed | None, Sequence[int]]]) -> Tensor:
    """(R, V) logits, -inf for what a row does not allow after its tokens."""
    scores_RV = scores_RV.clone()
    for row, (allows, tokens) in enumerate(allowed):
        ids = None if allows is None else allows(tokens)
        if ids is None:
            continue
        if not len(ids):
            raise TropismError(
                f"a mask allows no token after {len(tokens)} tokens: let it allow a stop token at the end"
            )
        keep = torch.zeros(scores_RV.shape[1], dtype=torch.bool, device=scores_RV.device)
        keep[torch.as_tensor(ids, dtype=torch.long, device=scores_RV.device)] = True
        scores_RV[row].masked_fill_(~keep, float("-inf"))
    return scores_RV


def choose(scores_RV: Tensor, drawn: Iterable[float], params: SamplingParams) -> tuple[list[int], list[float]]:
    """The next tokens of rows with these logits and uniform numbers, and their log-probabilities. A greedy choice takes
    no numbers."""
    if params.temperature == 0:
        return scores_RV.argmax(-1).tolist(), [0.0] * len(scores_RV)
    scores_RV = shaped(scores_RV, params.temperature, params.top_k, params.top_p)
    number_R = np.fromiter(drawn, np.float64, len(scores_RV))
    if native.ready(scores_RV):
        return native.sample(scores_RV, number_R)
    logp_RV = scores_RV.log_softmax(-1)
    cumulative = logp_RV.exp().double().cumsum(-1)
    draw = torch.from_numpy(number_R).to(scores_RV.device)
    tokens = torch.searchsorted(cumulative, (draw * cumulative[:, -1])[:, None], right=True)
    tokens = tokens.clamp(max=scores_RV.shape[-1] - 1)
    return tokens[:, 0].tolist(), logp_RV.gather(-1, tokens)[:, 0].tolist()
