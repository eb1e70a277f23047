"""Freed memory stays in the process, unless the user's environment says otherwise."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from tropism.train import heap

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"),
    reason="the C library is not glibc",
)
FAULTS = """
import resource, sys
from tropism.train import heap
kept = heap.keep() if sys.argv[1] == "keep" else None
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def use():
    place = libc.malloc(40 << 20)  # above glibc's own thresholds, which grow to 32 MiB
    ctypes.memset(place, 1, 40 << 20)
    libc.free(place)
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, **environment: str) -> tuple[str, int]:
    """What `keep` returned, and the page faults of taking and freeing 40 MiB five times more."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    run = subprocess.run(
        [sys.executable, "-c", FAULTS, how], env=clean | environment, capture_output=True, text=True, check=True
    )
    kept, number = run.stdout.split()
    return kept, int(number)


def test_freed_memory_is_used_again_without_faults() -> None:
    kept, few = faults("keep")
    _, many = faults("leave")
    assert kept == "True" and 10 * few < many


def test_the_users_settings_decide() -> None:
    assert faults("keep", MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap.sys, "platform", "darwin")
    assert not heap.keep()
