"""Small operations, compiled from the C files beside this one when first needed, if the machine has a C compiler.

A decoding step has few numbers and many operations, so most of its time is spent between operations: on starting threads,
on copies, on memory. Here attention to pages, a normalisation or the choice of a token is one call each. They are used for
float32 on a CPU; for anything else, and without a compiler, `ready` says no, and the caller uses torch. `fused.py` has
those that have gradients.

The library is kept in the user's cache folder, under a name that depends on its source, the compiler and the processor.
It uses the OpenMP threads of torch (`torch.set_num_threads`), as both load the same libgomp.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

PAGE = 16  # as in decoding.c
SOURCES = Path(__file__).with_name("c")
FLAGS = (
    "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared", "-ffp-contract=fast",
    "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math",
)  # fmt: skip
SECONDS = 300  # for the compiler

_P, _I, _F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_ARGUMENTS = {
    "rms": (_P, _P, _P, _I, _I, _F, _F),
    "rms_back": (_P, _P, _P, _P, _P, _I, _I, _F, _F),
    "gated": (_P, _P, _P, _I),
    "gated_back": (_P, _P, _P, _P, _P, _I),
    "turn": (_P, _P, _P, _P, *[_I] * 8),
    "put": (_P, _P, _P, _P, _I, _I, _I, _I),
    "sample": (_P, _P, _P, _P, _I, _I),
    "attend": (_P, _P, _P),
    "one_step": (_P, _P, _P),
    "several_steps": (_P, _P, _P),
    "linear_rows": (_P, _P, _P, _P, _I, _I, _I),
    "attention_forward": (_P,),
    "attention_backward": (_P,),
    "multiply": (*[_P, _I, _I] * 2, *[_P, _I], *[_I] * 4),
    "mlp_forward": (_P,),
    "mlp_backward": (_P,),
}


class Rows(ctypes.Structure):
    """`Rows` of decoding.c: what the queries of a pass see in pages."""

    _fields_ = [
        *((name, _I) for name in ("rows", "heads", "kv_heads", "size", "v_size", "q_step", "window")),
        *((name, _F) for name in ("scale", "softcap")),
        *((name, _P) for name in ("own_keys", "own_values", "shared_keys", "shared_values", "sinks")),
        *((name, _P) for name in ("start", "page", "seen", "shared")),
    ]


class Model(ctypes.Structure):
    """`Model` of step.h: the weights of a model, and what belongs to the new tokens of a step."""

    _fields_ = [
        *((name, _I) for name in ("layers", "width", "inner", "turned")),
        ("eps", _F),
        *((name, _P) for name in ("last_norm", "layer", "cosine", "sine", "page", "at")),
    ]


class Steps(ctypes.Structure):
    """`Steps` of steps.c: what the tokens are chosen from, and when a row ends."""

    _fields_ = [
        *((name, _I) for name in ("most", "vocabulary", "stops")),
        ("temperature", _F),
        *((name, _P) for name in ("embedding", "head", "head_bias", "absent")),
        *((name, _P) for name in ("stop", "last", "written", "limit", "number", "token", "made", "logp")),
    ]


def ready(x: Tensor) -> bool:
    """Whether the operations of this file can be used on tensors like `x`, without gradients."""
    return x.dtype is torch.float32 and x.device.type == "cpu" and library() is not None


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled library; None if it cannot be made here."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    try:
        loaded = ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.SubprocessError):
        return None
    for name, arguments in _ARGUMENTS.items():
        function = getattr(loaded, name, None)
        if function is not None:
            function.argtypes, function.restype = arguments, None
    return loaded


def has(name: str) -> bool:
    """Whether there is an operation; some are only made for processors on which they are fast."""
    return hasattr(library(), name)


def _compiled(compiler: str) -> Path:
    """The library in the cache folder. Raises OSError and SubprocessError."""
    said = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=SECONDS).stdout
    files = sorted(SOURCES.iterdir())
    parts = (
        *(file.read_bytes() for file in files),
        " ".join(FLAGS).encode(),
        said,
        platform.machine().encode(),
        _processor(),
    )
    name = hashlib.blake2b(b"\0".join(parts), digest_size=12).hexdigest()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tropism" / "native"
    made = folder / f"{name}.so"
    if not made.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            new = Path(scratch) / made.name
            sources = [str(file) for file in files if file.suffix == ".c"]
            command = [compiler, *FLAGS, "-o", str(new), *sources, "-lm"]
            subprocess.run(command, capture_output=True, check=True, timeout=SECONDS)
            os.replace(new, made)
    return made


def _processor() -> bytes:
    """What tells processors with different instructions apart."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
        return b"\n".join(sorted({line for line in lines if line.startswith((b"flags", b"Features", b"model name"))}))
    return platform.processor().encode()


def call(name: str, *given: object) -> None:
    """Runs an operation on tensors (by `data_ptr()`) and numbers."""
    getattr(library(), name)(*given)


def put(pages: Tensor, page_N: Tensor, at_N: Tensor, x_NHS: Tensor) -> None:
    """pages[page, :, at] = x"""
    rows, heads, size = x_NHS.shape
    places = (t.data_ptr() for t in (pages, page_N, at_N, x_NHS))
    call("put", *places, rows, heads, size, x_NHS.stride(0))


def sample(logits_RV: Tensor, number_R: np.ndarray) -> tuple[list[int], list[float]]:
    """The first token of each row whose cumulative probability exceeds the row's number, and its log-probability."""
    logits_RV = logits_RV.contiguous()
    rows, width = logits_RV.shape
    token, logp = np.empty(rows, np.int64), np.empty(rows, np.float32)
    call("sample", logits_RV.data_ptr(), *map(address, (number_R, token, logp)), rows, width)
    return token.tolist(), logp.tolist()


def linear(x_MD: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> Tensor:
    """(M, V) of dense weights; a row depends on no other row. Only where `has("linear_rows")`."""
    x_MD = x_MD.contiguous()
    out = x_MD.new_empty(len(x_MD), len(weight_VD))
    given = (None if t is None else t.data_ptr() for t in (x_MD, weight_VD, bias_V, out))
    call("linear_rows", *given, len(x_MD), x_MD.shape[1], len(weight_VD))
    return out


def heads_together(x_NHS: Tensor) -> Tensor:
    """`x` with each row's heads next to each other, as the operations here read them."""
    return x_NHS if x_NHS.stride()[1:] == (x_NHS.shape[2], 1) else x_NHS.contiguous()


def attend(rows: Rows, q_RHS: Tensor, size_v: int) -> Tensor:
    """(R, heads, size of a value): attention of a query per row to the pages of `rows`."""
    out = q_RHS.new_empty(*q_RHS.shape[:2], size_v)
    call("attend", ctypes.addressof(rows), q_RHS.data_ptr(), out.data_ptr())
    return out


def address(array: np.ndarray) -> int:
    return array.ctypes.data
