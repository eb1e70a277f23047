"""Tokenizers of several kinds, made without tropism, and what transformers says of a chat."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

TEXTS = [f"French: {n} jours\nEnglish: {n} days\nРусский: {n} дней\n\nhello\n\n" for n in range(200)]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    "{% else %} {{ message.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)


def byte_level(chat_template: str | None, **tokens: str) -> PreTrainedTokenizerFast:
    """A tokenizer of the GPT-2 kind."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=["<s>", "</s>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, chat_template=chat_template, **tokens)


def sentencepiece_like(chat_template: str | None) -> PreTrainedTokenizerFast:
    """A tokenizer of the Llama kind: a space goes before every text, and after every special token."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{byte:02X}>": 3 + byte for byte in range(256)}}
    for piece in ["▁", *"acdehjlorsuy<>|[]/INSTnti", "he", "▁he", "llo", "▁hello", "hello"]:
        vocab.setdefault(piece, len(vocab))
    merges = [("h", "e"), ("▁", "he"), ("l", "l"), ("ll", "o"), ("▁he", "llo"), ("he", "llo")]
    vocab["ll"] = len(vocab)
    bpe = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bpe.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=chat_template
    )


class OneByOne(PreTrainedTokenizer):
    """A tokenizer in Python ("slow"): one token a character."""

    def __init__(self, **options) -> None:
        self._vocab = {chr(32 + n): n for n in range(95)} | {"\n": 95, "\ufdd0": 96}
        super().__init__(**options)

    @property
    def vocab_size(self) -> int:
        return len(self._vocab)

    def get_vocab(self) -> dict[str, int]:
        return {**self._vocab, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **_) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self._vocab[token]

    def _convert_id_to_token(self, index: int) -> str:
        return next(token for token, id in self._vocab.items() if id == index)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)


def as_dicts(messages):
    return [{"role": m.role, "content": m.content} for m in messages]


def huggingface(tokenizer, messages, **options) -> list[int]:
    return tokenizer.apply_chat_template(as_dicts(messages), return_dict=False, **options)
