"""The pretrain stage alone; its figures against a plain forward pass of transformers."""

from __future__ import annotations

import gzip
import hashlib
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tropism.errors import TropismError
from tropism.formats.phrasebook import Phrasebook
from tropism.formats.prompts import Prompts
from tropism.formats.text import Text
from tropism.models.architecture import Architecture
from tropism.stages.pretrain import Pretrain
from tropism.store.folder import done, read_metrics
from tropism.store.run import Run
from tropism.text.chat import document_ends
from tropism.train.optim import Optim
from tropism.types import Group

DATA = Phrasebook("documents", count=60)
SMALL = Architecture(width=32, layers=1, heads=2, context=256)


def is_held_out(group: Group, share: float) -> bool:
    """By the hash of the phrase, written anew; names never are."""
    phrase = f"about\x01{group.meta['kind']} {group.meta['key']}"
    digest = hashlib.sha256(phrase.encode()).hexdigest()
    return group.meta["kind"] not in ("country", "weekday") and int(digest[:16], 16) / 16**16 < share


def facts(out: Path) -> dict:
    meta = done(out.parent)
    assert meta is not None
    return meta["facts"]


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_it_learns_and_its_bits_per_byte_are_those_of_a_plain_forward_pass(
    run: Run, model_folder: str, kind: str
) -> None:
    shape = Architecture(kind, width=32, layers=1, heads=2, context=256)  # type: ignore[arg-type]
    out = run(Pretrain(DATA, tokenizer=model_folder, model=shape, steps=20, tokens_per_step=512, held_out=0.1))
    model, words = AutoModelForCausalLM.from_pretrained(out).eval(), AutoTokenizer.from_pretrained(out)
    texts = [g.completions[0].text for g in DATA.groups() if is_held_out(g, 0.1)]
    assert 1 < len(texts) < 20
    start, end = document_ends(words)
    nats = 0.0
    for text in texts:
        ids = torch.tensor([[start, *words.encode(text, add_special_tokens=False), end]])
        nats += model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
    said = facts(out)
    size = sum(len(t.encode()) for t in texts)
    assert said["held_out_bytes"] == size
    assert said["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, abs=2e-4)
    assert said["gzip_bits_per_byte"] == round(8 * len(gzip.compress("".join(texts).encode(), 9, mtime=0)) / size, 4)
    assert said["parameters"] == sum(p.numel() for p in model.parameters()) == shape.parameters(len(words))
    losses = [m["loss"] for m in read_metrics(out.parent)]
    assert losses[-1] < losses[0] - 0.5
    assert losses[0] == pytest.approx(math.log(len(words)), abs=0.5)  # it begins knowing nothing


def test_a_model_to_go_on_from(run: Run, bare_folder: str) -> None:
    out = run(Pretrain(DATA, init=bare_folder, steps=2, tokens_per_step=256, held_out=0.0, row_tokens=64))
    assert AutoTokenizer.from_pretrained(out).get_vocab() == AutoTokenizer.from_pretrained(bare_folder).get_vocab()
    before, after = (AutoModelForCausalLM.from_pretrained(p).state_dict() for p in (bare_folder, out))
    assert before.keys() == after.keys() and any(not torch.equal(before[k], after[k]) for k in before)
    assert "held_out_loss" not in facts(out)


def test_a_document_longer_than_the_context_is_cut_and_nothing_is_lost(
    run: Run, model_folder: str, tmp_path: Path
) -> None:
    text = "один два три " * 100
    (tmp_path / "long.txt").write_text(text)
    out = run(Pretrain(Text(str(tmp_path / "long.txt")), tokenizer=model_folder, model=SMALL, steps=1, row_tokens=50))
    words = AutoTokenizer.from_pretrained(out)
    whole = len(words.encode(text, add_special_tokens=False)) + 2  # with the tokens at both ends
    pieces = math.ceil((whole - 1) / 49)
    assert (
        facts(out)["tokens_in_data"] == whole - 1 + pieces
    )  # each is trained once; each piece repeats one as its start


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"tokenizer": None}, "needs either `tokenizer`"),
        ({"init": "x/y"}, "needs either `tokenizer`"),
    ],
)
def test_wrong_settings_are_refused_at_once(more: dict, says: str) -> None:
    with pytest.raises(TropismError, match=says):
        Pretrain(**{"data": DATA, "tokenizer": "x/y", **more})


@pytest.mark.parametrize("share", [1.0, 0.7, -0.1])
def test_a_share_that_leaves_nothing_to_train_on_is_refused(run: Run, model_folder: str, share: float) -> None:
    with pytest.raises(TropismError, match=f"held_out = {share}"):
        run(Pretrain(DATA, tokenizer=model_folder, model=SMALL, steps=1, held_out=share))


def test_prompts_are_no_documents(run: Run, model_folder: str) -> None:
    with pytest.raises(TropismError, match="group prompts:1 has no text to learn from"):
        run(Pretrain(Prompts(prompts=("a",)), tokenizer=model_folder, model=SMALL, steps=1))


def test_a_tokenizer_that_is_not_there(run: Run) -> None:
    with pytest.raises(TropismError, match="there is no tokenizer folder ./nowhere"):
        run(Pretrain(DATA, tokenizer="./nowhere", model=SMALL, steps=1))


def test_a_loss_that_is_not_finite_names_step_groups_and_checkpoint(tmp_path: Path, model_folder: str) -> None:
    stage = Pretrain(
        DATA, tokenizer=model_folder, model=SMALL, steps=8, tokens_per_step=256, optim=Optim(lr=1e30, warmup=0.0)
    )
    with Run(tmp_path, checkpoint_s=0) as run, pytest.raises(TropismError) as caught:
        run(stage, "base")
    assert "is not finite at step 2, in a batch of the groups phrasebook/documents/0/" in str(caught.value)
    checkpoint = next(tmp_path.glob("base-*/checkpoints/00000001"))
    assert f"the last good checkpoint is {checkpoint}: lower the learning rate" in str(caught.value)
