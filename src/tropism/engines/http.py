"""The engine of an endpoint: any server with OpenAI's chat completions, also one on this machine such as vLLM's.

    question → cache → place → budget → request, tried again → repair call → cache → reply

Many requests are in flight at a time, in one event loop in a thread (`asking/client.py`); replies come in the order of
the questions. What is in flight when a request ends the run is finished and kept. Left out: Anthropic's and Google's own
APIs (both have an endpoint of this kind), batch APIs, streaming.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import itertools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar
from weakref import WeakValueDictionary

from annotated_types import Ge, Gt

from tropism.asking import endpoint
from tropism.asking.budget import Budget, Price
from tropism.asking.cache import Cache, default_path, key
from tropism.asking.client import Client, Stopped
from tropism.asking.limiter import Limiter
from tropism.asking.replies import Ask, Reply
from tropism.errors import Spent, TropismError
from tropism.store.fingerprint import FREE
from tropism.types import Completion, Message, SamplingParams

__all__ = ["Http"]


@dataclass(frozen=True)
class Http:
    """`revision` tells apart models of one name. The key is read from the environment variable `key_env`; an endpoint
    that needs none gets none.

    At most `concurrency` requests are in flight. Each is tried `tries` times, for `timeout_s` seconds. `prices` has the
    USD per million tokens of each model. `budget` is in USD, for this model in one stage, however often the stage is
    continued, or in one command. `cache` is the file of the replies, by default one for this user.
    """

    model: str
    revision: str = ""
    url: str = field(default="", metadata=FREE)
    key_env: str = field(default="OPENAI_API_KEY", metadata=FREE)
    concurrency: Annotated[int, Ge(1)] = field(default=64, metadata=FREE)
    timeout_s: Annotated[float, Gt(0)] = field(default=300.0, metadata=FREE)
    tries: Annotated[int, Ge(1)] = field(default=8, metadata=FREE)
    prices: Mapping[str, Price] = field(default_factory=dict, metadata=FREE)
    budget: Annotated[float, Ge(0)] | None = field(default=None, metadata=FREE)
    cache: str = field(default="", metadata=FREE)

    logprobs: ClassVar[bool] = False
    own_model: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.budget is not None and self.model not in self.prices:
            raise TropismError(
                f"a budget needs the price of {self.model}: give prices = "
                f'{{ "{self.model}" = {{ input = …, output = … }} }} in USD per million tokens'
            )

    def open(self, model: Any, tokenizer: Any, policy: str) -> HttpEngine:
        """Sends nothing yet. Raises TropismError without a url, and if a model is given, which it would not use."""
        if model is not None:
            raise TropismError("the engine http asks a model of its own: use it in collect and in judges, or use local")
        url = self.url or os.environ.get("OPENAI_BASE_URL", "")
        if not url.startswith(("http://", "https://")):
            raise TropismError(
                f"the engine http has no endpoint (url = {url!r}): give `url`, such as http://127.0.0.1:8000/v1, or "
                "set the environment variable OPENAI_BASE_URL"
            )
        return HttpEngine(self, url.rstrip("/"), _key(self.key_env))


def _key(name: str) -> str:
    """The key in the environment variable; "" if it is not set."""
    found = os.environ.get(name, "").strip()
    if not (found.isascii() and found.isprintable()):
        raise TropismError(f"the key in the environment variable {name} has characters that no key has: copy it again")
    return found


def _shut(loop: asyncio.AbstractEventLoop, client: Client) -> None:
    asyncio.run_coroutine_threadsafe(client.close(), loop).add_done_callback(lambda _: loop.stop())


class _Call:
    """What the questions of one call share: the error that ended it."""

    def __init__(self) -> None:
        self.error: TropismError | None = None
        self.ended = asyncio.Event()

    def end(self, error: TropismError) -> None:
        self.error = self.error or error
        self.ended.set()


class HttpEngine:
    """Asks the endpoint at `url`. Its thread ends when it is garbage."""

    def __init__(self, spec: Http, url: str, secret: str) -> None:
        self.spec = spec
        self._cache = Cache(Path(spec.cache).expanduser() if spec.cache else default_path())
        policy = "@".join(filter(None, (spec.model, spec.revision)))
        self._budget = Budget(spec.budget, self._cache, policy)
        self._client = Client(
            url=url,
            model=spec.model,
            policy=policy,
            secret=secret,
            key_env=spec.key_env,
            timeout_s=spec.timeout_s,
            tries=spec.tries,
            limiter=Limiter(spec.concurrency),
            budget=self._budget,
            price=spec.prices.get(spec.model),
        )
        self._locks: WeakValueDictionary[bytes, asyncio.Lock] = WeakValueDictionary()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        weakref.finalize(self, _shut, self._loop, self._client)

    def load(self, weights: Any, policy: str) -> None:
        """Does nothing: the weights are the endpoint's."""

    def tell(self, note: Callable[[str], None]) -> None:
        """`note` is called when the endpoint makes it wait for long."""
        self._client.note = note

    @property
    def spent(self) -> dict[str, float]:
        """The USD that this stage, or this command, has spent on the model so far; empty without prices."""
        return {self._client.policy: round(self._budget.spent, 6)} if self._client.price else {}

    def generate(
        self, prompts: Sequence[Sequence[Message]], params: SamplingParams, prefixes: Sequence[Sequence[int]] = ()
    ) -> list[tuple[Completion, ...]]:
        """With a temperature of 0 the n samples of a prompt are one reply."""
        if any(prefixes):
            raise TropismError("an endpoint cannot continue a prefix of tokens: use the engine local")
        seeds = [endpoint.seed_of(params.seed, number) for number in range(params.n)]
        each = [dataclasses.replace(params, n=1, seed=seed) for seed in seeds]
        replies = self.ask(Ask(tuple(prompt), one) for prompt in prompts for one in each)
        return [tuple(map(self._priced, itertools.islice(replies, params.n))) for _ in prompts]

    def _priced(self, reply: Reply) -> Completion:
        price = self._client.price
        cost = price.of(reply.input_tokens, reply.output_tokens) if price else None
        return dataclasses.replace(reply.completion, cost=cost)

    def ask(self, asks: Iterable[Ask]) -> Iterator[Reply]:
        """Replies in the order of the questions, of which at most 2 · concurrency are taken ahead.

        Raises TropismError when what was in flight is done; Spent if the budget does not pay for more.
        """
        rest, call = iter(asks), _Call()
        waiting: deque[concurrent.futures.Future[Reply]] = deque()
        try:
            while True:
                for one in itertools.islice(rest, 2 * self.spec.concurrency - len(waiting)):
                    waiting.append(asyncio.run_coroutine_threadsafe(self._reply(one, call), self._loop))
                if not waiting:
                    return
                yield waiting[0].result()
                waiting.popleft()
        except (TropismError, Stopped):
            concurrent.futures.wait(waiting)
            if not isinstance(call.error, Spent):
                raise call.error or AssertionError from None
            left = sum(f.exception() is not None for f in waiting) + sum(1 for _ in rest)
            raise Spent(
                f"{call.error}, and {left} of these questions are left: raise `budget` and run the same command again"
            ) from None
        finally:
            for future in waiting:
                future.cancel()

    async def _reply(self, ask: Ask, call: _Call) -> Reply:
        """From the cache, or from the endpoint with a repair call if it cannot be read. Equal questions wait for one
        another, so that one is sent."""
        try:
            facts = {**endpoint.request(self.spec.model, ask), "revision": self.spec.revision, "mark": ask.mark}
            known = key(facts)
            async with self._locks.setdefault(known, asyncio.Lock()):
                kept = self._cache.get(known)
                if kept is not None and not ask.wrong(kept.completion.text):
                    return kept
                reply = await self._client.reply(ask, call.ended)
                if wrong := ask.wrong(text := reply.completion.text):
                    second = await self._client.reply(ask.again(text, wrong), call.ended)
                    reply = second.after(reply, ask.wrong(second.completion.text))
                if not reply.wrong and reply.completion.finish_reason != "error":
                    self._cache.put(known, reply)
                return reply
        except TropismError as error:
            call.end(error)
            raise
