"""The format `parallel`: pairs of lines as prompts, demonstrations and documents; what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from tropism.errors import TropismError
from tropism.formats.parallel import Parallel
from tropism.protocols import Format
from tropism.recipe.build import build
from tropism.types import Completion, Group, Message

DATA = Path(__file__).parents[3] / "shared" / "data" / "multi30k"
EN, FR = b"A dog.\nTwo cats.\nA bird.\n", b"Un chien.\nDeux chats.\nUn oiseau.\n"


def pair(tmp_path: Path, source: bytes = EN, target: bytes = FR, **keys: Any) -> Parallel:
    (tmp_path / "x.en").write_bytes(source)
    (tmp_path / "x.fr").write_bytes(target)
    table = {"kind": "parallel", "source": str(tmp_path / "x.en"), "target": str(tmp_path / "x.fr"), **keys}
    return build(Format, table, "data")


def test_prompts_hold_the_reference_and_no_answer(tmp_path: Path) -> None:
    first, *_ = pair(tmp_path, part="prompts").groups()
    assert first == Group("x.en:1", (Message("user", "A dog."),), target="Un chien.", meta={"source": "x.en, x.fr"})


def test_demonstrations_answer_with_the_reference(tmp_path: Path) -> None:
    groups = list(pair(tmp_path, part="demonstrations", instruction="fr: ").groups())
    assert [(g.prompt, g.completions, g.target) for g in groups[1:]] == [
        ((Message("user", "fr: Two cats."),), (Completion("Deux chats."),), "Deux chats."),
        ((Message("user", "fr: A bird."),), (Completion("Un oiseau."),), "Un oiseau."),
    ]


def test_documents_are_both_sides_as_raw_text(tmp_path: Path) -> None:
    groups = list(pair(tmp_path, part="documents", instruction="fr: ").groups())
    assert [g.completions[0].text for g in groups] == [
        "fr: A dog.\nUn chien.",
        "fr: Two cats.\nDeux chats.",
        "fr: A bird.\nUn oiseau.",
    ]
    assert all(g.prompt == () and g.target is None for g in groups)


def test_a_line_is_what_a_line_feed_ends(tmp_path: Path) -> None:
    """Not what U+2028 or U+0085 ends: a pair would shift. White space at the ends is no part of a sentence."""
    source, target = "a\u2028b \r\n  c".encode(), "\ufeffd\x85e\nf".encode()
    groups = list(pair(tmp_path, source, target, part="prompts").groups())
    assert [(g.prompt[0].content, g.target) for g in groups] == [("a\u2028b", "d\x85e"), ("c", "f")]


def test_offset_and_limit_count_pairs(tmp_path: Path) -> None:
    source = pair(tmp_path, part="prompts", offset=1, limit=1)
    assert [g.id for g in source.groups()] == ["x.en:2"]
    assert source.files() == [tmp_path / "x.en", tmp_path / "x.fr"]
    with pytest.raises(TropismError, match=r"data.offset = -1 must be a whole number of 0 or more"):
        pair(tmp_path, part="prompts", offset=-1)


def test_files_of_different_length_are_refused_at_once(tmp_path: Path) -> None:
    source = pair(tmp_path, EN + b"One more.\n", FR, part="prompts", limit=1, on_error="skip")
    with pytest.raises(TropismError) as caught:
        next(iter(source.groups()))
    assert str(caught.value) == (
        f"{tmp_path}/x.en has 4 lines and {tmp_path}/x.fr has 3: give two files whose lines belong together"
    )


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        (b"a\n \nc\n", b"d\ne\nf\n", "line 2: field 'source' is empty; fill it"),
        (b"a\nb\nc\n", b"d\n\nf\n", "line 2: field 'target' is empty; fill it"),
        (b"a\nb\nc\n", b"d\n\xff\nf\n", "line 2: field 'target' is not UTF-8 (byte 0xff); convert it to UTF-8"),
    ],
)
def test_a_broken_pair_stops_or_is_left_out(tmp_path: Path, source: bytes, target: bytes, says: str) -> None:
    with pytest.raises(TropismError) as caught:
        list(pair(tmp_path, source, target, part="prompts").groups())
    assert str(caught.value) == f'{tmp_path}/x.en and {tmp_path}/x.fr {says} or set on_error = "skip"'
    groups = pair(tmp_path, source, target, part="prompts", on_error="skip").groups()
    assert [g.target for g in groups] == ["d", "f"]  # the others still answer their own lines
    assert len(groups.skipped) == 1


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(TropismError, match=r"x\.en and .*x\.fr are empty"):
        list(pair(tmp_path, b"", b"", part="prompts").groups())
    with pytest.raises(TropismError, match=r"there is no file .*y\.fr"):
        Parallel(str(tmp_path / "x.en"), str(tmp_path / "y.fr"), "prompts").files()
    with pytest.raises(TropismError, match=r"x\.\* names 2 files, but each side is one file: name one"):
        Parallel(str(tmp_path / "x.en"), str(tmp_path / "x.*"), "prompts").files()
    (tmp_path / "cut.fr.gz").write_bytes(gzip.compress(FR)[:-12])
    with pytest.raises(TropismError, match=r"cut\.fr\.gz is cut short or damaged"):
        list(Parallel(str(tmp_path / "x.en"), str(tmp_path / "cut.fr.gz"), "prompts").groups())


@pytest.mark.skipif(not DATA.exists(), reason="../shared/data/multi30k is not there")
def test_real_captions() -> None:
    files = [str(DATA / f"val.{language}.gz") for language in ("en", "fr")]
    with gzip.open(files[1], "rt", encoding="utf-8", newline="\n") as opened:
        lines = opened.read().split("\n")[:-1]
    groups = list(Parallel(files[0], files[1], "prompts").groups())
    assert [g.target for g in groups] == [line.strip() for line in lines] and len(groups) == 1014
    assert len({g.id for g in groups}) == 1014
