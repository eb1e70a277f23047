"""Published chat templates, each with a tiny tokenizer that has its special tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from text_tokenizers import byte_level
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

FOLDER = Path(__file__).parent / "templates"
NAMES = sorted(file.stem for file in FOLDER.glob("*.jinja") if not file.stem.endswith("_training"))
_SPECIAL = re.compile(r"<\|[\w/]+\|?>|<[\w]+\|>|<｜[^｜]+｜>|<(?:start|end)_of_turn>|\[gMASK\]|<sop>")
_PLAIN = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_ENDS = {  # bos and eos
    "cohere": ("<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"),
    "deepseek": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "gemma4": ("<bos>", "<turn|>"),
    "gemma": ("<bos>", "<eos>"),
    "glm": (None, "<|endoftext|>"),
    "gptoss": ("<|startoftext|>", "<|return|>"),
    "lfm2": ("<|startoftext|>", "<|im_end|>"),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>"),
    "muse": ("<|begin_of_text|>", "<|eot|>"),
    "nemotron": ("<s>", "<|im_end|>"),
    "phi3": ("<s>", "<|endoftext|>"),
    "qwen": (None, "<|im_end|>"),
}


def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    template = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    bos, eos = next(ends for family, ends in _ENDS.items() if name.startswith(family))
    tokenizer = byte_level(template)
    special = sorted({*_SPECIAL.findall(template), *filter(None, (bos, eos))})
    swallows = name.startswith("phi3")  # its control tokens take the blanks after them
    tokenizer.add_special_tokens(
        {
            "extra_special_tokens": [
                AddedToken(t, special=True, normalized=False, rstrip=swallows and t not in (bos, eos)) for t in special
            ]
        }
    )
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in _PLAIN])
    tokenizer.bos_token, tokenizer.eos_token = bos, eos
    return tokenizer


@dataclass(frozen=True)
class Facts:
    """What a template is known to write, by hand: the prompt's end, the answer "A2" as the model says it, how thoughts
    stand before it, whether every turn of a chat can be trained, and whether it takes system and
    tool turns (Phi-3 and Gemma 4 leave a tool's turn out without a word)."""

    prompt: str
    said: str
    thought: str = ""
    turns: str = "all"
    system: bool = True
    tool: bool = True


_IM, _QWEN, _TAGS = "<|im_start|>assistant\n", "<|im_end|>", "<think>\nT\n</think>\n\n"
_OPEN, _EMPTY = "T\n</think>\n\n", "\n</think>\n\n"
_LLAMA = "<|start_header_id|>assistant<|end_header_id|>\n\n"
_GEMMA, _COHERE = "<start_of_turn>model\n", "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
_DEEPSEEK = Facts("<｜Assistant｜><think>\n", _EMPTY + "A2<｜end▁of▁sentence｜>", _OPEN, "last")
_THINKS = Facts(_IM + "<think>\n", _EMPTY + "A2" + _QWEN, _OPEN, "last")
_PHI = Facts("<|assistant|>", "A2<|end|>", _TAGS)
_PLAIN_LLAMA = Facts(_LLAMA, "A2<|eot_id|>", _TAGS)
_CHATML = Facts(_IM, "A2" + _QWEN, _TAGS)
FACTS = {
    "cohere": Facts(_COHERE, "A2<|END_OF_TURN_TOKEN|>", _TAGS, tool=False),
    "cohere2": Facts(_COHERE + "<|START_RESPONSE|>", "A2<|END_RESPONSE|><|END_OF_TURN_TOKEN|>", _TAGS, tool=False),
    "deepseek_r1_distill": _DEEPSEEK,
    "deepseekv3": _DEEPSEEK,
    "gemma": Facts(_GEMMA, "A2<end_of_turn>", _TAGS, system=False, tool=False),
    "gemma3": Facts(_GEMMA, "A2<end_of_turn>", _TAGS, tool=False),
    "gemma4_v5": Facts("<|turn>model\n", "A2<turn|>", "<|channel>thought\nT\n<channel|>", tool=False),
    "glm4moe": Facts("<|assistant|>", "\n<think></think>\nA2<|user|>", "\n<think>T</think>\n"),
    "gptoss": Facts(
        "<|start|>assistant",
        "<|channel|>final<|message|>A2<|return|>",
        "<|channel|>analysis<|message|>T<|end|><|start|>assistant<|channel|>final<|message|>",
        "last",
        tool=False,
    ),
    "lfm2": _CHATML,
    "lfm2_2_5": _CHATML,
    "lfm2_v2": _CHATML,
    "llama3": _PLAIN_LLAMA,
    "llama3_1": _PLAIN_LLAMA,
    "llama3_2": _PLAIN_LLAMA,
    "muse_glimmer": Facts(
        "<|start|>assistant",
        " to=user<|message|>A2<|eot|>",
        " to=self<|message|>T<|eom|><|start|>assistant to=user<|message|>",
    ),
    "nemotron_3_nano": _THINKS,
    "nemotron_3_super": _THINKS,
    "nemotron_3_ultra": _THINKS,
    "phi3": replace(_PHI, tool=False),
    "phi3_5": replace(_PHI, tool=False),
    "qwen2_5": _CHATML,
    "qwen3": Facts(_IM, "<think>\n\n</think>\n\nA2" + _QWEN, _TAGS, "last"),
    "qwen3_5_nothink": Facts(_IM + "<think>\n\n</think>\n\n", "A2" + _QWEN, _TAGS, "last"),
    "qwen3_5_think": _THINKS,
    "qwen3_6": _THINKS,
    "qwen3_8": replace(_THINKS, turns="all"),
    "qwen3_instruct_2507": _CHATML,
}
