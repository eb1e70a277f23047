"""Writes files so that a kill or a full disk leaves no half-written one: temporary name, sync, rename; manifest
last."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tropism.errors import TropismError

MANIFEST = "manifest.json"


def write_json(path: Path, value: Any) -> None:
    """The whole file or none of it."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def part(path: Path) -> Path:
    """The temporary path beside `path`, where a file or folder is written until it is complete."""
    return path.with_name(f".{path.name}.part")


def write_bytes(path: Path, data: bytes) -> None:
    with whole(path) as file:
        file.write_bytes(data)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Gives a file to write. It becomes `path` when the block ends without an error; otherwise it is removed."""
    temporary = part(path)
    try:
        with explained(path):
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()  # frees the space, in case the disk is full
        raise


def write_folder(path: Path, fill: Callable[[Path], None], meta: dict[str, Any]) -> None:
    """Lets `fill` write files into a temporary folder, adds a manifest of their checksums, and renames it to `path`."""
    with whole_folder(path) as folder:
        fill(folder)
        seal(folder, meta)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Gives a folder to fill. It replaces `path` when the block ends without an error; otherwise it is removed."""
    temporary = part(path)
    try:
        with explained(path):
            remove(temporary)
            temporary.mkdir(parents=True)
            yield temporary
            remove(path)
            os.replace(temporary, path)
            sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # frees the space, in case the disk is full
        raise


def vacant(path: Path) -> None:
    """Raises TropismError unless `path` does not exist or is an empty folder."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise TropismError(f"{path} exists and is not empty: give another --out")


def remove(path: Path) -> None:
    """Removes a file, or a folder with everything in it, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def seal(folder: Path, meta: dict[str, Any], name: str = MANIFEST, leave_out: str = "") -> None:
    """Syncs every file below `folder`, except in the subfolder `leave_out`, and writes the manifest, which completes
    it."""
    unfinished = part(Path(name)).name  # left by a killed process
    files: dict[str, list[int]] = {}
    for path in sorted(folder.rglob("*")):
        if path.relative_to(folder).parts[0] in (leave_out, name, unfinished):
            continue
        if path.is_dir():
            sync_folder(path)
            continue
        with open(path, "rb") as handle:
            files[str(path.relative_to(folder))] = [path.stat().st_size, _checksum(path)]
            os.fsync(handle.fileno())
    write_json(folder / name, {"meta": meta, "files": files})


def sealed(folder: Path, name: str = MANIFEST) -> dict[str, Any] | None:
    """The meta of a folder if every file agrees with the manifest; None if one is damaged, changed or missing."""
    try:
        manifest = json.loads((folder / name).read_text(encoding="utf-8"))
        for relative, (size, checksum) in manifest["files"].items():
            file = folder / relative
            if file.stat().st_size != size or _checksum(file) != checksum:
                return None
        return dict(manifest["meta"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def content_hash(path: Path) -> str:
    """SHA-256 of a file, or of the files of a folder and their names."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update((file.name if file == path else str(file.relative_to(path))).encode())
        with open(file, "rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the error of a full disk or a folder without permission into one sentence."""
    try:
        yield
    except TropismError:
        raise
    except Exception as error:
        if _full(error):
            raise TropismError(
                f"the disk is full while writing {path}: free some space and run the same command again, "
                "it continues from the last checkpoint"
            ) from error
        if isinstance(error, OSError) and (error.errno in _FORBIDDEN or _in_the_way(error, path)):
            raise TropismError(f"{path} cannot be written ({error.strerror}): choose another --out") from error
        raise


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_FORBIDDEN = (errno.EACCES, errno.EROFS, errno.EPERM)
_IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.ENAMETOOLONG)


def _in_the_way(error: OSError, path: Path) -> bool:
    """Whether, at `path` or beside it, a file is where a folder should be or the reverse, or a folder is missing."""
    if error.errno not in _IN_THE_WAY or not isinstance(error.filename, (str, Path)):
        return False
    named = Path(error.filename)
    return named.is_relative_to(path) or path.is_relative_to(named) or named == part(path)


def _full(error: BaseException | None) -> bool:
    """Whether the disk is full. Torch has its own error for that; safetensors and tokenizers only say it in the
    text."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    while error is not None:
        if isinstance(error, OSError) and error.errno in codes:
            return True
        if any(f"(os error {code})" in str(error) for code in codes):
            return True
        error = error.__context__
    return False


def _checksum(path: Path) -> int:
    value = 0
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            value = zlib.crc32(block, value)
    return value
