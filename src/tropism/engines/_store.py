"""Keys and values that follow use: the pages of all sequences of one model, and passes of the model over them.

A sequence writes to pages of its own. `fork` moves them to a second pool, where any number of sequences read them and
nobody writes; if the last page is little used, each child gets a copy of it instead. Shared pages that are full are also
known by their content, the tokens up to their end: a sequence that begins with the same tokens takes them over. Pages
that are only remembered are given away before the pool grows.

The model's own modules hand over attention through transformers' `AttentionInterface`; a forward pass of `functional.py`
does without modules.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tropism.engines._attention import attend
from tropism.engines._modules import configs_of, layer_windows, run_modules
from tropism.engines._pages import PAGE, Pages
from tropism.engines._plan import Plan, numbers, plan, reads_of
from tropism.engines._reads import Reads
from tropism.engines._sequence import Sequenced
from tropism.models.attend import LayerSpec
from tropism.models.functional import compiled_head, functional_of
from tropism.models.step import Pools, Rows, Wanted


class Store:
    """Runs sequences of any lengths in one pass. `cache` remembers shared pages by their content."""

    chunks = True

    def __init__(self, model: PreTrainedModel, cache: bool = True) -> None:
        self.model, self.cache = model, cache
        self.own, self.shared = Pages(), Pages()
        self.sequences: set[Sequenced] = set()
        self._known: OrderedDict[bytes, int] = OrderedDict()
        self._windows, self._configs = layer_windows(model), configs_of(model)
        self._plan: Plan  # of this pass
        self._last: Plan | None = None  # of the last one, as long as it says where its rows are
        self.refresh()

    def refresh(self) -> None:
        """Looks again at how the model is run, as an adapter or a hook may have come or gone."""
        self._forward = forward = functional_of(self.model)
        self._step = forward.step.bound() if forward and forward.step else None
        self._head = compiled_head(self.model) if self._step else None

    @property
    def bytes(self) -> int:
        return self.own.bytes + self.shared.bytes

    @property
    def tokens(self) -> int:
        """Whose keys and values sequences hold; those that several share count once."""
        shared = {page: seen for s in self.sequences for page, seen in zip(s.shared, s.seen)}
        return sum(shared.values()) + sum(s.held - s.before for s in self.sequences)

    @property
    def page_bytes(self) -> int:
        """Of one page in all layers; 0 before the first pass."""
        return self.own.page_bytes

    def busy(self) -> int:
        """The pages that sequences hold."""
        users = self.shared.users
        return self.own.used + self.shared.used - [users[page] for page in self._known.values()].count(1)

    def growth(self, sequence: Sequenced, count: int) -> int:
        """The pages that `count` new tokens of a sequence need."""
        return -(-(sequence.held - sequence.before + count) // PAGE) - len(sequence.own)

    def find(self, sequence: Sequenced) -> None:
        """Takes over what is known of the beginning of a new sequence; its last token is always run."""
        self.sequences.add(sequence)
        if sequence.held:
            return
        for mark in _marks(sequence.tokens[:-1]):
            page = self._known.get(mark)
            if page is None:
                break
            self._known.move_to_end(mark)
            self.shared.users[page] += 1
            sequence.shared.append(page)
            sequence.seen.append(PAGE)
            sequence.held += PAGE
            sequence.before += PAGE

    def fork(self, sequence: Sequenced, n: int) -> list[Sequenced]:
        """`n` sequences with the same tokens and logits. They and the old one share its pages."""
        self.share(sequence, n)
        made = [
            Sequenced(
                list(sequence.tokens),
                held=sequence.held,
                before=sequence.before,
                shared=list(sequence.shared),
                seen=list(sequence.seen),
                scored=sequence.scored,
            )
            for _ in range(n)
        ]
        for child in made:
            for page in child.shared:
                self.shared.users[page] += 1
            if sequence.own:  # a little more than nothing
                child.own = [self.own.take()]
        if sequence.own:
            copies = self._tensor([child.own[0] for child in made])
            self.own.copy(copies, self.own, self._tensor(sequence.own).expand(len(made)))
        self.sequences.update(made)
        return made

    def share(self, sequence: Sequenced, n: int = 1) -> None:
        """Moves a sequence's own pages to the shared ones; the last only if `n` copies of its tokens would be more."""
        mine = sequence.held - sequence.before
        rest = mine % PAGE
        moved = mine // PAGE + (n * rest > PAGE - rest)
        if not moved:
            return
        self._last = None
        pages = [self._shared_page() for _ in range(moved)]
        self.shared.copy(self._tensor(pages), self.own, self._tensor(sequence.own[:moved]))
        for page in sequence.own[:moved]:
            self.own.give(page)
        sequence.own = sequence.own[moved:]
        sequence.shared += pages
        sequence.seen += [min(PAGE, mine - i * PAGE) for i in range(moved)]
        sequence.before = sum(sequence.seen)
        if self.cache:
            for mark, page, seen in zip(_marks(sequence.tokens[: sequence.held]), sequence.shared, sequence.seen):
                if seen < PAGE:
                    break  # from here pages do not begin at multiples of PAGE
                if mark not in self._known:
                    self._known[mark] = page
                    self.shared.users[page] += 1

    def cut(self, sequence: Sequenced, length: int) -> None:
        """Forgets the keys and values after the first `length` tokens."""
        if length < sequence.held:
            self._last = None
            self._drop(sequence, length)

    def _drop(self, sequence: Sequenced, length: int) -> None:
        sequence.held = length
        while sequence.seen and sequence.before - sequence.seen[-1] >= sequence.held:
            self.shared.give(sequence.shared.pop())
            sequence.before -= sequence.seen.pop()
        if sequence.before > sequence.held:
            sequence.seen[-1] -= sequence.before - sequence.held
            sequence.before = sequence.held
        keep = -(-(sequence.held - sequence.before) // PAGE)
        while len(sequence.own) > keep:
            self.own.give(sequence.own.pop())

    def free(self, *sequences: Sequenced) -> None:
        """Gives back their pages."""
        for sequence in sequences:
            self._drop(sequence, 0)
        self.sequences.difference_update(sequences)
        self._together()

    def clear(self) -> None:
        """Nothing is remembered any more."""
        while self._known:
            self.shared.give(self._known.popitem()[1])
        self._together()

    def forget(self) -> None:
        """After a change of weights: nothing is remembered, and what sequences hold is computed again."""
        for sequence in self.sequences:
            self.cut(sequence, 0)
            sequence.scored = None
        self.clear()

    def run(self, sequences: Sequence[Sequenced], counts: Sequence[int]) -> Tensor:
        """(sum of counts, width) last hidden states of the next `counts` pending tokens of sequences, one after the
        other; a count of 1 comes before larger ones."""
        last, self._last = self._last, None
        if last is None or counts[-1] > 1 or not last.advance(sequences, self.own.take):
            self.sequences.update(sequences)
            for sequence, count in zip(sequences, counts):
                if sequence.held - sequence.before + count > PAGE * len(sequence.own):
                    sequence.own += [self.own.take() for _ in range(self.growth(sequence, count))]
            last = plan(sequences, counts, self.model.device)
        self._plan = last
        states = self._states(last.tokens[None], last.position[None])[0]
        for sequence, count in zip(sequences, counts):
            sequence.held += count
        self._last = None if last.chunks else last
        return states

    @property
    def chooses(self) -> bool:
        """Whether it has `several`."""
        return self._head is not None and bool(self.own.keys)

    def several(
        self, sequences: Sequence[Sequenced], most: int, limits: list[int], numbers_RN: np.ndarray,
        stops: Collection[int], temperature: float,
    ) -> list[tuple[list[int], list[float]]]:  # fmt: skip
        """Up to `most` tokens for each of some sequences with one pending token, which end at a stop or their limit, and
        the log-probabilities. The tokens are those that single passes would give; sequences do not have them yet."""
        assert self._step is not None and self._head is not None
        self._last = None
        for sequence, limit in zip(sequences, limits):
            sequence.own += [self.own.take() for _ in range(self.growth(sequence, min(most, limit)))]
        held, before = (numbers([getattr(s, name) for s in sequences]) for name in ("held", "before"))
        wanted = Wanted(
            most, numbers([s.tokens[-1] for s in sequences]), held, held - before, numbers(limits), numbers_RN,
            numbers([*stops]), temperature,
        )  # fmt: skip
        reads = reads_of(sequences)
        made = self._step.several(wanted, _rows(reads), self._head, self._pools(len(self._step.table)))
        for sequence, count in zip(sequences, made.count_R.tolist()):
            self._drop(sequence, sequence.held + count)  # pages that an early end leaves
        each = zip(made.count_R.tolist(), made.token_RN.tolist(), made.logprob_RN.tolist())
        return [(tokens[:count], logprobs[:count]) for count, tokens, logprobs in each]

    def _states(self, tokens_1N: Tensor, position_1N: Tensor) -> Tensor:
        forward = self._forward
        if forward is None:
            return run_modules(self.model, self._configs, tokens_1N, position_1N, self._of_modules)
        if self._step is not None and not self._plan.chunks and self.own.keys:
            made, pools = self._plan, self._pools(len(forward.layers))
            return self._step(made.tokens, made.position, _rows(made.reads), made.page, made.at, pools)[None]
        return forward(tokens_1N, position_1N, lambda layer, *qkv: self._attend(layer, forward.layers[layer], *qkv))

    def _pools(self, layers: int) -> list[Pools]:
        own, shared = self.own, self.shared
        return [Pools(own.keys[i], own.values[i], shared.keys.get(i), shared.values.get(i)) for i in range(layers)]

    def _of_modules(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, cap: float | None, sinks: Tensor | None
    ) -> Tensor:
        spec = LayerSpec(q.shape[1], k.shape[1], q.shape[3], scale, self._windows[layer], cap)
        return self._attend(layer, spec, q, k, v, sinks).unflatten(-1, (spec.heads, -1))

    def _attend(
        self, layer: int, spec: LayerSpec, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None = None
    ) -> Tensor:
        """See `models/attend.py`; the batch is one row of all new tokens."""
        q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))
        return attend(self._plan, self.own, self.shared, layer, spec, q, k, v, sinks).flatten(1)[None]

    def _tensor(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self.model.device)

    def _shared_page(self) -> int:
        if self.shared.used == len(self.shared.users) and self._known:
            idle = next((mark for mark, page in self._known.items() if self.shared.users[page] == 1), None)
            if idle is not None:
                self.shared.give(self._known.pop(idle))
        return self.shared.take()

    def _together(self) -> None:
        """Moves pages together if few are used."""
        if moved := self.own.shrink():
            self._last = None
            for sequence in self.sequences:
                sequence.own = [moved[page] for page in sequence.own]
        if moved := self.shared.shrink():
            self._last = None
            for sequence in self.sequences:
                sequence.shared = [moved[page] for page in sequence.shared]
            for mark in self._known:
                self._known[mark] = moved[self._known[mark]]


def _rows(reads: Reads) -> Rows:
    return Rows(reads.start, reads.page, reads.seen, reads.shared)


def _marks(tokens: Sequence[int]) -> Iterator[bytes]:
    """A name for the first 1, 2, … full pages of tokens."""
    digest = hashlib.blake2b(digest_size=16)
    array = np.asarray(tokens, dtype=np.int64)
    for end in range(PAGE, len(tokens) + 1, PAGE):
        digest.update(array[end - PAGE : end].tobytes())
        yield digest.copy().digest()
