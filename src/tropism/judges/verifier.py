"""A judge that is a function of the completion, and of the prompt and the reference answer if it asks for them.

    def short(completion): return -float(len(completion))

In a recipe `judge = { kind = "my_module:short" }`, or `{ kind = "verifier", function = "my_module:short" }`.

A call that takes longer than `timeout_s` is ended by a signal, which Python sees between two of its own steps: a loop, a
sleep and a wait for a server end, a library's inner loop does when it comes back. A call left behind in a thread could not
be killed, and one in a process of its own could not be given any function, so neither is done.
"""

from __future__ import annotations

import contextlib
import inspect
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Interval

from tropism.errors import TropismError
from tropism.outside import frames, raised, shortened
from tropism.recipe.kinds import resolve
from tropism.types import Completion, Group, Judgment, Step

__all__ = ["Verifier"]

_Said = tuple[float | None, tuple[Step, ...] | None]  # a score, rewards inside the completion
OFFERED = ("completion", "target", "prompt", "meta")


@dataclass(frozen=True)
class Verifier:
    """`function` takes any of completion (text), target (text or None), prompt (messages), meta, by those names.

    It returns a number, higher is better, or None where it cannot say, or a Judgment of this one completion, whose
    `steps` are rewards inside it. Further parameters need a default.

    Where it raises, takes longer than `timeout_s` seconds (0: as long as it likes) or returns something else, the run
    stops, or with `on_error = "skip"` the completion has no score and is counted in `skipped`.
    """

    function: Callable[..., float | Judgment | None] | str
    name: str = ""
    on_error: Literal["stop", "skip"] = "stop"
    timeout_s: Annotated[float, Interval(ge=0, le=86_400)] = 0.0
    skipped: list[str] = field(init=False, repr=False, compare=False, default_factory=list)
    _asks: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        function = self.function
        call = resolve("judges", function, "verifier.function") if isinstance(function, str) else function
        if not callable(call):
            raise TropismError(f"the judge function {self.function!r} is no function: name one")
        if inspect.iscoroutinefunction(call):
            raise TropismError(
                f"the judge function {self.function!r} is async: make it a plain function that waits itself"
            )
        try:
            takes = inspect.signature(call).parameters
        except ValueError:
            raise TropismError(f"the parameters of {self.function!r} cannot be read: wrap it in a function") from None
        unknown = [name for name, p in takes.items() if name not in OFFERED and p.default is p.empty]
        if unknown:
            raise TropismError(
                f"the judge function {self.function!r} asks for {', '.join(unknown)}: it may ask for {', '.join(OFFERED)}"
            )
        object.__setattr__(self, "function", call)  # a fingerprint hashes its source
        object.__setattr__(self, "_asks", tuple(name for name in OFFERED if name in takes))

    def judge(self, groups: Sequence[Group]) -> list[Judgment]:
        name = self.name or "verifier"
        return [self._judgment(name, group) for group in groups]

    def _judgment(self, name: str, group: Group) -> Judgment:
        said = [self._said(group, c) for c in group.completions]
        steps = tuple(found for _, found in said)
        return Judgment(name, tuple(score for score, _ in said), steps=steps if any(steps) else None)

    def _said(self, group: Group, completion: Completion) -> _Said:
        """The score of a completion and the rewards inside it."""
        offered = {
            "completion": completion.text,
            "target": group.target,
            "prompt": group.prompt,
            "meta": group.meta,
        }
        why, where = "", ""
        try:
            with _at_most(self.timeout_s):
                score = self.function(**{name: offered[name] for name in self._asks})  # type: ignore[operator]
        except TropismError:
            raise
        except _Late:
            why = f"took longer than timeout_s = {self.timeout_s:g}"
        except (Exception, SystemExit) as error:
            why, where = f"raised {raised(error)}", frames(error)
        else:
            try:
                return _read(score)
            except Exception:
                why = f"gave {shortened(repr(score))}, which is no number and not None,"
        name = getattr(self.function, "__name__", self.function)
        prompt = group.prompt[-1].content if group.prompt else ""
        why = f"{name} {why} for the completion {shortened(completion.text)!r} of the prompt {shortened(prompt)!r}"
        if self.on_error == "skip":
            self.skipped.append(why)
            return None, None
        remedy = f'fix it, or set on_error = "skip" to leave such completions without a score{where and chr(10)}{where}'
        raise TropismError(f"the judge function {why} (group {group.id}): {remedy}")


def _read(said: Any) -> _Said:
    """What a function said. Raises ValueError or TypeError for what is no score."""
    if isinstance(said, Judgment):
        (score,), (steps,) = said.scores, said.steps or (None,)
        return score, steps
    return _number(said), None


def _number(score: Any) -> float | None:
    if isinstance(score, (str, bytes)):  # float("nan") is a number
        raise TypeError
    return None if score is None else float(score)  # NaN is None from the moment a Judgment is made


class _Late(BaseException):
    """Not an Exception, so that a function which catches those does not catch it."""


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raises _Late in the block once `seconds` have passed; 0 lets it take its time."""
    if not seconds:
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        raise TropismError("timeout_s works in the main thread alone, where signals arrive: leave it out here")
    waiting = True

    def ring(*_: object) -> None:
        if waiting:
            raise _Late

    handler = signal.signal(signal.SIGALRM, ring)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        try:
            yield
        finally:
            waiting = False  # a ring between here and the next line is too late to count
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)
