"""The local engine against `transformers` `generate` at its best settings, same model, same prompts, same process.

    python bench/generate.py [--json]

`generate` samples K rows of one prompt batch with its own KV cache; its tokens are counted up to each row's stop token
(useful tokens), as the engine's are. Lengths are forced through a random stop token, as they vary in practice.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from tropism.engines.local import LocalEngine
from tropism.models.architecture import Architecture
from tropism.text.tokenizer import train_tokenizer
from tropism.types import Message, SamplingParams

SETTINGS = (  # prompts, K, prompt tokens, longest answer
    (16, 8, 16, 32),
    (8, 8, 128, 32),
    (32, 8, 32, 256),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    words = train_tokenizer(["some text to train a tokenizer on"], 263)
    config = Architecture(width=192, layers=4, heads=6).config(len(words))
    config.eos_token_id, config.pad_token_id = words.eos_token_id, words.pad_token_id
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    rows = [measure(model, words, *setting, args.repeats) for setting in SETTINGS]
    if args.json:
        print(json.dumps(rows))
        return
    print(f"{model.num_parameters():,} parameters, {torch.get_num_threads()} threads; useful tokens a second, medians")
    for row in rows:
        print(
            "{prompts} prompts x K = {k}, prompt {prompt}, at most {longest}: engine {engine:,.0f}  generate "
            "{generate:,.0f}  ratio {ratio:.2f}".format(**row)
        )


def measure(
    model: PreTrainedModel, words: object, prompts: int, k: int, prompt: int, longest: int, repeats: int
) -> dict[str, float]:
    """Useful tokens a second of both, in turns."""
    texts = ["".join(chr(97 + int(c)) for c in torch.randint(0, 26, (prompt - 1,))) for _ in range(prompts)]
    engine = LocalEngine(model, words)  # type: ignore[arg-type]
    asked = [(Message("text", text),) for text in texts]
    encoded = torch.tensor([[model.config.bos_token_id or 0, *map(ord, text)] for text in texts]) % len(words)  # type: ignore[arg-type]
    speeds: dict[str, list[float]] = {"engine": [], "generate": []}
    for i in range(repeats + 1):  # the first is the warm-up
        began = time.perf_counter()
        made = engine.generate(asked, SamplingParams(n=k, max_tokens=longest, seed=i))
        useful = sum(len(c.tokens or ()) for row in made for c in row)
        engine_speed = useful / (time.perf_counter() - began)
        began = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                encoded,
                attention_mask=torch.ones_like(encoded),
                do_sample=True,
                num_return_sequences=k,
                max_new_tokens=longest,
                top_k=0,
            )
        answer = out[:, encoded.shape[1] :]
        ended = (answer == model.config.eos_token_id).int()
        useful = int((ended.cumsum(1) - ended == 0).sum())
        if i:
            speeds["engine"].append(engine_speed)
            speeds["generate"].append(useful / (time.perf_counter() - began))
    ours, theirs = (statistics.median(speeds[name]) for name in ("engine", "generate"))
    return {
        "prompts": prompts,
        "k": k,
        "prompt": prompt,
        "longest": longest,
        "engine": ours,
        "generate": theirs,
        "ratio": ours / theirs,
    }


if __name__ == "__main__":
    main()
