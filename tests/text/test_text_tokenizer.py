from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoTokenizer

from tropism.errors import TropismError
from tropism.text.chat import document_ends
from tropism.text.tokenizer import identity, load_tokenizer, train_tokenizer

TEXTS = [f"French: {n} jours\nEnglish: {n} days\nРусский: {n} дней\n\n" for n in range(200)]
SPECIAL = ["<|endoftext|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


def random_text(rng: random.Random) -> str:
    pieces = [*SPECIAL, " ", "  ", "\n", "\r\n", "\t", "'s", " 12", "³", "٣", "é", "e\u0301", "日本", "👩‍👩‍👧", "\0"]
    code = [c for c in (rng.randrange(0x110000) for _ in range(20)) if not 0xD800 <= c < 0xE000]
    return "".join(rng.choice([rng.choice(pieces), chr(rng.choice(code))]) for _ in range(rng.randrange(30)))


def test_any_text_comes_back_unchanged(tokenizer):
    rng = random.Random(0)
    for _ in range(300):
        text = random_text(rng)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_are_single_tokens():
    texts = ("2026", " 26", "3.14", "a1b22", "1,000,000")
    tokenizer = train_tokenizer(texts * 50, 300)  # where digits would be merged if they could
    for text in texts:
        pieces = [tokenizer.decode([token]) for token in tokenizer.encode(text)]
        assert [p for p in pieces if any(c.isdigit() for c in p)] == [c for c in text if c.isdigit()]


def test_merges_are_those_of_the_textbook_example():
    # u+g stands 10+5+5 = 20 times, u+n 12+4 = 16 times, then h+ug 10+5 = 15 times
    words = {"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}
    made = train_tokenizer([word for word, count in words.items() for _ in range(count)], 263 + 3)
    assert [made.decode([token]) for token in range(263, 266)] == ["ug", "un", "hug"]
    assert [made.decode([token]) for token in made.encode("hugpun")] == ["hug", "p", "un"]


def test_size_is_exact_and_smaller_only_when_nothing_is_left_to_merge(tokenizer):
    assert len(tokenizer) == 300
    assert len(train_tokenizer(["ab"], 300)) == 263 + 1
    assert len(train_tokenizer([], 263)) == 263


@pytest.mark.parametrize("size", [0, 256, 262])
def test_a_size_without_room_for_the_bytes_names_its_key(size):
    with pytest.raises(TropismError, match=f"vocab_size = {size} .* set vocab_size to 263 or more"):
        train_tokenizer(TEXTS, size)


def test_special_tokens_are_distinct_and_none_is_put_before_a_text(tokenizer):
    assert tokenizer.convert_tokens_to_ids(SPECIAL) == list(range(7))
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (SPECIAL[0], SPECIAL[6], SPECIAL[1])
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    assert tokenizer.encode("<|user|>x<|end|>") == [3, *tokenizer.encode("x"), 6]
    assert len(tokenizer("x").input_ids) == 1
    assert document_ends(tokenizer) == (0, 0)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "gpt_neox"])
def test_a_model_folder_gives_the_same_tokenizer_back(tokenizer, tmp_path, kind):
    tokenizer.save_pretrained(tmp_path)
    AutoConfig.for_model(kind).save_pretrained(tmp_path)
    back = load_tokenizer(tmp_path)
    text = "  26 jours\n\n 7 дней , isn't it ?<|end|> "
    assert back.encode(text) == tokenizer.encode(text)
    assert back.decode(back.encode(text)) == text
    assert back.chat_template == tokenizer.chat_template
    assert (len(back), back.special_tokens_map) == (len(tokenizer), tokenizer.special_tokens_map)
    assert back.all_special_ids == tokenizer.all_special_ids


def test_a_fresh_process_trains_the_same_and_reads_what_was_saved(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "here")
    code = (
        "import json, sys\n"
        "import tropism.text.tokenizer as t, tropism.text.chat\n"
        "light = not {'torch', 'transformers'} & set(sys.modules)\n"
        "from transformers import AutoTokenizer\n"
        "t.train_tokenizer(json.load(sys.stdin), 300).save_pretrained(sys.argv[1] + '/there')\n"
        "turns = [{'role': 'user', 'content': '26 days'}, {'role': 'assistant', 'content': '26 jours'}]\n"
        "ids = AutoTokenizer.from_pretrained(sys.argv[1] + '/here').apply_chat_template(turns, return_dict=False)\n"
        "print(json.dumps([light, ids]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        input=json.dumps(TEXTS),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "7", "TOKENIZERS_PARALLELISM": "false"},
    )
    assert done.returncode == 0, done.stderr
    light, ids = json.loads(done.stdout.splitlines()[-1])
    assert light, "importing tropism.text loads torch or transformers"
    assert ids == tokenizer.encode("<|user|>26 days<|end|><|assistant|>26 jours<|end|>")
    here, there = (tmp_path / name / "tokenizer.json" for name in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()


def test_a_missing_folder_an_empty_one_and_a_torn_file_are_named(tokenizer, tmp_path):
    with pytest.raises(TropismError, match=r"there is no tokenizer folder .*missing"):
        load_tokenizer(tmp_path / "missing")
    with pytest.raises(TropismError, match=r"there is no tokenizer folder ./missing"):
        load_tokenizer("./missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TropismError, match=r"no tokenizer can be read from .*empty"):
        load_tokenizer(tmp_path / "empty")
    tokenizer.save_pretrained(tmp_path / "torn")
    file = Path(tmp_path / "torn" / "tokenizer.json")
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(TropismError, match=r"no tokenizer can be read from .*torn") as caught:
        load_tokenizer(str(tmp_path / "torn"))
    assert "\n" not in str(caught.value)


def test_document_ends_of_foreign_tokenizers(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)

    def ends(bos: str | None, eos: str | None) -> tuple[int, int]:
        other = AutoTokenizer.from_pretrained(tmp_path)
        other.bos_token, other.eos_token = bos, eos
        return document_ends(other)

    assert ends("<|system|>", "<|tool|>") == (2, 5)
    assert ends(None, "<|tool|>") == (5, 5)
    assert ends("<|system|>", None) == (2, 2)
    assert ends("<|endoftext|>", "<|endoftext|>") == (0, 0)
    with pytest.raises(TropismError, match="neither a bos nor an eos"):
        ends(None, None)


def test_an_identity_is_that_of_the_vocabulary(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    back = load_tokenizer(tmp_path)
    assert identity(back) == identity(tokenizer) == identity(train_tokenizer(TEXTS, 300))
    assert identity(train_tokenizer(TEXTS, 301)) != identity(tokenizer)
    back.chat_template = "{{ messages }}"
    assert identity(back) == identity(tokenizer)
    back.add_tokens(["<new>"])
    assert identity(back) != identity(tokenizer)
