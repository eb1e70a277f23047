"""Model and run folders with one thing wrong: (name, file, what becomes of its bytes, what is said of it)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Change = Callable[[bytes], bytes | None]  # None: the file is taken away
Case = tuple[str, str, Change, str]


def keys(**changed: Any) -> Change:
    """A JSON file with other values; None takes a key out."""

    def change(content: bytes) -> bytes:
        table = {**json.loads(content), **changed}
        return json.dumps({key: value for key, value in table.items() if value is not None}).encode()

    return change


MODELS: list[Case] = [
    ("no config", "config.json", lambda b: None, ""),
    ("config empty", "config.json", lambda b: b"", ""),
    ("config cut", "config.json", lambda b: b[:50], ""),
    ("config a list", "config.json", lambda b: b"[]", ""),
    ("config of no known kind", "config.json", keys(model_type="nosuch"), ""),
    ("config without kind", "config.json", keys(model_type=None, architectures=None), ""),
    ("config of an encoder and decoder", "config.json", keys(model_type="t5", architectures=["T5Model"]), ""),
    ("config with more layers", "config.json", keys(num_hidden_layers=6), ""),
    ("config with fewer layers", "config.json", keys(num_hidden_layers=1), ""),
    ("config with another width", "config.json", keys(hidden_size=64), ""),
    ("config with a larger vocabulary", "config.json", keys(vocab_size=5000), ""),
    ("config with heads that do not divide", "config.json", keys(num_attention_heads=3, num_key_value_heads=2), ""),
    ("no weights", "model.safetensors", lambda b: None, ""),
    ("weights empty", "model.safetensors", lambda b: b"", ""),
    ("weights cut", "model.safetensors", lambda b: b[: len(b) // 2], ""),
    ("weights a text", "model.safetensors", lambda b: b"version https://git-lfs", ""),
    ("no tokenizer", "tokenizer.json", lambda b: None, ""),
    ("tokenizer empty", "tokenizer.json", lambda b: b"", ""),
    ("tokenizer cut", "tokenizer.json", lambda b: b[: len(b) // 2], ""),
    ("tokenizer of something else", "tokenizer.json", lambda b: b'{"a": 1}', ""),
    ("template broken", "chat_template.jinja", lambda b: b"{% for m in messages %}{{ m.content }}", ""),
    ("template with an unknown filter", "chat_template.jinja", lambda b: b"{{ messages | nosuch }}", ""),
    ("template that raises", "chat_template.jinja", lambda b: b"{{ raise_exception('no') }}", ""),
    ("template of another message", "chat_template.jinja", lambda b: b"{{ messages[9].content.x.y }}", ""),
    ("template taken away", "chat_template.jinja", lambda b: None, ""),
]
JUDGES: list[tuple[str, str, str]] = [
    ("raises", "def judge(completion):\n    raise ValueError('no')\n", "ValueError (no)"),
    ("raises without words", "def judge(completion):\n    raise KeyError\n", "KeyError"),
    ("leaves", "import sys\ndef judge(completion):\n    sys.exit(0)\n", "SystemExit"),
    ("a word", "def judge(completion):\n    return 'good'\n", "'good'"),
    ("a list", "def judge(completion):\n    return [1.0]\n", "[1.0]"),
    ("asks for more", "def judge(completion, colour):\n    return 1.0\n", "needs colour"),
    ("async", "async def judge(completion):\n    return 1.0\n", "async"),
    ("no function", "judge = 3\n", ""),
    ("a class", "class judge:\n    pass\n", "is not a dataclass"),
    ("no such name", "x = 3\n", "cannot be imported"),
    ("does not parse", "def judge(completion)\n", "cannot be imported"),
    ("raises while it is read", "1 / 0\n", "ZeroDivisionError"),
    ("leaves while it is read", "import sys\nsys.exit(0)\n", "SystemExit"),
    ("imports nothing", "import no_such_module\n", "no_such_module"),
    ("divides by no letters", "def judge(completion):\n    return 1 / 0\n", "ZeroDivisionError"),
    ("never ends", "def judge(completion):\n    return judge(completion)\n", "RecursionError"),
    ("always None", "def judge(completion):\n    return None\n", "no judge scored any completion"),
    ("always NaN", "def judge(completion):\n    return float('nan')\n", "no judge scored any completion"),
]
