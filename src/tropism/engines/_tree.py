"""A tree of sequences, for search and for answers with given parts between them: half of `LocalEngine`.

    handle = engine.open(tokens)                 a sequence; nothing is run before something is asked of it
    branches = engine.fork(handle, 64)           copies that share what is stored
    engine.append(handle, tokens)                forced tokens
    engine.decode(branches, params)              samples: until a stop, `max_tokens`, or `until` says so
    engine.rollback(handle, 3)                   takes the last tokens back
    engine.score(handle, continuations)          log-probabilities of tokens that might follow
    engine.free(handle)

All handles of one call decode in one batch, beside whatever else the engine has to do. A sample depends on the weights,
the seed, the tokens that its handle had when it was opened or forked, and its number among the forks; `decode` for 5 tokens
and 5 more is `decode` for 10. Left out: forks of a score head's states, as the reward model is another model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from tropism.engines._batch import CHUNK, STEPS, Batch
from tropism.engines._choose import branch
from tropism.engines._row import Row
from tropism.engines._sequence import Allowed, Sequenced
from tropism.errors import TropismError
from tropism.models.folder import context_of
from tropism.models.halves import check_ids
from tropism.types import Completion, SamplingParams

Until = Callable[[Sequence[int]], bool]


class Tree:
    """What a search needs of an engine. Handles are freed by `free`, by nothing else."""

    batch: Batch
    refresh: Callable[[], None]
    step: Callable[[int], list[Row]]
    _ends: Callable[..., Callable[[Row], bool] | None]
    _completion: Callable[[Sequence[int], Row], Completion]

    def open(self, tokens: Sequence[int], allowed: Allowed | None = None) -> Sequenced:
        """A sequence of tokens. `allowed(tokens)` says which ids may follow the tokens of it or of its forks."""
        self.refresh()
        self._check(tokens)
        return Sequenced([*tokens], key=tuple(tokens), origin=len(tokens), allowed=allowed)

    def fork(self, handle: Sequenced, n: int) -> list[Sequenced]:
        """`n` handles with the same tokens, numbered from 0. What the old one has computed is not computed again."""
        _alive(handle)
        self.batch.fill([handle])
        made = self.batch.way.fork(handle, n)
        for i, child in enumerate(made):
            child.key, child.origin, child.allowed = tuple(handle.tokens), len(handle.tokens), handle.allowed
            child.number, child.forked = branch(handle.number, i) if handle.forked else i, True
        return made

    def append(self, handle: Sequenced, tokens: Sequence[int]) -> None:
        """Tokens that nobody sampled."""
        _alive(handle)
        self._check([*handle.tokens, *tokens])
        if tokens:
            handle.tokens += tokens
            handle.scored = None

    def decode(
        self, handles: Sequence[Sequenced], params: SamplingParams, until: Until | None = None
    ) -> list[Completion]:
        """Samples after each handle until a stop, `params.max_tokens`, or until `until` is true of the new tokens. Returns
        the new tokens; they stay in the handles."""
        if params.n != 1:
            raise TropismError(f"decode samples one answer of each handle, not n = {params.n}: fork the handles")
        self.refresh()
        rows = [Row(handle, params, self._ends(params, until), owned=False) for handle in map(_alive, handles)]
        if len({id(handle) for handle in handles}) < len(rows):
            raise TropismError("decode got a handle twice: fork it")
        for handle in handles:
            self._check(handle.tokens, params.max_tokens)
        self.batch.resume(rows)
        try:
            while not all(row.finished for row in rows):
                self.step(STEPS)
        finally:
            self.batch.leave(rows)
        return [self._completion((), row) for row in rows]

    def rollback(self, handle: Sequenced, k: int) -> None:
        """Takes back the last `k` tokens."""
        if not 0 <= k < len(_alive(handle).tokens):
            raise TropismError(f"a handle of {len(handle.tokens)} tokens cannot take back {k}: leave at least one")
        if k:
            del handle.tokens[-k:]
            handle.origin, handle.scored = min(handle.origin, len(handle.tokens)), None
            self.batch.way.cut(handle, len(handle.tokens))

    @torch.inference_mode()
    def score(self, handle: Sequenced, continuations: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
        """For each continuation the log-probabilities of its tokens after the handle's, in nats, at a temperature of 1."""
        self.refresh()
        self.batch.fill([_alive(handle)])
        assert handle.scored is not None
        scores, row = handle.scored
        first = scores[row].log_softmax(-1)
        found = []
        for continuation in map(list, continuations):
            self._check([*handle.tokens, *continuation])
            said = [float(first[token]) for token in continuation[:1]]
            if len(continuation) > 1:
                (child,) = self.batch.way.fork(handle, 1)
                child.tokens += continuation[:-1]
                said += self._said(child, continuation[1:])
                self.batch.way.free(child)
            found.append(tuple(said))
        return found

    def free(self, handle: Sequenced) -> None:
        """Gives back the memory of a handle; its forks keep what they share."""
        self.batch.way.free(_alive(handle))
        handle.freed = True

    def _said(self, sequence: Sequenced, following: list[int]) -> list[float]:
        """The log-probabilities of the tokens after each pending token."""
        said: list[float] = []
        while sequence.pending:
            count = min(CHUNK // 4, sequence.pending) if self.batch.way.chunks else sequence.pending
            scores = self.batch.head(self.batch.way.run([sequence], [count])).log_softmax(-1)
            tokens = torch.tensor(following[len(said) : len(said) + count], device=scores.device)
            said += scores.gather(-1, tokens[:, None])[:, 0].tolist()
        return said

    def _check(self, tokens: Sequence[int], more: int = 0) -> None:
        model = self.batch.model
        if not tokens:
            raise TropismError("a sequence needs at least one token: give the model's beginning-of-text token")
        check_ids(model, max(tokens))
        if len(tokens) + more > context_of(model):
            raise TropismError(
                f"{len(tokens)} tokens and max_tokens = {more} exceed the model's context of {context_of(model)} tokens: "
                "roll back or lower max_tokens"
            )


def _alive(handle: Sequenced) -> Sequenced:
    if handle.freed:
        raise TropismError("this handle was freed: open its tokens again")
    return handle
