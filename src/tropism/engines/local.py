"""The engine in this process: batched sampling with a KV cache, on any Hugging Face causal LM.

A prompt is prefilled once for its K samples; a finished sample leaves the batch and a waiting prompt takes its slots.
Each sample draws from its own stream of random numbers, keyed by (seed, prompt tokens, its number), so it does not depend
on what is sampled beside it. Log-probabilities are those of the distribution sampled from (temperature, top-k, top-p);
under greedy decoding that distribution is certain, so they are 0. Left out: paging (rows are short) and speculation.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from tropism.engines._slots import SlotCache, close_ranks
from tropism.models.forward import logits, window_of
from tropism.models.store import context_of
from tropism.tensors.maths import shaped
from tropism.text.chat import prompt_tokens, stop_tokens, text_of
from tropism.types import Completion, Message, SamplingParams, TropismError

__all__ = ["LocalEngine"]


@dataclass
class _Sample:
    """One completion on its way. `draws` holds a uniform number for each of its tokens."""

    prompt: int
    number: int
    draws: np.ndarray
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: str = ""


class LocalEngine:
    """Samples from `model`, which it shares with the trainer: an update of the weights is seen at once.

    `rows` samples decode at a time. `on_tokens` is told how many tokens each step made.
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
        self._stops = torch.tensor(sorted(stop_tokens(tokenizer)))

    def load(self, weights: Any, policy: str) -> None:
        """Takes a state dict (None: the shared model's weights have changed in place) under a new policy name."""
        if weights is not None:
            self.model.load_state_dict(weights)
        self.policy = policy

    def generate(self, prompts: Sequence[Sequence[Message]], params: SamplingParams) -> list[tuple[Completion, ...]]:
        tokens = [prompt_tokens(self.tokenizer, prompt) for prompt in prompts]
        done: list[list[Completion | None]] = [[None] * params.n for _ in prompts]
        for _, finished in self._steps(tokens, params):
            for sample in finished:
                done[sample.prompt][sample.number] = self._completion(sample, params)
        return [tuple(c for c in row if c is not None) for row in done]

    def stream(self, prompt: Sequence[Message], params: SamplingParams) -> Iterator[str]:
        """The text of one completion, piece by piece as it comes."""
        shown = ""
        for live, finished in self._steps([prompt_tokens(self.tokenizer, prompt)], params):
            sample = (*finished, *live)[0]
            if finished:
                text = self._completion(sample, params).text
            else:
                text = text_of(self.tokenizer, sample.tokens)
                longest = max((len(s) for s in params.stop), default=1)  # a stop string may be on its way
                text = text[: len(text) - longest + 1].rstrip("\ufffd")
            if text.startswith(shown) and len(text) > len(shown):
                yield text[len(shown) :]
                shown = text

    def room(self, prompt: Sequence[Message]) -> int:
        """How many tokens an answer to `prompt` may have in the model's context."""
        return context_of(self.model) - len(prompt_tokens(self.tokenizer, prompt))

    @torch.inference_mode()
    def _steps(
        self, prompts: Sequence[list[int]], params: SamplingParams
    ) -> Iterator[tuple[list[_Sample], list[_Sample]]]:
        """After each decoding step: the samples still running, and those it finished."""
        device = self.model.device
        self._check_length(prompts, params)
        seen: Counter[tuple[int, ...]] = Counter()
        waiting = []
        for p, tokens in enumerate(prompts):  # a prompt that is asked again gets samples of its own
            waiting += self._samples(p, tokens, params, seen[tuple(tokens)] * params.n)
            seen[tuple(tokens)] += 1
        waiting.reverse()
        length = max(map(len, prompts), default=0) + params.max_tokens
        rows = min(self.rows, sum(map(len, waiting)))
        cache = SlotCache(self.model.config.num_hidden_layers, rows, length)
        stops = self._stops.to(device)
        live: list[_Sample] = []
        at = torch.zeros(0, dtype=torch.long, device=device)  # where each live sample writes next
        scores = torch.zeros(0, self.model.config.vocab_size, device=device)
        while live or waiting:
            if waiting and (not live or rows - len(live) >= max(len(waiting[-1]), rows // 4)):
                batch: list[_Sample] = []
                while waiting and len(live) + len(batch) + len(waiting[-1]) <= rows:
                    batch += waiting.pop()
                new_at, new_scores = self._prefill(batch, prompts, cache, len(live))
                live, at, scores = live + batch, torch.cat([at, new_at]), torch.cat([scores, new_scores])
            tokens = self._choose(scores, live, params, stops)
            if self.on_tokens:
                self.on_tokens(len(live))
            finished = [s for s in live if s.finished]
            if finished:
                rows_kept = close_ranks([not s.finished for s in live])
                live = [live[i] for i in rows_kept]
                kept = torch.tensor(rows_kept, dtype=torch.long, device=device)
                cache.keep(kept)
                at, tokens = at[kept], tokens[kept]
            yield live, finished
            scores = self._decode(tokens, at, cache) if live else scores[:0]
            at = at + 1

    def _samples(self, prompt: int, tokens: list[int], params: SamplingParams, before: int) -> Iterator[list[_Sample]]:
        """The samples of one prompt, in chunks that fit the rows; `before` were drawn for the same prompt already."""
        key = np.asarray(tokens, dtype=np.int64).tobytes()
        made = []
        for number in range(params.n):
            digest = hashlib.blake2b(
                key,
                digest_size=16,
                salt=params.seed.to_bytes(8, "little", signed=True) + (before + number).to_bytes(8, "little"),
            ).digest()
            stream = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
            draws = stream.random(params.max_tokens) if params.temperature else np.zeros(params.max_tokens)
            made.append(_Sample(prompt, number, draws))
        for i in range(0, len(made), self.rows):
            yield made[i : i + self.rows]

    def _prefill(
        self, batch: list[_Sample], prompts: Sequence[list[int]], cache: SlotCache, first: int
    ) -> tuple[Tensor, Tensor]:
        """Runs each prompt of the batch once and copies it to its samples' slots; their positions and first logits."""
        device = self.model.device
        order = sorted({s.prompt for s in batch})
        lengths = torch.tensor([len(prompts[p]) for p in order], device=device)
        width = int(lengths.max())
        tokens = torch.tensor([prompts[p] + [0] * (width - len(prompts[p])) for p in order], device=device)
        mask = (torch.arange(width, device=device) < lengths[:, None]).long()
        prefilled = DynamicCache(config=self.model.config)
        states = self.model.base_model(
            input_ids=tokens, attention_mask=mask, past_key_values=prefilled, use_cache=True
        ).last_hidden_state
        number = {p: i for i, p in enumerate(order)}
        prompt = torch.tensor([number[s.prompt] for s in batch], device=device)
        cache.admit(torch.arange(first, first + len(batch), device=device), prefilled, prompt)
        last = states[torch.arange(len(order), device=device), lengths - 1]
        return lengths[prompt], logits(self.model, last)[prompt]

    def _decode(self, tokens: Tensor, at: Tensor, cache: SlotCache) -> Tensor:
        """(live, V) logits after one more token in every live row."""
        used = int(at.max()) + 1
        cache.write_at(at, used)
        seen = torch.arange(used, device=at.device) <= at[:, None]
        dtype = next(self.model.parameters()).dtype
        mask = torch.zeros(len(at), 1, 1, used, dtype=dtype, device=at.device)
        mask = mask.masked_fill_(~seen[:, None, None], torch.finfo(dtype).min)
        states = self.model.base_model(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=at[:, None],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return logits(self.model, states[:, 0])

    def _choose(self, scores: Tensor, live: list[_Sample], params: SamplingParams, stops: Tensor) -> Tensor:
        """Takes the next token of every live sample, and marks those that end with it."""
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
        """The text before the first stop string, None if there is none in it."""
        text = text_of(self.tokenizer, sample.tokens)
        places = [text.find(s) for s in stop if s in text]
        return text[: min(places)] if places else None

    def _completion(self, sample: _Sample, params: SamplingParams) -> Completion:
        cut = self._cut(sample, params.stop) if params.stop else None
        return Completion(
            text=text_of(self.tokenizer, sample.tokens) if cut is None else cut,
            tokens=tuple(sample.tokens),
            sampled=(True,) * len(sample.tokens),
            logprobs=tuple(sample.logprobs),
            finish_reason="stop" if sample.finished == "stop" else "length",
            policy=self.policy,
        )

    def _check_length(self, prompts: Sequence[list[int]], params: SamplingParams) -> None:
        window = window_of(self.model)  # the cache keeps every token in sight of every layer
        context = min(context_of(self.model), window or 10**9)
        longest = max(map(len, prompts), default=0)
        if longest + params.max_tokens > context:
            raise TropismError(
                f"a prompt of {longest} tokens and max_tokens = {params.max_tokens} exceed the model's context of "
                f"{context} tokens: shorten the prompt or lower sampling.max_tokens"
            )
