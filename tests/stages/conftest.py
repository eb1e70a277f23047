"""For the stages: a run that says nothing, and folders with tiny models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tropism.models.folder import save
from tropism.store.progress import Reporter
from tropism.store.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Run(tmp_path / "run", reporter=Reporter(quiet=True)) as made:
        yield made


@pytest.fixture(scope="session")
def model_folder(
    tmp_path_factory: pytest.TempPathFactory,
    words: PreTrainedTokenizerFast,
    make_model: Callable[..., PreTrainedModel],
) -> str:
    """A Llama of 128 tokens of context with a chat template."""
    folder = tmp_path_factory.mktemp("llama")
    save(make_model(), words, folder)
    return str(folder)


@pytest.fixture(scope="session")
def other_folder(
    tmp_path_factory: pytest.TempPathFactory,
    words: PreTrainedTokenizerFast,
    make_model: Callable[..., PreTrainedModel],
) -> str:
    """The same with other weights."""
    folder = tmp_path_factory.mktemp("other")
    save(make_model(seed=1), words, folder)
    return str(folder)


@pytest.fixture(scope="session")
def bare_folder(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., PreTrainedModel]) -> str:
    """A GPT-NeoX with a tokenizer of its own: no chat template, one special token, fewer tokens than embeddings."""
    folder = tmp_path_factory.mktemp("neox")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        ["once upon a time there was a king"] * 3,
        trainers.BpeTrainer(vocab_size=280, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False),
    )
    own = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>", bos_token="<eos>")
    save(make_model("gpt_neox"), own, folder)
    return str(folder)
