"""How a command ends: 0, or one sentence on standard error and another status. Only a bug of ours shows a traceback.

    2      a mistake that a person can fix, or a machine that is full, locked or offline
    3      people still have to judge, or a budget is spent: run the same command again when that has changed
    130    Ctrl-C          143  SIGTERM          141  the reader of the output has closed it (without a message)

Code from outside the package cannot end a command with status 0: `sys.exit` in it is reported as a mistake.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from tropism.errors import TropismError, Waiting
from tropism.outside import frames, plain, raised, sentence

CONTINUES = ("run", "demo", "compare")  # commands that continue when they are run again


class Terminated(KeyboardInterrupt):
    """SIGTERM. As a KeyboardInterrupt it gets the same cleanup as Ctrl-C."""


class Commands(TyperGroup):
    """Every command, with the endings above."""

    def invoke(self, ctx: Any) -> Any:
        with _sigterm():
            try:
                found = super().invoke(ctx)
                sys.stdout.flush()
                return found
            except KeyboardInterrupt as stop:
                raise _stopped(stop, ctx) from None
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
                raise typer.Exit(141) from None
            except TropismError as error:
                waits = isinstance(error, Waiting)
                if not waits or os.environ.get("RANK", "0") == "0":
                    _say(str(error))
                raise typer.Exit(3 if waits else 2) from None
            except SystemExit as end:
                _say(f"code from outside the package raised {raised(end)}: let it raise an error\n{frames(end)}")
                raise typer.Exit(2) from None
            except Exception as error:
                if stop := _stop_before(error):
                    raise _stopped(stop, ctx) from None
                if (said := sentence(error)) is None:
                    raise
                _say(said)
                raise typer.Exit(2) from None


def _stopped(stop: KeyboardInterrupt, ctx: Any) -> typer.Exit:
    for number in (signal.SIGINT, signal.SIGTERM):  # torchrun sends the second after the first
        _on(number, signal.SIG_IGN)
    again = "; the same command continues from the last checkpoint"
    if os.environ.get("RANK", "0") == "0":
        _say(f"stopped{again if ctx.invoked_subcommand in CONTINUES else ''}")
    return typer.Exit(143 if isinstance(stop, Terminated) else 130)


def _stop_before(error: BaseException | None) -> KeyboardInterrupt | None:
    """The stop after which an error was raised: `torch.save` then closes a file that is not complete, and says that."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def _say(text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(f"tropism: {plain(text)}".rstrip(), file=sys.stderr)


@contextlib.contextmanager
def _sigterm() -> Iterator[None]:
    """Ctrl-C and SIGTERM stop the block in the same way; the old handlers are restored at the end."""

    def stop(*_: object) -> None:
        raise Terminated

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    _on(signal.SIGTERM, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            _on(number, handler)


def _on(number: int, handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():  # signals arrive there alone
        signal.signal(number, handler)
