"""Bad input on the command line: a non-zero status, one sentence that says what, where and what to do, nothing lost."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tiny_recipe import BASE, RANKINGS, SAMPLES, SFT, TOKENIZER, Said, tropism, weights
from tropism.models.folder import save
from tropism.store.folder import done, latest
from tropism.store.run import Run


class Place:
    """A recipe file, the data beside it and the run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "run"

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def run(self, recipe: str, *words: object) -> Said:
        return tropism("run", self.write("r.toml", recipe), "--out", self.out, "--quiet", *words)

    def refused(self, recipe: str, *words: object) -> str:
        """The sentence that refuses the run: the only line it prints."""
        said = self.run(recipe, *words)
        assert (said.code, said.out) == (2, "")
        assert said.err.startswith("tropism: ") and said.err.count("\n") == 1 and said.err.endswith("\n")
        return said.err.removeprefix("tropism: ").rstrip("\n")

    def finished(self) -> list[str]:
        """The stages that are whole."""
        return [id for id, path in latest(self.out).items() if done(path)] if self.out.exists() else []


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def chats(n: int) -> str:
    turns = [
        ({"role": "user", "content": f"{i} days"}, {"role": "assistant", "content": f"{i} jours"}) for i in range(n)
    ]
    return "".join(json.dumps({"messages": list(pair)}) + "\n" for pair in turns)


def sft(path: Path | str) -> str:
    return SFT.replace(
        '{ kind = "phrasebook", part = "demonstrations", count = 40 }', f'{{ kind = "chat", path = "{path}" }}'
    )


# 1: an unknown recipe key


def test_an_unknown_key_names_the_nearest(place: Place) -> None:
    says = place.refused(TOKENIZER + BASE.replace("steps =", "stpes ="))
    assert says == "r.toml: base has no key 'stpes': did you mean 'steps'?"
    assert not place.out.exists()


# 2: a stage that names a later or missing stage


def test_a_later_stage(place: Place) -> None:
    says = place.refused(TOKENIZER + SFT + BASE)
    assert says == "r.toml: sft.model names the stage 'base', which does not come before it: move it above"
    assert not place.out.exists()


def test_a_missing_stage(place: Place) -> None:
    says = place.refused(TOKENIZER + BASE + SFT.replace('"base"', '"bass"'))
    wanted = "r.toml: sft.model names 'bass', which is not an earlier stage, a folder or a hub id: did you mean 'base'?"
    assert says == wanted and not place.out.exists()


# 3 and 4: a data file cut in the middle, an empty file


def parquet(records: str) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([json.loads(line) for line in records.splitlines()]), sink)
    return sink.getvalue().to_pybytes()


