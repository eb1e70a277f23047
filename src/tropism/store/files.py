"""Writing that survives a kill, a full disk and a torn file: a temporary name, synced, renamed; a manifest last."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tropism.types import TropismError

MANIFEST = "manifest.json"


def write_json(path: Path, value: Any) -> None:
    """The whole file or none of it."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def write_bytes(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.part")
    with explained(path):
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)


def write_folder(path: Path, fill: Callable[[Path], None], meta: dict[str, Any]) -> None:
    """Lets `fill` write files into a temporary folder, adds a manifest of their checksums, and renames it to `path`."""
    temporary = path.with_name(f".{path.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with explained(path):
            temporary.mkdir(parents=True)
            fill(temporary)
            seal(temporary, meta)
            if path.exists():
                shutil.rmtree(path)
            os.replace(temporary, path)
            sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # what a full disk needs most
        raise


def seal(folder: Path, meta: dict[str, Any], name: str = MANIFEST, leave_out: str = "") -> None:
    """Syncs every file below `folder`, the subfolder `leave_out` apart, and writes the manifest that makes it whole."""
    files: dict[str, list[int]] = {}
    kept = (p for p in folder.rglob("*") if p.is_file() and p.relative_to(folder).parts[0] not in (leave_out, name))
    for file in sorted(kept):
        with open(file, "rb") as handle:
            files[str(file.relative_to(folder))] = [file.stat().st_size, _checksum(file)]
            os.fsync(handle.fileno())
    write_json(folder / name, {"meta": meta, "files": files})


def sealed(folder: Path, name: str = MANIFEST) -> dict[str, Any] | None:
    """The meta of a folder whose every file is as the manifest says; None if it is torn, changed or unfinished."""
    try:
        manifest = json.loads((folder / name).read_text(encoding="utf-8"))
        for relative, (size, checksum) in manifest["files"].items():
            file = folder / relative
            if file.stat().st_size != size or _checksum(file) != checksum:
                return None
        return manifest["meta"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def content_hash(path: Path) -> str:
    """SHA-256 of a file, or of the files of a folder by name."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(file.name.encode())
        with open(file, "rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


@contextlib.contextmanager
def explained(path: Path) -> Any:
    """Turns a full disk or a forbidden folder into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise TropismError(
                f"the disk is full while writing {path}: free some space and run the same command again, "
                "it continues from the last checkpoint"
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise TropismError(f"{path} cannot be written ({error.strerror}): choose another --out") from error
        raise


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _checksum(path: Path) -> int:
    value = 0
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            value = zlib.crc32(block, value)
    return value
