"""Models for tests of pages: scripted engines that stream, wait or fail."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tropism.types import Message, SamplingParams


@dataclass
class Talker:
    """Says `says` word by word, `pause` seconds each, then how many turns it was asked with."""

    says: str
    pause: float = 0.0
    asked: list[list[Message]] = field(default_factory=list)

    def stream(self, prompt: Sequence[Message], params: SamplingParams) -> Iterator[str]:
        self.asked.append(list(prompt))
        for word in f"{self.says} (turn {(len(prompt) + 1) // 2}).".split(" "):
            time.sleep(self.pause)
            yield word + " "


class Broken:
    """Fails after its first word, with an error that says its name."""

    def stream(self, prompt: Sequence[Message], params: SamplingParams) -> Iterator[str]:
        yield "well "
        raise RuntimeError("the weights of zebra-broken-9b are torn")


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The server-sent events of a response."""
    blocks = [block.split("\n") for block in text.split("\n\n") if block]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]
