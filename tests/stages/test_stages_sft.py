"""The sft stage alone; its figures against a plain forward pass of transformers."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tropism.errors import TropismError
from tropism.formats.chat import Chat
from tropism.formats.phrasebook import Phrasebook
from tropism.stages import sft
from tropism.stages.sft import SFT
from tropism.store.folder import done
from tropism.store.run import Run
from tropism.train.optim import Optim
from tropism.types import Group

DATA = Phrasebook("demonstrations", count=40)
FAST = Optim(lr=1e-2)


def held_out_by_hand(share: float) -> tuple[list[Group], list[Group]]:
    """(train, test) of DATA, by the hash of the prompt that docs and code promise, written anew."""

    def number(group: Group) -> float:
        digest = hashlib.sha256(f"user\x01{group.prompt[0].content}".encode()).hexdigest()
        return int(digest[:16], 16) / 16**16

    groups = list(DATA.groups())
    return [g for g in groups if number(g) >= share], [g for g in groups if number(g) < share]


def facts(out: Path) -> dict[str, Any]:
    meta = done(out.parent)
    assert meta is not None
    return meta["facts"]


def plain_loss(folder: Path | str, groups: list[Any]) -> float:
    """Nats per token of the answers, their stop tokens included, one conversation at a time."""
    model, words = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    total, count = 0.0, 0
    for group in groups:
        asked = [{"role": m.role, "content": m.content} for m in group.prompt]
        prompt = words.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        question = words.encode(prompt, add_special_tokens=False)
        answer = words.encode(group.completions[0].text + words.eos_token, add_special_tokens=False)
        ids = torch.tensor([question + answer])
        with torch.no_grad():
            logp = model(ids).logits.log_softmax(-1)[0, len(question) - 1 : -1]
        total -= logp.gather(1, torch.tensor(answer)[:, None]).sum().item()
        count += len(answer)
    return total / count


def test_the_held_out_loss_falls_and_is_that_of_a_plain_forward_pass(run: Run, model_folder: str) -> None:
    out = run(SFT(model_folder, DATA, steps=25, groups_per_step=8, held_out=0.1, optim=FAST))
    train, held_out = held_out_by_hand(0.1)
    said = facts(out)
    assert said["held_out_loss_before"] == pytest.approx(plain_loss(model_folder, held_out), abs=2e-4)
    assert said["held_out_loss"] == pytest.approx(plain_loss(out, held_out), abs=2e-4)
    assert said["held_out_loss"] < said["held_out_loss_before"] - 0.5
    assert said["demonstrations"] == len(train) == 40 - len(held_out) and held_out
    assert AutoTokenizer.from_pretrained(out).chat_template is not None


@pytest.fixture
def long_and_short(tmp_path: Path) -> Chat:
    """Ten short conversations and, in line 4, one that does not fit 128 tokens."""
    answers = ["x" * (300 if n == 3 else 3) for n in range(11)]
    turns = [({"role": "user", "content": "jours?"}, {"role": "assistant", "content": a}) for a in answers]
    lines = [{"messages": list(pair)} for pair in turns]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Chat(str(tmp_path / "chats.jsonl"))


def test_a_demonstration_that_is_too_long_is_named(run: Run, model_folder: str, long_and_short: Chat) -> None:
    with pytest.raises(TropismError, match=r"group chats.jsonl:4 needs \d+ tokens and the model's context is 128"):
        run(SFT(model_folder, long_and_short, steps=1))


def test_or_left_out_and_counted(run: Run, model_folder: str, long_and_short: Chat) -> None:
    out = run(SFT(model_folder, long_and_short, steps=1, held_out=0.0, too_long="skip"))
    assert facts(out)["too_long"] == 1 and facts(out)["demonstrations"] == 10


def test_nothing_that_fits_is_an_error(run: Run, model_folder: str, tmp_path: Path) -> None:
    record = {"messages": [{"role": "user", "content": "x" * 400}, {"role": "assistant", "content": "y"}]}
    (tmp_path / "long.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(TropismError, match="no group fits the model's context"):
        run(SFT(model_folder, Chat(str(tmp_path / "long.jsonl")), steps=1, too_long="skip"))


def test_a_tokenizer_without_a_template_is_refused_with_the_remedy(run: Run, bare_folder: str) -> None:
    with pytest.raises(TropismError, match=r'has no chat template: set chat_template = "tropism" on the sft stage'):
        run(SFT(bare_folder, DATA, steps=1))


def test_or_given_one(run: Run, bare_folder: str) -> None:
    out = run(SFT(bare_folder, DATA, chat_template="tropism", steps=25, groups_per_step=8, held_out=0.1, optim=FAST))
    words, model = AutoTokenizer.from_pretrained(out), AutoModelForCausalLM.from_pretrained(out)
    _, held_out = held_out_by_hand(0.1)
    assert facts(out)["held_out_loss"] == pytest.approx(plain_loss(out, held_out), abs=2e-4)
    assert facts(out)["held_out_loss"] < facts(out)["held_out_loss_before"]
    assert words.eos_token == "<eos>" and words.encode("<|user|>", add_special_tokens=False)[1:] == []
    assert max(words.get_vocab().values()) < model.get_input_embeddings().weight.shape[0]
    assert model.config.eos_token_id == words.eos_token_id


def test_or_given_a_jinja_file(run: Run, bare_folder: str, tmp_path: Path) -> None:
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    template += "{% if add_generation_prompt %}[assistant]{% endif %}"
    (tmp_path / "own.jinja").write_text(template)
    out = run(SFT(bare_folder, DATA, chat_template=str(tmp_path / "own.jinja"), steps=2, groups_per_step=4))
    assert AutoTokenizer.from_pretrained(out).chat_template == template
    with pytest.raises(TropismError, match=r"chat_template = 'nowhere.jinja' cannot be read \(No such file"):
        run(SFT(bare_folder, DATA, chat_template="nowhere.jinja", steps=1))


def test_documents_are_no_demonstrations(run: Run, model_folder: str, tmp_path: Path) -> None:
    from tropism.formats.pairs import Pairs

    pair = {"prompt": "a", "chosen": "b", "rejected": "c"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    with pytest.raises(TropismError, match="group pairs.jsonl:1 has 2 completions: a demonstration has one"):
        run(SFT(model_folder, Pairs(str(tmp_path / "pairs.jsonl")), steps=1))


CHATML = "{% for m in messages %}<|user|>{{ m.role }}:{{ m.content }}<|end|>{% endfor %}"
CHATML += "{% if add_generation_prompt %}<|user|>assistant:{% endif %}"
# earlier answers lose their thoughts, a first system turn is refused, an argument stands in front
STRIPS = (
    "{{ greeting }}{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    + CHATML.replace(
        "{{ m.content }}",
        "{{ m.content if loop.last or m.role != 'assistant' else m.content.split('</think>') | last }}",
    )
)


def templated(folder: str, template: str, path: Path) -> str:
    """The model with another chat template."""
    shutil.copytree(folder, path)
    words = AutoTokenizer.from_pretrained(path)
    words.chat_template = template
    words.save_pretrained(path)
    return str(path)


@pytest.fixture
def talks(tmp_path: Path) -> str:
    """Two conversations of two turns, of which one thinks, and one of one turn."""
    turn = [{"role": "user", "content": "7 days"}, {"role": "assistant", "content": "7 jours"}]
    thought = [turn[0], {"role": "assistant", "content": "<think>7</think>7 jours"}]
    lines = [{"messages": m} for m in (turn + turn, thought + turn, thought)]
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(tmp_path / "talks.jsonl")


def trees_of(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The trees that the stage trains on, as it makes them."""
    seen: list[Any] = []
    real = sft.demonstration

    def watched(*args: Any) -> Any:
        seen.append(real(*args))
        return seen[-1]

    monkeypatch.setattr(sft, "demonstration", watched)
    return seen


