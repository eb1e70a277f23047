"""`tropism convert`: files come back equal, have the published keys and no others; what is left out is counted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import published_shapes as published
from tiny_recipe import Said, tropism
from tropism.store.groups import load_groups, save_groups
from tropism.types import Completion, Group, Judgment, Message

EQUAL = ("nectar", "hh", "trl", "trl_chat", "ultrafeedback_binarized", "arena", "lmsys_chat", "ultrafeedback")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, records: list[Any]) -> None:
    lines = "".join(json.dumps(record) + "\n" for record in records)
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(records), name)
    else:
        content = json.dumps(records) if ".json" in name and ".jsonl" not in name else lines
        Path(name).write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())


def read(name: str) -> list[Any]:
    if name.endswith(".parquet"):
        return pq.read_table(name).to_pylist()
    raw = Path(name).read_bytes()
    text = (gzip.decompress(raw) if name.endswith(".gz") else raw).decode()
    return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]


def convert(source: str, out: str, kind: str, to: str, *more: str) -> Said:
    return tropism("convert", source, out, "--from", kind, "--to", to, *more)


def counts(source: str, out: str, kind: str, to: str, *more: str) -> dict[str, Any]:
    said = convert(source, out, kind, to, "--json", *more)
    assert said.code == 0, said.err
    return json.loads(said.out)


@pytest.mark.parametrize("kind", EQUAL)
def test_a_file_comes_back_equal(kind: str) -> None:
    records = published.SHAPES[kind]
    for name, between, back in (
        ("in.jsonl", "g.parquet", "back.jsonl"),
        ("in.jsonl.gz", "g.jsonl", "back.jsonl.gz"),
        ("in.json", "g.jsonl", "back.json"),
        ("in.parquet", "g.parquet", "back.parquet"),
    ):
        write(name, records)
        if name == "in.parquet":
            records = read(name)  # with null for what a record does not have
            if kind in ("trl", "trl_chat"):
                continue  # whose implicit prompts are columns that are not there
        assert counts(name, between, kind, "groups", "--force")["groups"] == len(records)
        assert counts(between, back, "groups", kind)["records"] == len(records)
        assert read(back) == records
    assert convert("in.jsonl", "direct.jsonl", kind, kind).code == 0 and read("direct.jsonl") == published.SHAPES[kind]


def test_parquet_files_have_the_published_types() -> None:
    write("n.jsonl", published.NECTAR * 600)  # more than are in memory at once
    write("a.jsonl", published.ARENA)
    assert counts("n.jsonl", "n.parquet", "nectar", "nectar")["records"] == 1200
    answer = pa.struct({"answer": pa.string(), "model": pa.string(), "rank": pa.float64()})
    assert pq.read_schema("n.parquet") == pa.schema(
        {
            "prompt": pa.string(),
            "answers": pa.list_(answer),
            "turns": pa.int64(),
            "num_responses": pa.int64(),
            "source": pa.list_(pa.string()),
            "good_natured": pa.bool_(),
        }
    )
    assert read("n.parquet") == published.NECTAR * 600
    assert convert("a.jsonl", "a.parquet", "arena", "arena").code == 0
    scores = pq.read_schema("a.parquet").field("openai_moderation").type.field("category_scores").type
    assert scores == pa.struct({"hate": pa.float64(), "self-harm/intent": pa.float64()})


def judged(number: int, *scores: float | None, judge: str = "ai") -> Group:
    answers = tuple(Completion(f"answer {k} of {number}", policy=f"m{k}") for k in range(len(scores)))
    return Group(f"g{number}", (Message("user", f"q{number}"),), answers, (Judgment(judge, scores),), meta={"tag": "x"})


GROUPS = [judged(1, 0.5, 2.0, 0.5, None), judged(2, 1.0, 0.0), judged(3, 3.0, 3.0)]


@pytest.mark.parametrize("kind", sorted(published.SHAPES))
def test_written_files_have_the_published_keys_and_no_others(kind: str) -> None:
    save_groups(iter(GROUPS), Path("g.jsonl"))
    counts("g.jsonl", "out.jsonl", "groups", kind)
    keys = {"trl_chat": {"prompt", "chosen", "rejected"}}.get(kind, set(published.SHAPES[kind][0]))
    assert {frozenset(record) for record in read("out.jsonl")} == {frozenset(keys)}


def test_pairs_ties_and_ranks_by_hand() -> None:
    save_groups(iter(GROUPS), Path("g.parquet"))
    said = counts("g.parquet", "all.jsonl", "groups", "trl")
    assert said == {"groups": 3, "records": 3, "ties": 2, "left_out": {}, "skipped": 0}  # 0-2 of the first, the third
    assert [(r["prompt"], r["chosen"][7], r["rejected"][7]) for r in read("all.jsonl")] == [
        ("q1", "1", "0"), ("q1", "1", "2"), ("q2", "0", "1")
    ]  # fmt: skip
    said = convert("g.parquet", "best.jsonl", "groups", "trl_chat", "--pairs", "best_worst")
    assert (said.code, said.err) == (0, "left out: 1 ties\n")
    assert said.out == "2 records of the shape trl_chat written to best.jsonl, from 3 groups\n"
    assert [(r["chosen"][0]["content"][7], r["rejected"][0]["content"][7]) for r in read("best.jsonl")] == [
        ("1", "0"), ("0", "1")
    ]  # fmt: skip
    counts("g.parquet", "n.jsonl", "groups", "nectar")
    assert [[a["rank"] for a in r["answers"]] for r in read("n.jsonl")] == [[2, 1, 2, None], [1, 2], [1, 1]]
    assert read("n.jsonl")[0]["prompt"] == "\n\nHuman: q1\n\nAssistant: "
    counts("g.parquet", "a.jsonl", "groups", "arena")
    assert [(r["question_id"], r["winner"]) for r in read("a.jsonl")] == [
        ("g1/0-1", "model_b"), ("g1/0-2", "tie"), ("g1/1-2", "model_a"), ("g2", "model_a"), ("g3", "tie")
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["nectar", "oasst", "arena", "argilla", "ultrafeedback"])
def test_groups_come_back_as_far_as_the_shape_can_hold_them(kind: str) -> None:
    """The prompt, the answers, and the order that the judge put them in."""
    groups = [judged(1, 0.5, 2.0), judged(2, 1.0, 0.0), judged(3, 3.0, 3.0)]
    save_groups(iter(groups), Path("g.jsonl"))
    counts("g.jsonl", "out.jsonl", "groups", kind)
    counts("out.jsonl", "back.parquet", kind, "groups")
    back = list(load_groups(Path("back.parquet")))
    assert len(back) == 3
    for group, again in zip(groups, back):
        before, after = (
            {c.text: j.scores[k] or 0.0 for k, c in enumerate(g.completions)}
            for g, j in ((group, group.judgments[0]), (again, again.judgments[-1]))
        )
        assert again.prompt == group.prompt and before.keys() == after.keys()
        first, second = before
        assert (before[first] > before[second]) == (after[first] > after[second])
        assert (before[first] == before[second]) == (after[first] == after[second])
        if kind == "oasst":
            assert again.id == group.id


def test_another_judge_counts_more_than_what_was_read() -> None:
    """The ranks that the file had are written again only for the judge who gave them."""
    write("n.jsonl", published.NECTAR[1:])
    convert("n.jsonl", "g.jsonl", "nectar", "groups")
    (group,) = load_groups(Path("g.jsonl"))
    both = Group(**{f: getattr(group, f) for f in ("id", "prompt", "completions", "meta")},
                 judgments=(*group.judgments, Judgment("ai", (0.0, 1.0, 2.0))))  # fmt: skip
    save_groups(iter([both]), Path("both.jsonl"))
    said = convert("both.jsonl", "out.jsonl", "groups", "nectar")
    assert said.code == 2 and "has judgments by ai, ranked: say with --judge whose counts" in said.err
    assert not Path("out.jsonl").exists()
    for judge, ranks in (("ai", [3, 2, 1]), ("ranked", [1, 1, 2])):
        counts("both.jsonl", f"{judge}.jsonl", "groups", "nectar", "--judge", judge)
        (record,) = read(f"{judge}.jsonl")
        assert [a["rank"] for a in record["answers"]] == ranks
        assert record["source"] == ["anthropic-hh", "sharegpt"] and record["good_natured"] is False
    (record,) = read("ranked.jsonl")
    assert record == published.NECTAR[1]


def test_overall_stands_for_the_aspects() -> None:
    write("u.jsonl", published.ULTRAFEEDBACK)
    assert counts("u.jsonl", "t.jsonl", "ultrafeedback", "trl")["records"] == 1
    assert read("t.jsonl") == [{"prompt": "Plan a trip to Cairo.", "chosen": "Pyramids.", "rejected": "Louvre."}]
    said = convert("u.jsonl", "h.jsonl", "ultrafeedback", "trl", "--judge", "honesty")  # N/A and 3
    assert said.code == 2 and "nothing can be written as trl (1 groups with fewer than two scores)" in said.err


def test_what_a_shape_cannot_hold_is_counted() -> None:
    write("t.jsonl", published.TRL_CHAT)
    said = convert("t.jsonl", "h.jsonl", "trl_chat", "hh", "--json")
    assert json.loads(said.out)["left_out"] == {"groups with other turns than a user's and an assistant's": 1}
    assert said.err == "left out: 1 groups with other turns than a user's and an assistant's\n"
    assert read("h.jsonl")[0]["chosen"] == "\n\nHuman: What colour?\n\nAssistant: Blue."
    write("bad.jsonl", [*published.ARENA, {**published.ARENA[0], "winner": "nobody"}])
    said = convert("bad.jsonl", "a.jsonl", "arena", "nectar", "--on-error", "skip", "--json")
    assert json.loads(said.out)["skipped"] == 1 and "bad.jsonl line 5: field 'winner' = 'nobody'" in said.err


BAD: list[tuple[tuple[str, ...], str]] = [
    (("no.jsonl", "o.jsonl", "hh", "trl"), "there is no file no.jsonl"),
    (("empty.jsonl", "o.jsonl", "hh", "trl"), "empty.jsonl is empty"),
    (("empty.jsonl", "o.jsonl", "groups", "trl"), "empty.jsonl has no groups"),
    (("cut.jsonl", "o.jsonl", "hh", "trl"), "cut.jsonl is cut short or damaged in its last line, 2"),
    (("cut.gz.jsonl.gz", "o.jsonl", "hh", "trl"), "is cut short or damaged"),
    (("cut.parquet", "o.jsonl", "groups", "trl"), "cut.parquet is damaged or not a Parquet file"),
    (("hh.jsonl", "o.jsonl", "nectar", "trl"), "hh.jsonl line 1: field 'answers' is missing"),
    (("hh.jsonl", "o.jsonl", "groups", "trl"), "hh.jsonl line 1 is not a group"),
    (("hh.jsonl", "o.jsonl", "hhh", "trl"), "there is no kind 'hhh' among the formats: did you mean 'hh'?"),
    (("hh.jsonl", "o.jsonl", "hh", "trll"), "--to 'trll' is not a kind that can be written: did you mean 'trl'?"),
    (("hh.jsonl", "o.jsonl", "hh", "pairs"), "--to 'pairs' is not a kind that can be written"),
    (("hh.jsonl", "o.txt", "hh", "trl"), "o.txt ends in neither .jsonl nor .json nor"),
    (("hh.jsonl", "o.json", "hh", "groups"), "o.json ends in neither .jsonl nor .parquet"),
    (("hh.jsonl", "hh.jsonl", "hh", "trl"), "hh.jsonl exists: name another file, or give --force to replace it"),
    (("hh.jsonl", "o.jsonl", "hh", "trl", "--judge", "ai"), "2 groups without a judgment by ai"),
    (("lmsys.jsonl", "o.jsonl", "lmsys_chat", "nectar"), "1 groups without a judgment): choose another"),
    (("arena.jsonl", "o.jsonl", "arena", "nectar"), "arena.jsonl line 5: field 'winner' = 'nobody' is not a verdict"),
    (("mixed.jsonl", "o.parquet", "ultrafeedback", "ultrafeedback"), "cannot hold these records as Parquet"),
]


@pytest.mark.parametrize(("words", "says"), BAD, ids=lambda value: value[:40] if isinstance(value, str) else value[0])
def test_bad_input_is_one_sentence_and_nothing_is_written(words: tuple[str, ...], says: str) -> None:
    write("hh.jsonl", published.HH)
    write("lmsys.jsonl", published.LMSYS_CHAT)
    write("arena.jsonl", [*published.ARENA, {**published.ARENA[0], "winner": "nobody"}])
    odd = json.loads(json.dumps(published.ULTRAFEEDBACK[0]))
    odd["completions"][0]["annotations"]["helpfulness"]["Type"] = "None"  # a text here, a list there
    write("mixed.jsonl", [odd, *published.ULTRAFEEDBACK])
    Path("empty.jsonl").touch()
    whole = Path("hh.jsonl").read_bytes()
    Path("cut.jsonl").write_bytes(whole[:-9])
    Path("cut.gz.jsonl.gz").write_bytes(gzip.compress(whole * 40)[:-9])
    Path("cut.parquet").write_bytes(whole)
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    said = convert(*words)
    assert said.code == 2 and said.out == ""
    assert said.err.startswith("tropism: ") and says in said.err and said.err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before
