"""One-sentence messages for errors that this package did not cause: code from outside, the machine, the network."""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

PACKAGE = str(Path(__file__).parent)
FRAMES = 6
REMOTE = (
    "httpx2",
    "httpcore2",
    "httpx",
    "httpcore",
    "huggingface_hub",
    "requests",
    "urllib3",
    "aiohttp",
    "fsspec",
    "datasets",
)


def raised(error: BaseException) -> str:
    """`ValueError (the text)`, on one line."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # an error whose own text raises
        text = ""
    return f"{type(error).__name__}{f' ({shortened(text, 200)})' if text else ''}"


def frames(error: BaseException) -> str:
    """The traceback of an error, innermost last, without the lines of libraries and of this package.

    If nothing else is left (the function belongs to a library), the last lines of the library.
    """
    import sysconfig

    libraries = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
    found = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((PACKAGE, "<frozen"))]
    own = [f for f in found if not f.filename.startswith(libraries)] or found
    return "".join(traceback.format_list(own[-FRAMES:])).rstrip()


def shortened(text: str, width: int = 80) -> str:
    """One line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def plain(text: str) -> str:
    """The text without control characters, which a terminal would obey, and without marks that change the direction."""
    return "".join(c for c in text if c in "\n\t" or not (c < " " or "\x7f" <= c <= "\x9f" or c in _TURNS))


_TURNS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def sentence(error: BaseException) -> str | None:
    """What went wrong with the machine or the network, and what to do; None for any other error."""
    name, text = type(error).__name__, str(error)
    if name == "OutOfMemoryError" or isinstance(error, MemoryError) or "DefaultCPUAllocator" in text:
        return (
            "the memory is full: lower pass_tokens, sampling.max_tokens or the size of the model; the same command "
            "continues from the last checkpoint"
        )
    if type(error).__module__.partition(".")[0] in REMOTE or isinstance(error, ConnectionError):
        return (
            f"the hub or another server did not answer ({raised(error)}): check network and name, or give a local path"
        )
    if not isinstance(error, OSError):
        return None
    where = error.filename if isinstance(error.filename, str) else "a file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"the disk is full at {where}: free some space and run the same command again"
    if error.errno is None:
        return None
    return f"{where} cannot be used ({error.strerror}): fix its path or its permissions, or name another"
