"""Stage: K completions for each prompt, sampled from a policy."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from tropism.engines.local import LocalEngine
from tropism.models.store import device, load_lm
from tropism.stages._train import read
from tropism.store import groups as store
from tropism.store.run import Work
from tropism.text import tokenizer
from tropism.types import Format, Group, ModelRef, SamplingParams

__all__ = ["Collect"]


@dataclass(frozen=True)
class Collect:
    """`sampling.n` is K."""

    policy: ModelRef
    prompts: Format
    sampling: SamplingParams = SamplingParams(n=7, max_tokens=48)
    prompts_at_once: int = 128

    version: ClassVar[int] = 1
    makes: ClassVar[Literal["groups"]] = "groups"

    def run(self, work: Work) -> None:
        asked = read(self.prompts, "prompts", work)
        found = work.restore()
        done: list[Group] = list(store.read(found[1])) if found else []
        with work.progress("sampling", len(asked) * self.sampling.n) as bar:
            engine = LocalEngine(
                load_lm(self.policy).to(device()), tokenizer.load(self.policy), work.fingerprint + "@0"
            )
            bar.advance(len(done) * self.sampling.n, rated=0)
            for i in range(len(done), len(asked), self.prompts_at_once):
                batch = asked[i : i + self.prompts_at_once]
                seeded = dataclasses.replace(self.sampling, seed=work.seed + self.sampling.seed)
                answers = engine.generate([g.prompt for g in batch], seeded)
                done += [dataclasses.replace(g, completions=a) for g, a in zip(batch, answers)]
                tokens = sum(len(c.tokens or ()) for a in answers for c in a)
                bar.advance(len(batch) * self.sampling.n, rated=tokens)
                if work.due():
                    work.save(len(done), lambda folder: store.write(done, folder / store.FILE))
        tokens = [len(c.tokens or ()) for g in done for c in g.completions]
        stopped = [c.finish_reason == "stop" for g in done for c in g.completions]
        work.facts |= {
            "prompts": len(done),
            "completions": len(tokens),
            "mean_tokens": round(sum(tokens) / len(tokens), 2),
            "stop_rate": round(sum(stopped) / len(stopped), 4),
        }
        store.write(done, Path(work.out) / store.FILE)
