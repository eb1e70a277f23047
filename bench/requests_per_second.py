"""Requests a second that the engine http sends to a simulated endpoint in a process of its own, and the `openai` client.

    python bench/requests_per_second.py --requests 4000 --json

Both have 64 requests in flight. Ours also keeps each reply in the cache.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2
import openai

from tropism.asking.replies import Ask, ask
from tropism.engines.http import Http
from tropism.types import Message, SamplingParams

SERVER = Path(__file__).parents[1] / "tests" / "simulated_endpoint.py"


def ours(url: str, count: int) -> float:
    params = SamplingParams(temperature=0.0, max_tokens=1024)
    with tempfile.TemporaryDirectory() as folder:
        engine = Http("m", url=url, cache=f"{folder}/replies.sqlite").open(None, None, "")
        began = time.perf_counter()
        assert len(list(ask(engine, [Ask((Message("user", f"question {i}"),), params) for i in range(count)]))) == count
        return count / (time.perf_counter() - began)


def theirs(url: str, count: int) -> float:
    async def every() -> float:
        client, places = openai.AsyncOpenAI(base_url=url, api_key="none"), asyncio.Semaphore(64)

        async def one(i: int) -> None:
            async with places:
                await client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": f"question {i}"}], max_tokens=1024, temperature=0.0
                )

        began = time.perf_counter()
        await asyncio.gather(*map(one, range(count)))
        found = count / (time.perf_counter() - began)
        await client.close()
        return found

    return asyncio.run(every())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    url = f"http://127.0.0.1:{given.port}/v1"
    server = subprocess.Popen([sys.executable, SERVER, "--port", str(given.port)], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None and server.stdout.readline()  # it says so when it begins
        while True:
            try:
                httpx2.get(url)
                break
            except httpx2.ConnectError:
                time.sleep(0.05)
        found: dict[str, list[float]] = {"http": [], "openai": []}
        for _ in range(given.repeats):
            found["http"].append(ours(url, given.requests))
            found["openai"].append(theirs(url, given.requests))
    finally:
        server.kill()
    best = {name: round(max(rates)) for name, rates in found.items()}
    print(json.dumps(best) if given.json else "\n".join(f"{name}: {rate} requests/s" for name, rate in best.items()))


if __name__ == "__main__":
    main()
