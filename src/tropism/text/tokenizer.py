"""Tokenizers: train a byte-level BPE, or load any Hugging Face tokenizer unchanged.

BPE: Sennrich et al. 2016 (arXiv 1508.07909), over bytes as in GPT-2. Decoding gives back every text unchanged.
Each digit is a token of its own, so that a number has the same tokens everywhere. A trained tokenizer has the
special tokens and the chat template of `text/template.py`; its saved folder loads with `AutoTokenizer`.

Left out: normalisation (it would change the text), unigram models (one algorithm is enough here), a token for
unknown text (every byte is in the vocabulary).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from tropism.errors import TropismError
from tropism.text.template import DOCUMENT, END, MARKERS, PAD, TEMPLATE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `vocab_size` tokens, special tokens and the 256 bytes included.

    It has fewer only if `texts` have no more pairs to merge. The same texts give the same tokenizer. Raises
    TropismError if `vocab_size` has no room for the bytes and the special tokens.
    """
    special = (DOCUMENT, PAD, *MARKERS, END)
    smallest = 256 + len(special)
    if vocab_size < smallest:
        raise TropismError(
            f"vocab_size = {vocab_size} has no room for the 256 bytes and {len(special)} special tokens: "
            f"set vocab_size to {smallest} or more"
        )
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=DOCUMENT,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=list(MARKERS),
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id. Raises TropismError if there is none or it cannot be read."""
    folder = Path(path)
    hub_id = len(folder.parts) <= 2 and not str(path).startswith((".", "~", "/"))
    if not folder.is_dir() and (isinstance(path, Path) or not hub_id):
        raise TropismError(f"there is no tokenizer folder {path}: give the folder of a stage's result, or a hub id")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path)
    except Exception as error:  # the tokenizers library raises a plain Exception for a damaged file
        reason = str(error).strip().split("\n")[0].rstrip(".: ")
        raise TropismError(
            f"no tokenizer can be read from {path} ({reason}): give a folder with a whole tokenizer.json, or a hub id"
        ) from None


def identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """A name for the vocabulary: equal for two tokenizers if every id means the same piece of text in both."""
    return _identity(tokenizer, len(tokenizer))


@lru_cache(maxsize=32)
def _identity(tokenizer: PreTrainedTokenizerBase, size: int) -> str:  # a changed `size` renews the cache
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
    return hashlib.blake2b(repr(pieces).encode(), digest_size=8).hexdigest()
