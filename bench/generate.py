"""The local engine against `transformers` `generate` and its continuous batching, same model, same prompts, same process.

    python bench/generate.py [--json] [--only many,prompts,tail,fork]

`generate` samples K rows of one prompt batch with its own KV cache; its tokens are counted up to each row's stop token
(useful tokens), as the engine's are. `continuous` is `generate_batch`, with pages of 16 tokens for all rows and 128 tokens
in a batch, the best of what was tried on a CPU; its defaults take a minute for 64 tokens. In `tail` seven of 263 tokens
are stops, so that an answer has 40 tokens on average. `memory` is the peak of the memory for keys and values over that of
the tokens held, the median of nine draws, as it depends on when answers end. `fork` samples 64 branches of a sequence of
512 tokens that is held, and the same from its text. Left out: llama-cpp-python, which had no wheel here and compiles for
longer than five minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch
from torch_of import torch_of
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig, PreTrainedModel

from tropism.engines.local import LocalEngine
from tropism.models.architecture import Architecture
from tropism.text.tokenizer import train_tokenizer
from tropism.types import Message, SamplingParams

SETTINGS = {  # prompts, K, prompt tokens, longest answer, stop tokens
    "many": (16, 8, 16, 32, 1),
    "prompts": (8, 8, 128, 32, 1),
    "tail": (32, 8, 32, 256, 7),
}

DRAWS = 9  # of samples whose memory is measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", default="many,prompts,tail,fork")
    args = parser.parse_args()
    torch.manual_seed(0)
    words: Any = train_tokenizer(["some text to train a tokenizer on"], 263)
    config = Architecture(width=192, layers=4, heads=6, context=1024).config(len(words))
    config.eos_token_id, config.pad_token_id = words.eos_token_id, words.pad_token_id
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    asked = args.only.split(",")
    if not args.json:
        print(f"{model.num_parameters():,} parameters, {torch.get_num_threads()} threads; medians of {args.repeats}")
    rows = []
    for name in asked:
        with torch_of("ours"):
            row = forked(model, words, args.repeats) if name == "fork" else measure(model, words, name, args.repeats)
        rows.append(row)
        if not args.json:
            print(
                "  ".join(f"{k} {v:,.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True
            )
    if args.json:
        print(json.dumps(rows))


def measure(model: PreTrainedModel, words: Any, name: str, repeats: int) -> dict[str, Any]:
    """Useful tokens a second of all, in turns, and the engine's memory."""
    prompts, k, prompt, longest, ends = SETTINGS[name]
    stops = [model.config.eos_token_id, *range(100, 99 + ends)]
    assert model.generation_config is not None
    model.generation_config.eos_token_id = stops
    texts = ["".join(chr(97 + int(c)) for c in torch.randint(0, 26, (prompt - 1,))) for _ in range(prompts)]
    engine = LocalEngine(model, words)
    asked = [(Message("text", text),) for text in texts]
    encoded = torch.tensor([[model.config.bos_token_id or 0, *map(ord, text)] for text in texts]) % len(words)
    config = GenerationConfig(
        do_sample=True, num_return_sequences=k, max_new_tokens=longest, top_k=0, eos_token_id=stops, pad_token_id=0
    )
    paged = ContinuousBatchingConfig(
        page_size=16, num_blocks=prompts * k * -(-(prompt + longest) // 16), max_batch_tokens=128
    )

    def sampled(seed: int) -> int:
        made = engine.generate(asked, SamplingParams(n=k, max_tokens=longest, seed=seed))
        return sum(len(c.tokens or ()) for row in made for c in row)

    def generated(_: int) -> int:
        with torch.inference_mode():
            out: Any = model.generate(encoded, attention_mask=torch.ones_like(encoded), generation_config=config)  # type: ignore[operator]
        ended = torch.isin(out[:, encoded.shape[1] :], torch.tensor(stops)).int()
        return int((ended.cumsum(1) - ended == 0).sum())

    def continued(_: int) -> int:
        made = model.generate_batch(encoded.tolist(), config, paged, warmup=False)  # type: ignore[operator]
        return sum(len(one.generated_tokens) for one in made.values())

    ways = {"engine": sampled, "generate": generated, "continuous": continued}
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    tokens = 0
    for i in range(repeats + 1):  # the first is the warm-up
        for way, make in ways.items():
            with torch_of("ours" if way == "engine" else "peer"):
                began = time.perf_counter()
                useful = make(i)
                seconds = time.perf_counter() - began
            speeds[way] += [useful / seconds] if i else []
            tokens = useful if way == "engine" else tokens
    median = {way: statistics.median(found) for way, found in speeds.items()}
    return {
        "name": name,
        "prompts": prompts,
        "k": k,
        "prompt": prompt,
        "longest": longest,
        "mean": tokens / (prompts * k),
        **median,
        "ratio": median["engine"] / median["generate"],
        "ratio_continuous": median["engine"] / median["continuous"],
        "memory": statistics.median(
            memory(LocalEngine(model, words), asked, SamplingParams(n=k, max_tokens=longest, seed=seed))
            for seed in range(DRAWS)
        ),
    }


def memory(engine: LocalEngine, asked: list[Any], params: SamplingParams) -> float:
    """The largest memory for keys and values over the largest number of bytes of the tokens that were held."""
    store: Any = engine.batch.way
    for prompt in asked:
        engine.submit(engine.request(prompt, params))
    peak = most = 0
    while not engine.batch.idle:
        engine.step()
        peak, most = max(peak, store.bytes), max(most, store.tokens * store.page_bytes // 16)
    return peak / most


def forked(model: PreTrainedModel, words: Any, repeats: int, branches: int = 64, more: int = 16) -> dict[str, Any]:
    """Seconds for `more` tokens on each of the branches of a held sequence, and from its text."""
    tokens = (torch.randint(100, 263, (512,))).tolist()
    params = SamplingParams(max_tokens=more, seed=1)
    engine, plain = LocalEngine(model, words), LocalEngine(model, words, cache=False)
    root = engine.open(tokens)
    engine.score(root, [[5]])
    times: dict[str, list[float]] = {"fork": [], "text": []}
    run, run_tokens = engine.batch.way.run, [0]
    engine.batch.way.run = lambda s, counts: run_tokens.append(sum(counts)) or run(s, counts)  # type: ignore[method-assign]

    def again() -> list[Any]:
        return plain.decode([plain.open(tokens) for _ in range(branches)], params)

    for i in range(repeats + 1):
        for name, do in (("fork", lambda: engine.decode(engine.fork(root, branches), params)), ("text", again)):
            began = time.perf_counter()
            do()
            if i:
                times[name].append(time.perf_counter() - began)
            _free(plain)
            _free(engine, root)
    fork, text = (statistics.median(times[name]) for name in ("fork", "text"))
    return {"name": "fork", "fork_s": fork, "text_s": text, "ratio": text / fork, "widest_pass": max(run_tokens)}


def _free(engine: LocalEngine, but: Any = None) -> None:
    for sequence in [s for s in engine.batch.way.sequences if s is not but]:
        engine.free(sequence)


if __name__ == "__main__":
    main()
