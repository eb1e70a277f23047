"""The engine in this process: batched sampling on pages of keys and values, on any Hugging Face causal LM.

A prompt, with the prefix of its answers, is run once for its K samples (`_batch.py`). Requests enter and leave between any
two steps; a finished or cancelled one frees its memory at once. Each sample has its own random numbers, so it does not
depend on the other samples in the batch (`_choose.py`). Log-probabilities are of the distribution that is sampled from
(temperature, top-k, top-p, masks); with greedy decoding they are 0, as the token is certain.
Left out: speculative decoding.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tropism.engines import MEMORY
from tropism.engines._batch import STEPS, Batch, budget
from tropism.engines._row import Root, Row
from tropism.engines._sequence import Allowed, Sequenced
from tropism.engines._tree import Tree, Until
from tropism.engines._ways import NOTES, WAYS, way_of
from tropism.errors import TropismError
from tropism.models.folder import context_of
from tropism.models.halves import check_ids
from tropism.models.rounded import follow, rounded
from tropism.models.vocabulary import know
from tropism.models.weights import has_bfloat16
from tropism.store.fingerprint import FREE
from tropism.text.chat import prompt_tokens, stop_tokens, text_of
from tropism.text.tokenizer import identity
from tropism.types import Completion, Message, SamplingParams

__all__ = ["Local"]


@dataclass(frozen=True)
class Local:
    """`memory` is for keys and values: as many samples decode at a time as fit, up to `rows`. `cache`: the beginnings of
    prompts are remembered until the weights change, but for `generate` only within a call. `dtype` "bfloat16" samples from
    a copy of the model in bfloat16."""

    memory: str = field(default=MEMORY, metadata=FREE)
    rows: Annotated[int, Ge(1)] = field(default=256, metadata=FREE)
    cache: bool = field(default=True, metadata=FREE)
    dtype: Literal["float32", "bfloat16"] = "float32"

    logprobs: ClassVar[bool] = True

    @property
    def in_fingerprint(self) -> bool:
        """Samples depend on no other field."""
        return self.dtype != "float32"

    def __post_init__(self) -> None:
        budget(self.memory)

    def open(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, policy: str) -> LocalEngine:
        if self.dtype == "bfloat16" and not has_bfloat16(model.device):
            raise TropismError(f'engine.dtype = "bfloat16" would make this {model.device.type} slower: use "float32"')
        return LocalEngine(model, tokenizer, policy, self.rows, memory=self.memory, cache=self.cache, dtype=self.dtype)


class LocalEngine(Tree):
    """Samples from `model`, which it shares with the trainer: an update of the weights takes effect at once. In another
    `dtype` it samples from a copy, which follows the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        policy: str = "",
        rows: int = 256,
        memory: str = MEMORY,
        cache: bool = True,
        dtype: str = "float32",
    ) -> None:
        self.tokenizer, self.policy, self._trained = tokenizer, policy, model
        self._identity = identity(tokenizer)
        if "absent_V" not in model.__dict__:
            know(model, tokenizer)
        self.model = model = model if dtype == "float32" else rounded(model, getattr(torch, dtype))
        way = WAYS[way_of(model)](model, cache)
        self.batch = Batch(model, way, rows, budget(memory), stop_tokens(tokenizer) | _model_stops(model))
        self._weights = 0

    def load(self, weights: Any, policy: str) -> None:
        """Takes a state dict (None: the shared model's weights have changed in place) under a new policy name."""
        if weights is not None:
            self._trained.load_state_dict(weights)
        self.policy = policy
        self._changed()

    def tell(self, note: Callable[[str], None]) -> None:
        """Calls `note` if sampling from this model is slower than usual."""
        if way := NOTES.get(way_of(self.model)):
            note(f"{type(self.model).__name__}: {way}")

    def generate(
        self, prompts: Sequence[Sequence[Message]], params: SamplingParams, prefixes: Sequence[Sequence[int]] = ()
    ) -> list[tuple[Completion, ...]]:
        tokens = [prompt_tokens(self.tokenizer, prompt) for prompt in prompts]
        begun = [tuple(prefix) for prefix in prefixes] or [()] * len(tokens)
        self._check_prompts([[*t, *prefix] for t, prefix in zip(tokens, begun, strict=True)], begun, params)
        seen: Counter[tuple[int, ...]] = Counter()
        requests = []
        for asked, prefix in zip(tokens, begun):  # a repeated prompt gets other samples
            key = (*asked, *((-1, *prefix) if prefix else ()))
            requests.append(self._request(asked, params, prefix, key, seen[key] * params.n))
            seen[key] += 1
        self.refresh()
        if self.batch.idle:
            self.batch.way.clear()  # no bit of an answer depends on earlier calls, which a continued run does not make
        try:
            for request in requests:
                self.batch.submit(request)
            while any(
                len(request.rows) < params.n or not all(r.finished for r in request.rows) for request in requests
            ):
                self.step(STEPS)
        finally:
            for request in requests:
                self.batch.cancel(request)
        rows = [sorted(request.rows, key=lambda row: row.sequence.number) for request in requests]
        return [tuple(self._completion(prefix, row) for row in some) for prefix, some in zip(begun, rows)]

    def stream(self, prompt: Sequence[Message], params: SamplingParams) -> Iterator[str]:
        """Yields the text of one completion in pieces while it is sampled. Several streams may run side by side."""
        request = self.request(prompt, params)
        self.submit(request)
        shown, known = "", 0
        try:
            while not (request.rows and request.rows[0].finished):
                if not request.rows or len(request.rows[0].tokens) == known:
                    self.step()
                    continue
                row = request.rows[0]
                known = len(row.tokens)
                text = text_of(self.tokenizer, row.tokens)
                longest = max((len(s) for s in params.stop), default=1)  # the text may end with part of a stop string
                text = text[: len(text) - longest + 1].rstrip("\ufffd")
                if text.startswith(shown) and len(text) > len(shown):
                    yield text[len(shown) :]
                    shown = text
            text = self._completion((), request.rows[0]).text
            if text.startswith(shown) and len(text) > len(shown):
                yield text[len(shown) :]
        finally:
            self.batch.cancel(request)

    def request(self, prompt: Sequence[Message], params: SamplingParams, allowed: Allowed | None = None) -> Root:
        """`params.n` samples of a prompt, for `submit`: its `rows` are those that have begun, each with its `tokens`."""
        tokens = prompt_tokens(self.tokenizer, prompt)
        self._check_prompts([tokens], [()], params)
        return self._request(tokens, params, (), tuple(tokens), 0, allowed)

    def submit(self, request: Root) -> None:
        """Adds a request to those that wait; `step` does the work, `cancel` ends it and frees its memory."""
        self.refresh()
        self.batch.submit(request)

    def cancel(self, request: Root) -> None:
        self.batch.cancel(request)

    def step(self, most: int = 1) -> list[Row]:
        """One token for each sample that runs, up to `most` where that is one operation; returns these."""
        return self.batch.step(most)

    def refresh(self) -> None:
        """Looks at the model again, and forgets what was computed with other weights."""
        self.batch.refresh()
        weights = sum(p._version for p in self._trained.parameters() if not p.is_inference())
        if weights != self._weights:
            self._changed()
        self._weights = weights

    def _changed(self) -> None:
        if self.model is not self._trained:
            follow(self.model, self._trained)
        self.batch.way.forget()

    def room(self, prompt: Sequence[Message]) -> int:
        """The number of tokens that the model's context leaves for an answer to `prompt`."""
        return context_of(self.model) - len(prompt_tokens(self.tokenizer, prompt))

    def _request(
        self,
        tokens: Sequence[int],
        params: SamplingParams,
        prefix: Sequence[int],
        key: tuple[int, ...],
        before: int,
        allowed: Allowed | None = None,
    ) -> Root:
        """`before` is the number of samples already drawn for this prompt."""
        ends = self._ends(params, None, prefix)

        def start(sequence: Sequenced, number: int) -> Row:
            sequence.key, sequence.number, sequence.allowed = key, before + number, allowed
            sequence.origin = len(sequence.tokens)
            return Row(sequence, params, ends)

        return Root(Sequenced([*tokens, *prefix]), deque(range(params.n)), start)

    def _ends(
        self, params: SamplingParams, until: Until | None, prefix: Sequence[int] = ()
    ) -> Callable[[Row], bool] | None:
        def ends(row: Row) -> bool:
            stopped = bool(params.stop) and self._cut((*prefix, *row.tokens), params.stop) is not None
            return stopped or (until is not None and until(row.tokens))

        return ends if params.stop or until else None

    def _cut(self, tokens: Sequence[int], stop: tuple[str, ...]) -> str | None:
        """The text before the first stop string; None if it has none."""
        text = text_of(self.tokenizer, tokens)
        places = [text.find(s) for s in stop if s in text]
        return text[: min(places)] if places else None

    def _completion(self, prefix: Sequence[int], row: Row) -> Completion:
        tokens = (*prefix, *row.tokens)
        cut = self._cut(tokens, row.params.stop) if row.params.stop else None
        return Completion(
            text=text_of(self.tokenizer, tokens) if cut is None else cut,
            tokens=tokens,
            sampled=(False,) * len(prefix) + (True,) * len(row.tokens),
            logprobs=(0.0,) * len(prefix) + tuple(row.logprobs),
            finish_reason="stop" if row.finished == "stop" else "length",
            policy=self.policy,
            tokenizer=self._identity,
        )

    def _check_prompts(
        self, prompts: Sequence[list[int]], prefixes: Sequence[tuple[int, ...]], params: SamplingParams
    ) -> None:
        for prefix in filter(None, prefixes):
            if self.batch.stops & {*prefix} or any(stop in text_of(self.tokenizer, prefix) for stop in params.stop):
                raise TropismError(
                    f"a prefix of {len(prefix)} tokens contains a stop, so its answer is finished: use another prefix"
                )
        context = context_of(self.model)
        check_ids(self.model, max((max(tokens, default=0) for tokens in prompts), default=0))
        longest = max(map(len, prompts), default=0)
        if longest + params.max_tokens > context:
            what = "a prompt with its prefix" if any(prefixes) else "a prompt"
            raise TropismError(
                f"{what} of {longest} tokens and max_tokens = {params.max_tokens} exceed the model's context of "
                f"{context} tokens: shorten the prompt or lower sampling.max_tokens"
            )


def _model_stops(model: PreTrainedModel) -> set[int]:
    """The ids that end a completion by a model's generation_config.json."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return {end for end in (ends if isinstance(ends, list) else [ends]) if end is not None}
