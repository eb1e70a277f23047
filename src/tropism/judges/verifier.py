"""A judge that is a function of the completion; it may have parameters for the prompt and the reference answer too.

    def short(completion): return -float(len(completion))

In a recipe `judge = { kind = "my_module:short" }`, or `{ kind = "verifier", function = "my_module:short" }`.

A call that takes longer than `timeout_s` is ended by a signal, which Python handles between two of its own steps. This
ends a loop, a sleep or a wait for a server at once; the inner loop of a library ends when it returns to Python. A
thread could not be killed, and a separate process could not run every function, so neither is used.
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
    """`function` takes any of completion (text), target (text or None), prompt (messages), meta, by these names.

    It returns a number (higher is better), or None if it has no score, or a Judgment of this one completion, whose
    `steps` are rewards inside it. Other parameters need a default.

    If it raises an error, takes longer than `timeout_s` seconds (0: no limit) or returns something else, the run stops;
    with `on_error = "skip"` the completion has no score and is counted in `skipped`.
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
            raise TropismError(f"the judge function {self.function!r} is not a function: name one")
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
                f"the judge function {self.function!r} needs {', '.join(unknown)}: it can only get {', '.join(OFFERED)}"
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
                why = f"gave {shortened(repr(score))}, which is neither a number nor None,"
        name = getattr(self.function, "__name__", self.function)
        prompt = group.prompt[-1].content if group.prompt else ""
        why = f"{name} {why} for the completion {shortened(completion.text)!r} of the prompt {shortened(prompt)!r}"
        if self.on_error == "skip":
            self.skipped.append(why)
            return None, None
        remedy = f'fix it, or set on_error = "skip" to leave such completions without a score{where and chr(10)}{where}'
        raise TropismError(f"the judge function {why} (group {group.id}): {remedy}")


def _read(said: Any) -> _Said:
    """The score and steps that a function returned. Raises ValueError or TypeError for anything else."""
    if isinstance(said, Judgment):
        (score,), (steps,) = said.scores, said.steps or (None,)
        return score, steps
    return _number(said), None


def _number(score: Any) -> float | None:
    if isinstance(score, (str, bytes)):  # float("nan") is a number
        raise TypeError
    return None if score is None else float(score)  # Judgment turns NaN into None


class _Late(BaseException):
    """Not an Exception, so that a function that catches every Exception does not catch this one."""


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raises _Late in the block after `seconds`; 0 means no limit."""
    if not seconds:
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        raise TropismError("timeout_s works only in the main thread, where signals arrive: leave it out here")
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
            waiting = False  # a signal between this line and the next one is ignored
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)
