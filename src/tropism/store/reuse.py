"""Takes finished stages over from another run folder (`--reuse DIR`), so that nobody computes the same stage twice.

A stage of DIR is taken if its whole fingerprint is that of the stage that would run. The files in `out` become hard
links, or copies where a link cannot be made (another file system, another owner). All other files are small, and are
copied: a stage that runs again appends to its metrics, and that must not reach the other folder. What is in `out` is
never written in place: a stage that runs again begins with a new folder.

DIR is only read. What was taken is compared with the checksums in DONE before the folder gets its name, so that after a
kill the stage is there completely or not at all. Left out: unfinished stages with their checkpoints.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from tropism.errors import TropismError
from tropism.store import files
from tropism.store.folder import DONE, done, read_recipe, read_stage


def check(run: Path, folder: Path) -> None:
    """Raises TropismError if stages of `run` cannot be taken over into the run folder `folder`."""
    read_recipe(run)
    if run.resolve() == folder.resolve():
        raise TropismError(f"--reuse {run} is the run folder itself: give another one, or leave --reuse out")


def find(run: Path, name: str, mark: str) -> Path | None:
    """The folder of a finished stage in `run`, by its name and whole fingerprint; its files are not looked at yet."""
    path = run / name
    if not (path / DONE).exists():
        return None
    stage = read_stage(path)
    if stage is None:
        raise _damaged(path)
    return path if stage.get("fingerprint") == mark else None


def undamaged(path: Path) -> dict[str, Any]:
    """The meta in DONE. Raises TropismError if a file of the stage is damaged or missing."""
    meta = done(path)
    if meta is None:
        raise _damaged(path)
    return meta


def take(source: Path, folder: Path) -> dict[str, Any]:
    """Makes the stage's folder `folder` from that of another run; returns the meta in DONE."""
    with files.whole_folder(folder) as made:
        for name in (*_listed(source), DONE):
            _put(source / name, made / name, link=Path(name).parts[0] == "out")
        for path in (made, *made.rglob("*")):
            if path.is_dir():
                files.sync_folder(path)
        meta = done(made)
        if meta is None:
            raise _damaged(source)
    return meta


def _listed(source: Path) -> list[str]:
    """The files that DONE lists. Raises TropismError if it lists one outside of its folder."""
    try:
        names = list(json.loads((source / DONE).read_text("utf-8"))["files"])
    except (OSError, ValueError, LookupError, TypeError):
        raise _damaged(source) from None
    if not all((source / name).resolve().is_relative_to(source.resolve()) for name in names):
        raise _damaged(source)
    return names


def _put(source: Path, to: Path, link: bool) -> None:
    """A file that is missing is left out: the checksums will say so."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if link:
        with contextlib.suppress(OSError):
            os.link(source.resolve(), to)
            return
    if source.is_file():
        shutil.copyfile(source, to)
        with open(to, "rb") as file:
            os.fsync(file.fileno())


def _damaged(path: Path) -> TropismError:
    return TropismError(
        f"{path} cannot be taken over, its files were changed or removed since it was done: run its recipe again with "
        f"--out {path.parent}, or leave out --reuse"
    )
