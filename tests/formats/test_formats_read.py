"""Reading of files and data sets: every suffix, ids, limits, and every way in which input can be bad."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tropism.errors import TropismError
from tropism.formats.chat import Chat
from tropism.formats.prompts import Prompts
from tropism.formats.text import Text
from tropism.protocols import Format
from tropism.recipe.build import build


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def lines(name: str, *records: object) -> str:
    text = "".join(json.dumps(record) + "\n" for record in records)
    data = text.encode()
    Path(name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return name


def texts(source: Text) -> list[str]:
    return [group.completions[0].text for group in source.groups()]


def error(source: Format) -> str:
    with pytest.raises(TropismError) as caught:
        list(source.groups())
    message = str(caught.value)
    assert "\n" not in message
    return message


def jsonl(path: Path) -> None:
    path.write_text('{"text": "one"}\n\n{"text": "zwölf"}\n', encoding="utf-8")


def array(path: Path) -> None:
    path.write_text(json.dumps([{"text": "one"}, {"text": "zwölf"}], indent=1), encoding="utf-8")


def parquet(path: Path) -> None:
    pq.write_table(pa.table({"text": ["one", "zwölf"]}), path)


def txt(path: Path) -> None:
    path.write_text("one\n\n\nzwölf\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "write", "ids"),
    [
        ("x.jsonl", jsonl, ("x.jsonl:1", "x.jsonl:3")),
        ("x.json", jsonl, ("x.json:1", "x.json:3")),
        ("x.json", array, ("x.json:1", "x.json:2")),
        ("x.parquet", parquet, ("x.parquet:1", "x.parquet:2")),
        ("x.TXT", txt, ("x.TXT:1", "x.TXT:2")),
    ],
)
@pytest.mark.parametrize("gz", [False, True])
def test_every_suffix_is_read(name: str, write: Callable[[Path], None], ids: tuple[str, str], gz: bool) -> None:
    path = Path(name)
    write(path)
    if gz:
        Path(name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
        name, ids = name + ".gz", (ids[0].replace(":", ".gz:"), ids[1].replace(":", ".gz:"))
    groups = list(Text(name, separator="\n\n").groups())
    assert [g.completions[0].text for g in groups] == ["one", "zwölf"]
    assert tuple(g.id for g in groups) == ids
    assert {g.meta["source"] for g in groups} == {name}


def test_paths_and_globs_each_file_once_in_order() -> None:
    for name in ("b.jsonl", "a.jsonl", "c.jsonl"):
        lines(name, {"text": name})
    source = Text(("c.jsonl", "*.jsonl", "./a.jsonl"))
    assert texts(source) == ["c.jsonl", "a.jsonl", "b.jsonl"]
    assert source.files() == [Path("c.jsonl"), Path("a.jsonl"), Path("b.jsonl")]


def test_a_path_with_glob_signs_that_exists_is_a_path() -> None:
    lines("a[1].jsonl", {"text": "brackets"})
    assert texts(Text("a[1].jsonl")) == ["brackets"]


def test_equal_file_names_get_different_ids() -> None:
    Path("one").mkdir()
    Path("two").mkdir()
    lines("one/x.jsonl", {"text": "a"})
    lines("two/x.jsonl", {"text": "b"})
    assert [g.id for g in Text("*/x.jsonl").groups()] == ["one/x.jsonl:1", "two/x.jsonl:1"]


def test_limit_counts_groups_over_files_and_reads_no_further() -> None:
    lines("a.jsonl", {"text": "1"}, {"text": "2"})
    Path("b.jsonl").write_text('{"text": "3"}\n{"text": 4}\n')
    assert texts(Text(("a.jsonl", "b.jsonl"), limit=3)) == ["1", "2", "3"]


def test_groups_are_read_while_they_are_iterated_over() -> None:
    Path("x.jsonl").write_text('{"text": "1"}\nbroken\n')
    assert next(iter(Text("x.jsonl").groups())).id == "x.jsonl:1"


def test_reading_writes_nothing() -> None:
    lines("x.jsonl.gz", {"text": "1"}, {"texd": "2"})
    parquet(Path("x.parquet"))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in Path().rglob("*")}
    list(Text("x.*", on_error="skip").groups())
    error(Text("x.*"))
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in Path().rglob("*")} == before


def test_windows_files() -> None:
    Path("x.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n{"text": "two"}\r\n')
    assert texts(Text("x.jsonl")) == ["one", "two"]
    Path("x.json").write_bytes(b'\xef\xbb\xbf[\r\n{"text": "one"}]')
    assert texts(Text("x.json")) == ["one"]
    Path("x.txt").write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo\r\n")
    assert texts(Text("x.txt", separator="\n\n")) == ["one", "two"]


def test_a_broken_record_names_file_line_field_and_remedy() -> None:
    Path("data").mkdir()
    lines("data/x.jsonl", {"text": "1"}, {"texd": "2"})
    assert error(Text("data/x.jsonl")) == (
        "data/x.jsonl line 2: field 'text' is missing; add it or set on_error = \"skip\""
    )


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ('{"text": null}', "field 'text' is missing"),
        ('{"text": 3}', "field 'text' is a number, not a text"),
        ('{"text": ["a"]}', "field 'text' is a list, not a text"),
        ('{"text": true}', "field 'text' is of the type bool, not a text"),
        ('{"text": " \\n"}', "field 'text' is empty"),
        ('{"text": "\\ud800"}', "field 'text' has half of a surrogate pair"),
        ('"text"', "is a text, not an object with fields"),
        ("null", "is null, not an object with fields"),
        ('{"text": "x"', "is not a JSON object"),
        ('{"text": ' + "9" * 5000 + "}", "is not a JSON object"),
        ('{"text": ' * 100_000, "is not a JSON object"),
        ('{"text": "caf\udce9"}', "is not UTF-8 (byte 0xe9)"),
    ],
)
def test_broken_records_stop_or_are_skipped(record: str, says: str) -> None:
    good = b'{"text": "good"}\n'
    Path("x.jsonl").write_bytes(good + record.encode("utf-8", "surrogateescape") + b"\n" + good)
    message = error(Text("x.jsonl"))
    assert message.startswith(f"x.jsonl line 2: {says}")
    assert message.endswith('or set on_error = "skip"')
    groups = Text("x.jsonl", on_error="skip").groups()
    assert [g.id for g in groups] == ["x.jsonl:1", "x.jsonl:3"]
    assert len(groups.skipped) == 1
    assert groups.skipped[0].startswith(f"x.jsonl line 2: {says}")
    assert len(list(groups)) == 2
    assert len(groups.skipped) == 1  # a second pass counts anew


def test_a_broken_record_of_an_array_and_of_parquet_is_named_by_its_number() -> None:
    Path("x.json").write_text('[{"text": "1"},\n\n\n 7]')
    assert error(Text("x.json")).startswith("x.json record 2: is a number, not an object")
    pq.write_table(pa.table({"text": ["1", "2", None]}), "x.parquet")
    assert error(Text("x.parquet")).startswith("x.parquet row 3: field 'text' is missing")
    pq.write_table(pa.table({"text": pa.array([b"1", b"\xff"]).view(pa.string())}), "y.parquet")
    assert error(Text("y.parquet")).startswith("y.parquet row 2: is not UTF-8 (byte 0xff)")
    pq.write_table(pa.table({"text": [b"1"]}), "z.parquet")
    assert error(Text("z.parquet")).startswith("z.parquet row 1: field 'text' is of the type bytes, not a text")


def test_nothing_left_after_skipping_is_an_error() -> None:
    lines("x.jsonl", {"a": 1}, {"a": 2})
    assert error(Text("x.jsonl", on_error="skip")) == (
        "all 2 records are broken, the first: x.jsonl line 1: field 'text' is missing: fix the data or its kind"
    )


@pytest.mark.parametrize("on_error", ["stop", "skip"])
@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "json", "json.gz", "parquet", "parquet.gz", "txt.gz"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.97])
def test_a_file_cut_in_the_middle_stops_the_reading(kind: str, on_error: str, kept: float) -> None:
    rows = [{"text": f"row {i} " + f"{i * 7919 % 104729} ö" * 20} for i in range(200)]
    name = f"x.{kind}"
    if kind.startswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), "whole")
    elif kind.startswith("jsonl"):
        lines("whole", *rows)
    elif kind.startswith("json"):
        Path("whole").write_text(json.dumps(rows, ensure_ascii=False))
    else:
        Path("whole").write_text("\n".join(row["text"] for row in rows))
    data = Path("whole").read_bytes()
    data = gzip.compress(data) if kind.endswith(".gz") else data
    Path(name).write_bytes(data)
    assert list(Text(name).groups())  # whole, it is read
    Path(name).write_bytes(data[: int(len(data) * kept)])
    message = error(Text(name, on_error=on_error))  # type: ignore[arg-type]
    assert message.startswith(f"{name} is cut short or damaged")
    assert message.endswith(": write or fetch it again")


def test_a_jsonl_cut_inside_a_character_is_cut_short() -> None:
    Path("x.jsonl").write_bytes('{"text": "a"}\n{"text": "ö'.encode()[:-1])
    assert error(Text("x.jsonl")).startswith("x.jsonl is cut short or damaged in its last line, 2:")


def test_a_last_line_needs_no_newline() -> None:
    Path("x.jsonl").write_text('{"text": "a"}\n{"text": "b"}')
    assert texts(Text("x.jsonl")) == ["a", "b"]


@pytest.mark.parametrize("at", [0.3, 0.6])
def test_damaged_bytes_in_gz_and_parquet(at: float) -> None:
    rows = [{"text": f"row {i} {i * 7919 % 104729}"} for i in range(2000)]
    lines("x.jsonl.gz", *rows)
    pq.write_table(pa.Table.from_pylist(rows), "x.parquet", write_page_checksum=True)
    for name in ("x.jsonl.gz", "x.parquet"):
        data = bytearray(Path(name).read_bytes())
        start = int(len(data) * at)
        data[start : start + 64] = bytes(64)
        Path(name).write_bytes(data)
    for name in ("x.jsonl.gz", "x.parquet"):
        assert error(Text(name, on_error="skip")).startswith(f"{name} is cut short or damaged")


def test_a_gz_that_is_none() -> None:
    Path("x.jsonl.gz").write_text('{"text": "plain"}\n')
    assert error(Text("x.jsonl.gz")).startswith("x.jsonl.gz is cut short or damaged (Not a gzipped file")


def test_json_that_is_neither_an_array_nor_lines() -> None:
    Path("x.json").write_text('{\n "data": [{"text": "a"}]\n}\n')
    message = error(Text("x.json"))
    assert message.startswith("x.json line 1: is not a JSON object")
    assert "write one object a line" in message


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.txt", "x.parquet", "x.jsonl.gz", "x.parquet.gz"])
@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file(name: str, content: bytes) -> None:
    content = b"" if "parquet" in name else content
    lines("a.jsonl", {"text": "a"})
    Path(name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    for on_error in ("stop", "skip"):
        message = error(Text(("a.jsonl", name), on_error=on_error))
        assert message == f"{name} is empty: give a file with records or leave it out"
    if not name.endswith("parquet.gz"):
        Path(name).write_bytes(b"")
        assert error(Text(name)).startswith(f"{name} is empty")


def test_containers_without_records_are_empty() -> None:
    Path("x.json").write_text("[]")
    assert error(Text("x.json")).startswith("x.json is empty")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), "x.parquet")
    assert error(Text("x.parquet")).startswith("x.parquet is empty")


def test_not_utf8_names_the_line() -> None:
    Path("x.json").write_bytes(b'[{"text": "a"},\n{"text": "caf\xe9"}]')
    assert error(Text("x.json", on_error="skip")) == (
        "x.json line 2 is not UTF-8 (byte 0xe9): convert the file to UTF-8"
    )
    Path("x.txt").write_bytes(b"one\ntwo\ncaf\xe9\n")
    assert error(Text("x.txt", on_error="skip")) == "x.txt line 3 is not UTF-8 (byte 0xe9): convert it to UTF-8"
    Path("p.txt").write_bytes(b"one\ncaf\xe9\nthree\n")
    assert error(Prompts("p.txt")).startswith("p.txt line 2: is not UTF-8 (byte 0xe9)")
    assert [g.id for g in Prompts("p.txt", on_error="skip").groups()] == ["p.txt:1", "p.txt:3"]
    Path("u.txt").write_text("a text", encoding="utf-16")
    assert error(Text("u.txt")).startswith("u.txt line 1 is not UTF-8 (byte 0xff)")


def test_files_that_are_not_there() -> None:
    Path("folder").mkdir()
    assert error(Text("no.jsonl")).startswith("there is no file no.jsonl (searched from ")
    assert error(Text("no*.jsonl")).startswith("no file matches no*.jsonl (searched from ")
    assert error(Text("folder/")) == (
        "folder/ is a folder: name the files in it, such as folder/*.jsonl, or give the folder that save_to_disk has "
        "written as hub"
    )
    with pytest.raises(TropismError, match="there is no file"):
        Text("no.jsonl").files()


def test_suffixes_are_checked_before_anything_is_read() -> None:
    Path("x.xml").write_text("<a/>\n")
    lines("x.jsonl", {"text": 1})
    assert error(Text(("x.jsonl", "x.xml"))) == (
        "x.xml is not a .jsonl, .json, .parquet, .csv, .tsv, .txt file (or one of them with .gz): convert it"
    )
    Path("x.txt").write_text("a")
    assert error(Chat("x.txt")) == (
        "x.txt is not a .jsonl, .json, .parquet, .csv, .tsv file (or one of them with .gz): convert it"
    )


@pytest.mark.parametrize("rows", [1000, 20_000])  # 20 row groups, and one
def test_parquet_is_not_held_as_a_whole(rows: int) -> None:
    table = pa.table({"text": ["x" * 1000] * 20_000})  # 20 MB
    pq.write_table(table, "x.parquet", row_group_size=rows, use_dictionary=False, compression="none")
    del table
    pool = pa.default_memory_pool()
    start, most = pool.bytes_allocated(), 0
    for _ in Text("x.parquet").groups():
        most = max(most, pool.bytes_allocated() - start)
    assert most < 8_000_000


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"kind": "text"}, "data: give one of the keys path and hub"),
        ({"kind": "text", "path": "a", "hub": "b"}, "data: give one of the keys path and hub"),
        ({"kind": "text", "path": "a", "split": "test"}, "data: subset and split belong to hub"),
        ({"kind": "text", "path": "a", "limit": -1}, "data.limit = -1 must be a whole number of 0 or more"),
        ({"kind": "text", "path": "a", "on_error": "skp"}, "data.on_error = 'skp' is not one of 'stop', 'skip'"),
        ({"kind": "text", "pth": "a"}, "data has no key 'pth': did you mean 'path'?"),
        ({"kind": "chats", "path": "a"}, "data: there is no kind 'chats' among the formats: did you mean 'chat'?"),
    ],
)
def test_mistakes_in_a_recipe(entry: dict[str, object], says: str) -> None:
    with pytest.raises(TropismError) as caught:
        build(Format, entry, "data")
    assert says in str(caught.value)


def test_a_recipe_entry_becomes_the_format() -> None:
    lines("x.jsonl", {"body": "a"})
    source = build(Format, {"kind": "text", "path": ["x.jsonl"], "columns": {"text": "body"}}, "data")
    assert source == Text(("x.jsonl",), columns={"text": "body"})
    assert isinstance(source, Format)
    assert texts(source) == ["a"]


def hub_folder(monkeypatch: pytest.MonkeyPatch) -> str:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path("cache").resolve())
    Path("corpus").mkdir()
    lines("corpus/train.jsonl", {"text": "a"}, {"text": None}, {"text": "c"})
    lines("corpus/test.jsonl", {"text": "d"})
    return str(Path("corpus").resolve())


@pytest.mark.parametrize("limit", [0, 5])  # 5 streams
def test_a_data_set_through_datasets(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    hub = hub_folder(monkeypatch)
    source = Text(hub=hub, limit=limit, on_error="skip")
    groups = source.groups()
    assert [(g.id, g.completions[0].text) for g in groups] == [("corpus/train:1", "a"), ("corpus/train:3", "c")]
    assert groups.skipped == ["corpus/train row 2: field 'text' is missing"]
    assert [path.name for path in source.files()] == ["test.jsonl", "train.jsonl"]
    assert texts(Text(hub=hub, split="test", limit=limit)) == ["d"]
    assert any(Path("cache").rglob("*.arrow")) == (limit == 0)


def test_a_data_set_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = hub_folder(monkeypatch)
    message = error(Text(hub=hub, split="tset"))
    assert message.startswith("the data set corpus/tset cannot be read (")
    assert message.endswith("): check hub, subset, split and the network")
    assert "zz" in error(Text(hub=hub, subset="zz"))
    assert error(Text(hub=f"{hub}/nothing", limit=1)).endswith("): check hub, subset, split and the network")
    assert Text(hub="some/data-set").files() == []


def test_what_save_to_disk_has_written(tmp_path: Path) -> None:
    import datasets

    parts = {
        split: datasets.Dataset.from_dict({"text": [f"{split} {n}" for n in range(3)]}) for split in ("train", "test")
    }
    datasets.DatasetDict(parts).save_to_disk("both")
    parts["test"].save_to_disk("alone")
    assert texts(Text(hub="both")) == ["train 0", "train 1", "train 2"]
    assert texts(Text(hub="both", split="test", limit=2)) == ["test 0", "test 1"]
    assert texts(Text(hub="alone")) == ["test 0", "test 1", "test 2"]
    assert "cannot be read ('dev')" in error(Text(hub="both", split="dev"))
    assert any(path.suffix == ".arrow" for path in Text(hub="both").files())
