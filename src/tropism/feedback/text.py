"""Text as both databases can keep it, and its words."""

from __future__ import annotations

import re

_ODD = re.compile("[\0\ud800-\udfff]")


def clean(text: str) -> str:
    """The text with U+FFFD for what PostgreSQL or UTF-8 cannot hold: NUL and half surrogates. Its length stays the same."""
    return _ODD.sub("\ufffd", text)
