"""The tokenizer stage alone."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from tropism.errors import TropismError
from tropism.formats.phrasebook import Phrasebook
from tropism.formats.prompts import Prompts
from tropism.stages.tokenizer import Tokenizer
from tropism.store.folder import done
from tropism.store.run import Run

DATA = Phrasebook("documents", count=80)


def test_it_leaves_a_tokenizer_that_others_load(run: Run) -> None:
    out = run(Tokenizer(DATA, vocab_size=300))
    words = AutoTokenizer.from_pretrained(out)
    texts = [g.completions[0].text for g in DATA.groups()]
    assert len(words) == 300 and words.chat_template is not None
    assert all(words.decode(words.encode(t, add_special_tokens=False)) == t for t in texts)
    meta = done(out.parent)
    assert meta is not None
    tokens = sum(len(words.encode(t, add_special_tokens=False)) for t in texts)
    said = meta["facts"]
    assert said["vocabulary"] == 300
    assert said["bytes_per_token"] == pytest.approx(sum(len(t.encode()) for t in texts) / tokens, abs=1e-3)
    assert said["bytes_per_token"] > 1


def test_a_vocabulary_without_room_is_refused(run: Run) -> None:
    with pytest.raises(TropismError, match="vocab_size = 200 has no room"):
        run(Tokenizer(DATA, vocab_size=200))


def test_data_without_text_are_refused(run: Run) -> None:
    with pytest.raises(TropismError, match="group prompts:1 has no text"):
        run(Tokenizer(Prompts(prompts=("a",))))
