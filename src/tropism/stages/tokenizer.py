"""Stage: trains a byte-level BPE tokenizer on raw text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge

from tropism.needs import Earlier, Needs
from tropism.protocols import Format
from tropism.stages._read import documents
from tropism.store.work import Work
from tropism.text.tokenizer import train_tokenizer

__all__ = ["Tokenizer"]


@dataclass(frozen=True)
class Tokenizer:
    data: Format
    vocab_size: Annotated[int, Ge(1)] = 512

    version: ClassVar[int] = 1
    makes: ClassVar[Literal["tokenizer"]] = "tokenizer"

    def needs(self, earlier: Earlier) -> Needs:
        return Needs(vocabulary=self.vocab_size)

    def run(self, work: Work) -> None:
        groups = documents(self.data, work)
        made = train_tokenizer((c.text for g in groups for c in g.completions), self.vocab_size)
        sample = [c.text for g in groups[:: max(len(groups) // 200, 1)] for c in g.completions]
        tokens = sum(len(made.encode(text, add_special_tokens=False)) for text in sample)
        work.facts |= {
            "vocabulary": len(made),
            "bytes_per_token": round(sum(len(t.encode()) for t in sample) / max(tokens, 1), 3),
        }
        made.save_pretrained(work.out)