def test_a_template_that_rewrites_turns_trains_the_last_and_counts(
    run: Run, model_folder: str, talks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, seen = templated(model_folder, STRIPS, tmp_path / "model"), trees_of(monkeypatch)
    out = run(
        SFT(folder, Chat(talks), steps=1, groups_per_step=1, held_out=0.0, template_arguments={"greeting": "Hi "})
    )
    assert facts(out)["last_turn_only"] == 1 and facts(out)["demonstrations"] == 3
    words = AutoTokenizer.from_pretrained(out)
    assert words.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False).startswith("Hi <|user|>")
    assert all(words.decode(tree.prompt).startswith("Hi <|user|>") for tree in seen)
    said = [words.decode([t for t, m in zip(tree.completions[0], tree.trained[0]) if m]) for tree in seen]
    assert said == ["7 jours<|end|>" * 2, "7 jours<|end|>", "<think>7</think>7 jours<|end|>"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"train_on": "last"}, ["7 jours<|end|>", "7 jours<|end|>", "<think>7</think>7 jours<|end|>"]),
        ({"thinking": "keep"}, ["7 jours<|end|>" * 2, "7 jours<|end|>" * 2, "7 jours<|end|>"]),
        ({"thinking": "drop"}, ["7 jours<|end|>" * 2, "7 jours<|end|>" * 2, "7 jours<|end|>"]),
    ],
)
def test_what_is_trained_is_a_field(
    run: Run, model_folder: str, talks: str, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], said: list[str]
) -> None:
    seen = trees_of(monkeypatch)
    out = run(SFT(model_folder, Chat(talks), steps=1, groups_per_step=1, held_out=0.0, **fields))
    words = AutoTokenizer.from_pretrained(out)
    assert "last_turn_only" not in facts(out)
    trained = [words.decode([t for t, m in zip(tree.completions[0], tree.trained[0]) if m]) for tree in seen]
    assert trained == said
    whole = [words.decode(tree.prompt + tree.completions[0]) for tree in seen]
    assert ["<think>" in text for text in whole] == [False, *[fields.get("thinking") != "drop"] * 2]


def test_what_the_template_refuses_names_the_record_and_obeys_on_error(
    run: Run, model_folder: str, talks: str, tmp_path: Path
) -> None:
    folder = templated(model_folder, STRIPS, tmp_path / "model")
    with open(talks, "a") as file:
        turns = [{"role": r, "content": "7"} for r in ("system", "user", "assistant")]
        file.write(json.dumps({"messages": turns}) + "\n")
    with pytest.raises(TropismError, match=r'group talks.jsonl:4: .* refuses .*no system turn.* set on_error = "skip"'):
        run(SFT(folder, Chat(talks), steps=1))
    out = run(SFT(folder, Chat(talks, on_error="skip"), steps=1, held_out=0.0, groups_per_step=1))
    assert facts(out)["left_out"] == 1 and facts(out)["demonstrations"] == 3


def test_an_argument_that_the_template_has_not_is_refused(run: Run, model_folder: str) -> None:
    with pytest.raises(TropismError, match="has no argument 'enable_thinking'"):
        run(SFT(model_folder, DATA, steps=1, template_arguments={"enable_thinking": False}))
