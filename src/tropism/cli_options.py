"""What several commands take and say. As in `cli.py`, slow imports are inside the functions."""

import os
import sys
from typing import Annotated, Any

import typer

JsonOpt = Annotated[bool, typer.Option("--json", help="Print JSON for a script to read.")]
QuietOpt = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors and results.")]


def begin(what: str, quiet: bool = False, log: bool = False) -> None:
    """Says what is being done before slow imports: on a terminal, or in the log of a run."""
    if not quiet and (log or sys.stderr.isatty()) and os.environ.get("RANK", "0") == "0":
        print(f"tropism: {what} …", file=sys.stderr, flush=True)


def pretty(value: Any) -> str:
    """JSON over several lines."""
    import json

    return json.dumps(value, indent=1, ensure_ascii=False)
