"""The thread that runs models: answers side by side, failures in a sentence, real models from their folders."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from talkers import Broken, Talker

from tropism.engines.scripted import Scripted
from tropism.errors import TropismError
from tropism.models.folder import save
from tropism.types import Message
from tropism.web.models import AT_ONCE, SAMPLING, Failed, Models, named

HELLO = [Message("user", "hello")]


async def answer(models: Models, name: str, seen: list[str] | None = None, seed: int = 0) -> str:
    text = ""
    async for piece in models.stream(name, HELLO, seed):
        text += piece
        if seen is not None:
            seen.append(name)
    return text


def all_of(*answers: Any) -> list[Any]:
    async def gathered() -> list[Any]:
        return await asyncio.wait_for(asyncio.gather(*answers, return_exceptions=True), 20)

    return run(gathered())


def run(made: Coroutine[Any, Any, Any]) -> Any:
    """In a thread of its own: that of the tests may be in the event loop of the browser's tests."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, made).result()


def test_answers_come_in_turn_token_by_token():
    models, seen = Models({"a": Talker("1 2 3 4 5 6", 0.01), "b": Talker("1 2 3 4 5 6", 0.01)}), []
    assert all_of(answer(models, "a", seen), answer(models, "b", seen)) == ["1 2 3 4 5 6 (turn 1). "] * 2
    changes = sum(one != other for one, other in itertools.pairwise(seen))
    assert len(seen) == 16 and changes >= 8  # one after the other would be 1


def test_more_than_there_are_places_for_wait_and_get_their_answers():
    models = Models({"a": Talker("1 2 3")})
    assert all_of(*(answer(models, "a") for _ in range(3 * AT_ONCE))) == ["1 2 3 (turn 1). "] * 3 * AT_ONCE


def test_a_failure_is_one_sentence_and_others_go_on():
    models = Models({"fine": Talker("1 2 3", 0.01), "torn": Broken(), "mute": Scripted()})
    torn, fine, mute = all_of(answer(models, "torn"), answer(models, "fine"), answer(models, "mute"))
    assert fine == "1 2 3 (turn 1). "
    assert isinstance(torn, Failed) and "the model torn gave no answer: RuntimeError" in str(torn)
    assert isinstance(mute, Failed) and "the script has no answer to 'hello'" in str(mute)
    assert all_of(answer(models, "fine")) == ["1 2 3 (turn 1). "]


def test_who_leaves_frees_the_place():
    talker = Talker(" ".join("x" * 500), 0.01)
    models = Models({"a": talker, "b": Talker("1")})

    async def leave() -> None:
        pieces = models.stream("a", HELLO, 0)
        await anext(pieces)
        await pieces.aclose()

    run(leave())
    start = time.monotonic()
    assert all_of(answer(models, "b")) == ["1 (turn 1). "]
    assert time.monotonic() - start < 2.5  # the other answer would have taken five seconds


def test_an_engine_that_does_not_stream_answers_in_one_piece():
    models, seen = Models({"s": Scripted({"hello": ("hi there",)})}), []
    assert all_of(answer(models, "s", seen)) == ["hi there"] and seen == ["s"]


def test_a_folder_is_opened_when_it_is_asked(make_model: Callable[..., Any], words: Any, tmp_path: Path):
    """Two sides of one real model at once say what each says alone, and no more than its context holds."""
    save(make_model(), words, tmp_path / "m")
    models = Models({"m": str(tmp_path / "m"), "gone": str(tmp_path / "none")})
    alone = [all_of(answer(models, "m", seed=seed))[0] for seed in (1, 2)]
    assert alone[0] != alone[1] and all(isinstance(text, str) and text for text in alone)
    assert all_of(answer(models, "m", seed=1), answer(models, "m", seed=2)) == alone
    (gone,) = all_of(answer(models, "gone"))
    assert isinstance(gone, Failed) and "\n" not in str(gone)
    assert SAMPLING.temperature > 0  # or another answer would be the same one


def test_models_by_name(tmp_path: Path):
    folder = str(tmp_path)
    assert named([f"mine={folder}", "theirs=owner/name"]) == {"mine": folder, "theirs": "owner/name"}
    for wrong, word in (("no name", "NAME=FOLDER"), ("=x", "NAME=FOLDER"), (f"a={folder}/none", "no folder")):
        with pytest.raises(TropismError, match=word):
            named([wrong])
    with pytest.raises(TropismError, match="two models"):
        named([f"a={folder}", f"a={folder}"])
