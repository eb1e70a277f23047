"""A judge that is a function of the completion, and of the prompt and the reference answer if it asks for them.

    def short(completion): return -float(len(completion))

In a recipe `judge = { kind = "my_module:short" }`, or `{ kind = "verifier", function = "my_module:short" }`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tropism.recipe import resolve
from tropism.types import Completion, Group, Judgment, TropismError

__all__ = ["Verifier"]

OFFERED = ("completion", "target", "prompt", "meta")


@dataclass(frozen=True)
class Verifier:
    """`function` takes any of completion (text), target (text or None), prompt (messages), meta, by those names.

    It returns a number, higher is better, or None where it cannot say. Further parameters need a default.
    """

    function: Callable[..., float | None] | str
    name: str = ""
    _asks: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        function = self.function
        call = resolve("judges", function, "verifier.function") if isinstance(function, str) else function
        if not callable(call):
            raise TropismError(f"the judge function {self.function!r} is no function: name one")
        takes = inspect.signature(call).parameters
        unknown = [name for name, p in takes.items() if name not in OFFERED and p.default is p.empty]
        if unknown:
            raise TropismError(
                f"the judge function {self.function!r} asks for {', '.join(unknown)}: it may ask for {', '.join(OFFERED)}"
            )
        object.__setattr__(self, "function", call)  # a fingerprint hashes its source
        object.__setattr__(self, "_asks", tuple(name for name in OFFERED if name in takes))

    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        name = self.name or "verifier"
        return [Judgment(name, tuple(self._score(group, c) for c in group.completions)) for group in groups]

    def _score(self, group: Group, completion: Completion) -> float | None:
        offered = {
            "completion": completion.text,
            "target": group.target,
            "prompt": group.prompt,
            "meta": group.meta,
        }
        assert callable(self.function)
        score = self.function(**{name: offered[name] for name in self._asks})
        try:
            return None if score is None or score != score else float(score)
        except (TypeError, ValueError):
            raise TropismError(
                f"the judge function {getattr(self.function, '__name__', self.function)} gave {score!r} for a completion "
                f"of group {group.id}: it must return a number or None"
            ) from None
