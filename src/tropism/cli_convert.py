"""`tropism convert`. As in `cli.py`, what takes long is imported in the command."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from tropism.cli_options import JsonOpt, pretty


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="The file to read.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write: .jsonl, .json, either .gz, .parquet.")],
    from_: Annotated[str, typer.Option("--from", metavar="KIND", help="What IN is: groups, nectar, hh, trl …")],
    to: Annotated[str, typer.Option(metavar="KIND", help="What OUT becomes.")],
    judge: Annotated[str, typer.Option(help="Whose judgment counts, where a group has several.")] = "",
    pairs: Annotated[
        Literal["all", "best_worst"], typer.Option(help="Which pairs of K answers, where a record is a pair.")
    ] = "all",
    on_error: Annotated[
        Literal["stop", "skip"], typer.Option(help="What to do at a broken record; skipped ones are counted.")
    ] = "stop",
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
    as_json: JsonOpt = False,
) -> None:
    """Turn a file of preferences, rankings or chats of one published shape into another."""
    from tropism import convert as converting
    from tropism.store.progress import Reporter

    reporter = Reporter(quiet)
    work = converting.conversion(source, from_, to, judge, pairs, on_error)
    work.write(out, reporter, force)
    if work.left_out:
        reporter.line(f"left out: {converting.said(work.left_out)}")
    if work.skipped:
        reporter.line(f"skipped: {len(work.skipped)} broken records, the first: {work.skipped[0]}")
    if as_json:
        print(pretty(work.counts()))
    elif not quiet:
        print(f"{work.written} records of the shape {to} written to {out}, from {work.groups} groups")
