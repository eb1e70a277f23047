"""The engine in this process: batched sampling with a KV cache, on any Hugging Face causal LM.

A prompt, with the prefix of its answers, is prefilled once for its K samples. A finished sample leaves the batch and a
waiting prompt takes its slots. Each sample has its own random numbers, which depend on seed, prompt tokens, prefix and
the number of the sample, so it does not depend on the other samples in the batch. Log-probabilities are of the
distribution that is sampled from (temperature, top-k, top-p); with greedy decoding they are 0, as the token is certain.
Left out: paging (rows are short) and speculative decoding.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tropism.engines._slots import close_ranks
from tropism.engines._ways import NOTES, WAYS, way_of
from tropism.errors import TropismError
from tropism.models.folder import context_of
from tropism.models.halves import check_ids
from tropism.models.vocabulary import know
from tropism.tensors.maths import shaped
from tropism.text.chat import prompt_tokens, stop_tokens, text_of
from tropism.text.tokenizer import identity
from tropism.types import Completion, Message, SamplingParams

__all__ = ["Local"]


@dataclass(frozen=True)
class Local:
    """`rows` is the number of samples that decode at a time: lower it if memory is short."""

    rows: Annotated[int, Ge(1)] = 256

    logprobs: ClassVar[bool] = True
    in_fingerprint: ClassVar[bool] = False  # samples do not depend on `rows`

    def open(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, policy: str) -> LocalEngine:
        return LocalEngine(model, tokenizer, policy, self.rows)


@dataclass
class _Sample:
    """One unfinished completion. `draws` has a uniform number for each of its `tokens`, which follow the `prefix`."""

    prompt: int
    number: int
    prefix: tuple[int, ...]
    draws: np.ndarray
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: str = ""

    @property
    def answer(self) -> list[int]:
        return [*self.prefix, *self.tokens]


class LocalEngine:
    """Samples from `model`, which it shares with the trainer: an update of the weights takes effect at once.

    `rows` samples decode at a time. `on_tokens` is called with the number of tokens after each step.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        policy: str = "",
        rows: int = 256,
        on_tokens: Callable[[int], None] | None = None,
    ) -> None:
        self.model, self.tokenizer, self.policy, self.rows = model, tokenizer, policy, rows
        self.on_tokens = on_tokens
        self._identity = identity(tokenizer)
        if "absent_V" not in model.__dict__:
            know(model, tokenizer)
        self._stops = torch.tensor(sorted(stop_tokens(tokenizer) | _model_stops(model)))

    def load(self, weights: Any, policy: str) -> None:
        """Takes a state dict (None: the shared model's weights have changed in place) under a new policy name."""
        if weights is not None:
            self.model.load_state_dict(weights)
        self.policy = policy

    def tell(self, note: Callable[[str], None]) -> None:
        """Calls `note` if sampling from this model is slower than usual."""
        if way := NOTES.get(way_of(self.model)):
            note(f"{type(self.model).__name__}: {way}")

    def generate(
        self, prompts: Sequence[Sequence[Message]], params: SamplingParams, prefixes: Sequence[Sequence[int]] = ()
    ) -> list[tuple[Completion, ...]]:
        tokens = [prompt_tokens(self.tokenizer, prompt) for prompt in prompts]
        done: list[list[Completion | None]] = [[None] * params.n for _ in prompts]
        for _, finished in self._steps(tokens, params, prefixes):
            for sample in finished:
                done[sample.prompt][sample.number] = self._completion(sample, params)
        return [tuple(c for c in row if c is not None) for row in done]

    def stream(self, prompt: Sequence[Message], params: SamplingParams) -> Iterator[str]:
        """Yields the text of one completion in pieces while it is sampled."""
        shown = ""
        for live, finished in self._steps([prompt_tokens(self.tokenizer, prompt)], params):
            sample = (*finished, *live)[0]
            if finished:
                text = self._completion(sample, params).text
            else:
                text = text_of(self.tokenizer, sample.answer)
                longest = max((len(s) for s in params.stop), default=1)  # the text may end with part of a stop string
                text = text[: len(text) - longest + 1].rstrip("\ufffd")
            if text.startswith(shown) and len(text) > len(shown):
                yield text[len(shown) :]
                shown = text

    def room(self, prompt: Sequence[Message]) -> int:
        """The number of tokens that the model's context leaves for an answer to `prompt`."""
        return context_of(self.model) - len(prompt_tokens(self.tokenizer, prompt))

    @torch.inference_mode()
    def _steps(
        self, asked: Sequence[list[int]], params: SamplingParams, prefixes: Sequence[Sequence[int]] = ()
    ) -> Iterator[tuple[list[_Sample], list[_Sample]]]:
        """Yields after each decoding step the samples that still run, and those that the step finished."""
        device = self.model.device
        begun = [tuple(prefix) for prefix in prefixes] or [()] * len(asked)
        prompts = [[*tokens, *prefix] for tokens, prefix in zip(asked, begun, strict=True)]
        self._check(prompts, begun, params)
        seen: Counter[tuple[int, ...]] = Counter()
        waiting = []
        for p, (tokens, prefix) in enumerate(zip(asked, begun)):  # a repeated prompt gets other samples
            key = (*tokens, *((-1, *prefix) if prefix else ()))
            waiting += self._samples(p, prefix, key, params, seen[key] * params.n)
            seen[key] += 1
        waiting.reverse()
        length = max(map(len, prompts), default=0) + params.max_tokens
        rows = min(self.rows, sum(map(len, waiting)))
        way = WAYS[way_of(self.model)](self.model, rows, length)
        if not way.joins:
            waiting.sort(key=lambda chunk: len(prompts[chunk[0].prompt]), reverse=True)
        stops = self._stops.to(device)
        live: list[_Sample] = []
        scores = torch.zeros(0)
        while live or waiting:
            if waiting and (not live or (way.joins and rows - len(live) >= max(len(waiting[-1]), rows // 4))):
                batch: list[_Sample] = []
                while waiting and len(live) + len(batch) + len(waiting[-1]) <= rows:
                    if batch and not way.joins and len(prompts[waiting[-1][0].prompt]) != len(prompts[batch[0].prompt]):
                        break
                    batch += waiting.pop()
                order = sorted({s.prompt for s in batch})
                number = {p: i for i, p in enumerate(order)}
                new = way.admit([prompts[p] for p in order], [number[s.prompt] for s in batch])
                scores = torch.cat([scores, new]) if live else new
                live = live + batch
            tokens = self._choose(scores, live, params, stops)
            if self.on_tokens:
                self.on_tokens(len(live))
            finished = [s for s in live if s.finished]
            if finished:
                rows_kept = close_ranks([not s.finished for s in live])
                live = [live[i] for i in rows_kept]
                kept = torch.tensor(rows_kept, dtype=torch.long, device=device)
                way.keep(kept)
                tokens = tokens[kept]
            yield live, finished
            scores = way.step(tokens) if live else scores[:0]

    def _samples(
        self, prompt: int, prefix: tuple[int, ...], asked: tuple[int, ...], params: SamplingParams, before: int
    ) -> Iterator[list[_Sample]]:
        """The samples of one prompt, in chunks that fit the rows; `before` is the number already drawn for this
        prompt."""
        key = np.asarray(asked, dtype=np.int64).tobytes()
        made = []
        for number in range(params.n):
            digest = hashlib.blake2b(
                key,
                digest_size=16,
                salt=params.seed.to_bytes(8, "little", signed=True) + (before + number).to_bytes(8, "little"),
            ).digest()
            stream = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
            draws = stream.random(params.max_tokens) if params.temperature else np.zeros(params.max_tokens)
            made.append(_Sample(prompt, number, prefix, draws))
        for i in range(0, len(made), self.rows):
            yield made[i : i + self.rows]

    def _choose(self, scores: Tensor, live: list[_Sample], params: SamplingParams, stops: Tensor) -> Tensor:
        """Chooses the next token of every running sample, and marks those that end with it."""
        if params.temperature == 0:
            tokens = scores.argmax(-1)
            chosen = torch.zeros(len(live))
        else:
            kept = shaped(scores, params.temperature, params.top_k, params.top_p)
            logp = kept.log_softmax(-1)
            cumulative = logp.exp().double().cumsum(-1)
            draw = torch.tensor([s.draws[len(s.tokens)] for s in live], device=scores.device, dtype=torch.float64)
            tokens = torch.searchsorted(cumulative, (draw * cumulative[:, -1])[:, None], right=True)[:, 0]
            tokens = tokens.clamp(max=scores.shape[-1] - 1)
            chosen = logp.gather(-1, tokens[:, None])[:, 0]
        ends = torch.isin(tokens, stops).tolist()
        for sample, token, logprob, end in zip(live, tokens.tolist(), chosen.tolist(), ends):
            sample.tokens.append(token)
            sample.logprobs.append(logprob)
            if end or (params.stop and self._cut(sample, params.stop) is not None):
                sample.finished = "stop"
            elif len(sample.tokens) == params.max_tokens:
                sample.finished = "length"
        return tokens

    def _cut(self, sample: _Sample, stop: tuple[str, ...]) -> str | None:
        """The text before the first stop string; None if it has none."""
        text = text_of(self.tokenizer, sample.answer)
        places = [text.find(s) for s in stop if s in text]
        return text[: min(places)] if places else None

    def _completion(self, sample: _Sample, params: SamplingParams) -> Completion:
        cut = self._cut(sample, params.stop) if params.stop else None
        return Completion(
            text=text_of(self.tokenizer, sample.answer) if cut is None else cut,
            tokens=tuple(sample.answer),
            sampled=(False,) * len(sample.prefix) + (True,) * len(sample.tokens),
            logprobs=(0.0,) * len(sample.prefix) + tuple(sample.logprobs),
            finish_reason="stop" if sample.finished == "stop" else "length",
            policy=self.policy,
            tokenizer=self._identity,
        )

    def _check(self, prompts: Sequence[list[int]], prefixes: Sequence[tuple[int, ...]], params: SamplingParams) -> None:
        stops = {*self._stops.tolist()}
        for prefix in filter(None, prefixes):
            if stops & {*prefix} or any(stop in text_of(self.tokenizer, prefix) for stop in params.stop):
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