WHOLE: dict[str, Callable[[str], bytes]] = {
    "chats.jsonl": str.encode,
    "chats.jsonl.gz": lambda text: gzip.compress(text.encode()),
    "chats.parquet": parquet,
    "chats.json": lambda text: f"[{','.join(text.splitlines())}]".encode(),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_cut_in_the_middle(place: Place, name: str) -> None:
    """Even beyond what the plan looks at; what was done before stays done, and goes on once the file is whole."""
    whole = WHOLE[name](chats(500))
    recipe = TOKENIZER + BASE + sft(place.write(name, whole[: len(whole) * 2 // 3]))
    says = place.refused(recipe)
    assert str(place.folder / name) in says and "cut short or damaged" in says and "write or fetch it again" in says
    before = place.finished()
    place.write(name, whole)
    assert place.run(recipe).code == 0
    assert set(before) < set(place.finished()) and place.finished() == ["tokenizer", "base", "sft"]


@pytest.mark.parametrize("name", ["chats.jsonl", "chats.json", "chats.parquet", "chats.jsonl.gz"])
def test_an_empty_file(place: Place, name: str) -> None:
    empty = gzip.compress(b"") if name.endswith(".gz") else b""
    says = place.refused(TOKENIZER + BASE + sft(place.write(name, empty)))
    assert says == f"{place.folder / name} is empty: give a file with records or leave it out"


def test_a_broken_record_names_file_line_and_field_and_can_be_left_out(place: Place) -> None:
    lines = chats(20).splitlines()
    lines[7] = json.dumps({"messages": [{"role": "user"}]})
    recipe = TOKENIZER + BASE + sft(place.write("chats.jsonl", "\n".join(lines) + "\n"))
    says = place.refused(recipe)
    assert says.startswith(f"{place.folder / 'chats.jsonl'} line 8: field 'messages[0].content' is missing; add it or")
    said = tropism("run", place.folder / "r.toml", "--out", place.out, "--set", "sft.data.on_error=skip")
    assert said.code == 0 and "sft: 1 broken records left out of data; the first: " in said.err
    assert json.loads((place.out / "report.json").read_text())["stages"]["sft"]["facts"]["left_out"] == 1


# 5: a prompt longer than the model's context


def test_a_prompt_longer_than_the_context_when_sampling(place: Place) -> None:
    asked = place.write("asked.txt", "short\n" + "long " * 200 + "\n")
    prompts = f'{{ kind = "prompts", path = "{asked}" }}'
    recipe = TOKENIZER + BASE + SFT + SAMPLES.replace('{ kind = "phrasebook", part = "prompts", count = 24 }', prompts)
    says = place.refused(recipe)
    assert says.startswith("the prompt of group asked.txt:2 has ") and "exceeds the model's context of 256" in says
    assert "shorten the prompt or lower sampling.max_tokens" in says
    assert place.finished() == ["tokenizer", "base", "sft"]
    assert place.run(recipe, "--set", "samples.too_long=skip").code == 0
    assert place.finished() == ["tokenizer", "base", "sft", "samples"]


def test_a_demonstration_longer_than_the_context(place: Place) -> None:
    long = [{"role": "user", "content": "x " * 300}, {"role": "assistant", "content": "y"}]
    says = place.refused(
        TOKENIZER + BASE + sft(place.write("c.jsonl", chats(5) + json.dumps({"messages": long}) + "\n"))
    )
    assert "group c.jsonl:6 needs " in says and "the model's context is 256" in says and 'too_long = "skip"' in says


def test_a_prompt_longer_than_the_context_on_the_command_line(place: Place) -> None:
    assert place.run(TOKENIZER + BASE + SFT).code == 0
    asked = place.write("asked.txt", "short\n" + "long " * 200 + "\n")
    out = place.folder / "x.jsonl"
    said = tropism("generate", place.out, "--prompts", asked, "--out", out, "--max-tokens", 9)
    assert said.code == 2 and "the prompt of group asked.txt:2 has " in said.err and said.err.count("\n") == 1
    assert not out.exists()


# 6: a tokenizer without a chat template


def test_a_tokenizer_without_a_chat_template(
    place: Place, words: PreTrainedTokenizerFast, make_model: Callable[..., PreTrainedModel]
) -> None:
    save(make_model("gpt_neox"), words, place.folder / "model")
    (place.folder / "model" / "chat_template.jinja").unlink()
    recipe = SFT.replace('"base"', f'"{place.folder / "model"}"')
    says = place.refused(recipe)
    remedy = 'set chat_template = "tropism" on the sft stage'
    assert says == f"the tokenizer {place.folder / 'model'} has no chat template: {remedy}"
    assert place.run(recipe, "--set", "sft.chat_template=tropism").code == 0


# 7: a pair whose chosen equals its rejected


def pairs(place: Place, twin: int = -1) -> str:
    records = [{"prompt": f"{n}?", "chosen": f"{n}", "rejected": f"{n}" if n == twin else "no"} for n in range(40)]
    path = place.write("pairs.jsonl", "".join(json.dumps(r) + "\n" for r in records))
    label = f'[[stage]]\nid = "pairs"\nkind = "label"\ndata = {{ kind = "pairs", path = "{path}" }}\n'
    reward = '[[stage]]\nid = "reward"\nkind = "reward"\nmodel = "base"\ngroups = "pairs"\njudge = "pairs"\n'
    return TOKENIZER + BASE + label + reward


def test_a_pair_whose_chosen_equals_its_rejected(place: Place) -> None:
    says = place.refused(pairs(place, twin=30))
    where = f"{place.folder / 'pairs.jsonl'} line 31"
    assert says == (
        f"{where}: field 'chosen' equals field 'rejected'; fix the pair or remove it or set on_error = \"skip\""
    )
    assert place.run(pairs(place)).code == 0


# 8: a group with one completion given to the reward stage


def test_a_group_with_one_completion_for_the_reward_stage(place: Place) -> None:
    reward = '[[stage]]\nid = "reward"\nkind = "reward"\nmodel = "sft"\ngroups = "rankings"\njudge = "annotator"\n'
    recipe = TOKENIZER + BASE + SFT + SAMPLES + RANKINGS + reward
    says = place.refused(recipe, "--set", "samples.sampling.n=1")
    assert (
        says.startswith("group phrasebook/prompts/0/") and "has 1 completion, but a reward model needs at least" in says
    )
    assert says.endswith("two for each prompt: sample with sampling.n ≥ 2")
    assert place.finished() == ["tokenizer", "base", "sft", "samples", "rankings"]


# 9: NaN in a loss


def test_a_loss_that_is_not_finite(place: Place) -> None:
    words = ("--checkpoint-s", 0, "--set", "sft.optim.lr=1e30", "--set", "sft.optim.warmup=0")
    says = place.refused(TOKENIZER + BASE + SFT, *words)
    (checkpoint,) = place.out.glob("sft-*/checkpoints/00000001")
    what = r"the (loss|gradient of the policy) is not finite at step 2, in a batch of the groups phrasebook/demonstrat"
    assert re.match(what, says)
    assert says.endswith(f"the last good checkpoint is {checkpoint}: lower the learning rate or fix those groups")
    assert place.finished() == ["tokenizer", "base"]
    base = weights(place.out)
    assert place.run(TOKENIZER + BASE + SFT).code == 0
    assert base.items() <= weights(place.out).items()


def test_a_judge_that_says_infinity(place: Place) -> None:
    place.write("infinite_judge.py", "def judge(completion):\n    return float('inf')\n")
    rl = '[[stage]]\nid = "rl"\nkind = "rl"\npolicy = "sft"\njudge = "infinite_judge:judge"\nprompts_per_round = 4\n'
    rl += 'prompts = { kind = "phrasebook", part = "prompts", count = 9 }\nsampling = { n = 2, max_tokens = 4 }\n'
    says = place.refused(TOKENIZER + BASE + SFT + rl)
    assert re.match(r"the judge verifier gave inf to completion 1 of the group phrasebook/prompts/0/\S+: fix it", says)
    assert place.finished() == ["tokenizer", "base", "sft"]


# 10: a full disk


@contextlib.contextmanager
def mounted(disk: Path) -> Iterator[Callable[[], object]]:
    """A disk of 220 KiB; call what is yielded to give it room."""
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o"]
    if os.geteuid() or subprocess.run([*mount, "size=220k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("a small disk can be mounted only by root with the right to mount")
    try:
        yield lambda: subprocess.run([*mount, "remount,size=8m", "tmpfs", str(disk)], check=True)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@contextlib.contextmanager
def limited(disk: Path) -> Iterator[Callable[[], object]]:
    """No file above 60 KiB: the system's own refusal, for those who are not root."""
    disk.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60 * 1024, before[1]))
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("small", [mounted, limited])
def test_a_full_disk(place: Place, small: Callable[[Path], contextlib.AbstractContextManager]) -> None:
    recipe = TOKENIZER + BASE + SFT
    assert place.run(recipe, "--checkpoint-s", 0).code == 0
    whole = weights(place.out)
    with small(place.folder / "disk") as make_room:
        place.out = place.folder / "disk" / "run"
        says = place.refused(recipe, "--checkpoint-s", 0)
        assert says.startswith(f"the disk is full while writing {place.out}")
        assert says.endswith("free some space and run the same command again, it continues from the last checkpoint")
        again = place.refused(recipe, "--checkpoint-s", 0)  # still full: the same sentence, and no harm
        assert again.startswith("the disk is full while writing ")
        before = place.finished()
        make_room()
        assert place.run(recipe, "--checkpoint-s", 0).code == 0
        assert before and set(before) < set(place.finished())
        assert weights(place.out) == whole


# 11: a run folder that another process is using


def test_a_run_folder_in_use(place: Place) -> None:
    with Run(place.out):
        says = place.refused(TOKENIZER)
        held = sorted(p.name for p in place.out.iterdir())
    wanted = f"(number {os.getpid()}): wait for it, stop it, or give another --out"
    assert says == f"{place.out} is in use by another process {wanted}"
    assert held == [".lock"]  # it has touched nothing
    assert place.run(TOKENIZER).code == 0


# and what is near to these


def test_a_recipe_that_is_not_toml(place: Place) -> None:
    assert "r.toml is not a valid TOML file (" in place.refused("[[stage]\n")


def test_a_run_folder_that_cannot_be_one(place: Place) -> None:
    place.out = place.write("file", "x")
    assert place.refused(TOKENIZER) == f"{place.out} cannot be written (File exists): choose another --out"
    place.out = place.out / "inside"
    assert place.refused(TOKENIZER) == f"{place.out} cannot be written (Not a directory): choose another --out"


def test_a_run_folder_that_may_not_be_written(place: Place) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (place.folder / "locked").mkdir(mode=0o500)
    place.out = place.folder / "locked" / "run"
    says = place.refused(TOKENIZER)
    assert says == f"{place.out} cannot be written (Permission denied): choose another --out"
