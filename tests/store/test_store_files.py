"""Writing whole or not at all: what stands after a torn file, a kill, a full disk."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tropism.errors import TropismError
from tropism.store import files


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small disk can be mounted only by root with the right to mount")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def tree(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def fill(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "a.bin").write_bytes(b"abc")
    (folder / "sub" / "b.txt").write_text("ünïcode")


def test_write_json_and_bytes(tmp_path: Path) -> None:
    files.write_json(tmp_path / "x.json", {"é": [1, None]})
    assert json.loads((tmp_path / "x.json").read_text("utf-8")) == {"é": [1, None]}
    assert "é" in (tmp_path / "x.json").read_text("utf-8")
    files.write_bytes(tmp_path / "x.json", b"new")
    assert (tmp_path / "x.json").read_bytes() == b"new"
    assert tree(tmp_path) == ["x.json"]


def test_a_folder_that_is_whole_gives_back_its_meta(tmp_path: Path) -> None:
    files.write_folder(tmp_path / "c", fill, {"step": 3})
    assert files.sealed(tmp_path / "c") == {"step": 3}
    assert tree(tmp_path) == ["c", "c/a.bin", "c/manifest.json", "c/sub", "c/sub/b.txt"]


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "no manifest", "torn manifest", "other manifest"])
def test_a_damaged_folder_is_none(tmp_path: Path, damage: str) -> None:
    files.write_folder(tmp_path / "c", fill, {})
    victim, manifest = tmp_path / "c" / "sub" / "b.txt", tmp_path / "c" / "manifest.json"
    text = manifest.read_text()
    if damage == "cut":
        victim.write_bytes(victim.read_bytes()[:-1])
    elif damage == "changed":  # of the same size
        victim.write_bytes(b"x" + victim.read_bytes()[1:])
    elif damage == "gone":
        victim.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(text[: len(text) // 2] if damage == "torn manifest" else "[1]")
    assert files.sealed(tmp_path / "c") is None


def test_a_failed_fill_leaves_the_old_folder_and_no_rest(tmp_path: Path) -> None:
    files.write_folder(tmp_path / "c", fill, {"step": 1})

    def failing(folder: Path) -> None:
        (folder / "a.bin").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_folder(tmp_path / "c", failing, {"step": 2})
    assert files.sealed(tmp_path / "c") == {"step": 1}
    assert tree(tmp_path) == ["c", "c/a.bin", "c/manifest.json", "c/sub", "c/sub/b.txt"]


def test_what_a_killed_writer_left_is_not_sealed(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / ".DONE.part").write_text("{")
    files.seal(tmp_path, {"x": 1}, "DONE")
    assert files.sealed(tmp_path, "DONE") == {"x": 1}


def test_a_seal_leaves_one_folder_out(tmp_path: Path) -> None:
    fill(tmp_path)
    files.seal(tmp_path, {}, "DONE", leave_out="sub")
    (tmp_path / "sub" / "b.txt").unlink()
    assert files.sealed(tmp_path, "DONE") == {}
    (tmp_path / "a.bin").unlink()
    assert files.sealed(tmp_path, "DONE") is None


def test_content_hash_knows_names_and_bytes(tmp_path: Path) -> None:
    made = []
    for n, (name, text) in enumerate([("a/x", "1"), ("a/x", "1"), ("b/x", "1"), ("a/x", "2"), ("a/y", "1")]):
        file = tmp_path / str(n) / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
        made.append(files.content_hash(tmp_path / str(n)))
    assert made[0] == made[1] and len(set(made)) == 4
    assert files.content_hash(tmp_path / "0" / "a" / "x") == files.content_hash(tmp_path / "2" / "b" / "x")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_sentence(tmp_path: Path, code: int) -> None:
    with pytest.raises(TropismError, match="the disk is full while writing .*x: free some space and run the same"):
        with files.explained(tmp_path / "x"):
            raise OSError(code, os.strerror(code))


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(TropismError, match=r"x cannot be written \(Permission denied\): choose another --out"):
        with files.explained(tmp_path / "x"):
            raise PermissionError(errno.EACCES, "Permission denied")
    for error in (FileNotFoundError(errno.ENOENT, "gone"), ValueError("v"), TropismError("mine")):
        with pytest.raises(type(error)) as caught, files.explained(tmp_path / "x"):
            raise error
        assert caught.value is error


def test_a_truly_full_disk_keeps_the_old_file(small_disk: Path) -> None:
    files.write_bytes(small_disk / "x", b"old")
    with pytest.raises(TropismError, match="the disk is full"):
        files.write_bytes(small_disk / "x", b"n" * 100_000)
    assert (small_disk / "x").read_bytes() == b"old"
    assert tree(small_disk) == ["x"]


def test_a_truly_full_disk_keeps_the_old_folder(small_disk: Path) -> None:
    files.write_folder(small_disk / "c", fill, {"step": 1})

    def weights(folder: Path) -> None:
        with open(folder / "w.pt", "wb") as file:
            torch.save({"w": torch.zeros(100_000)}, file)

    def tensors(folder: Path) -> None:
        from safetensors.torch import save_file

        save_file({"w": torch.zeros(100_000)}, folder / "w.safetensors")

    def table(folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"a": [os.urandom(100) for _ in range(2000)]}), folder / "t.parquet")

    def words(folder: Path) -> None:
        from tropism.text.tokenizer import train_tokenizer

        train_tokenizer(["a b c" * 10], 300).backend_tokenizer.save(str(folder / "one.json"))
        for n in range(20):
            train_tokenizer(["a b c" * 10], 300).save_pretrained(folder / str(n))

    for large in (weights, tensors, table, words):  # each of these libraries has its own way to say it
        with pytest.raises(TropismError, match="the disk is full while writing .*c: free some space"):
            files.write_folder(small_disk / "c", large, {"step": 2})
        assert files.sealed(small_disk / "c") == {"step": 1}
        assert tree(small_disk) == ["c", "c/a.bin", "c/manifest.json", "c/sub", "c/sub/b.txt"]
