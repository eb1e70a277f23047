"""Keeps the memory of freed tensors in the process, where the C library is glibc.

By default glibc gives freed memory back to the system and takes it again a page at a time, with a page fault for each: a
quarter of a million of them in a minute of pretraining. `keep` raises the sizes from which it does so. A user's own
settings (MALLOC_… or GLIBC_TUNABLES in the environment) decide instead. docs/log.md has what it gains and costs.
"""

from __future__ import annotations

import ctypes
import os
import sys

TRIM, PAD, MMAP = -1, -2, -3  # the parameters of mallopt(3)
LEAST = {TRIM: 1 << 30, PAD: 1 << 26, MMAP: 1 << 30}  # bytes


def keep() -> bool:
    """Sets the thresholds of glibc; False if this is another C library, or if the user has set some."""
    if not sys.platform.startswith("linux") or any(n.startswith(("MALLOC_", "GLIBC_TUNABLES")) for n in os.environ):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return all(library.mallopt(name, size) for name, size in LEAST.items())
