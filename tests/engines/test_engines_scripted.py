from __future__ import annotations

import pytest

from tropism.engines.scripted import Scripted
from tropism.errors import TropismError
from tropism.types import Message, SamplingParams


def test_samples_take_the_answers_in_turn():
    engine = Scripted({"Ping?": ("a", "b"), "Pong?": ("c",)})
    prompts = [(Message("system", "Be brief."), Message("user", "Ping?")), (Message("user", "Pong?"),)]
    rows = engine.generate(prompts, SamplingParams(n=3))
    assert [[c.text for c in row] for row in rows] == [["a", "b", "a"], ["c", "c", "c"]]
    engine.load({}, "new@1")
    assert engine.generate(prompts, SamplingParams(n=3)) == rows


def test_a_question_without_an_answer_is_named():
    with pytest.raises(TropismError, match=r"no answer to 'Why\?'"):
        Scripted({"Ping?": ()}).generate([(Message("user", "Why?"),)], SamplingParams())


def test_a_script_opens_as_itself_and_goes_on_from_no_prefix():
    script = Scripted({"Ping?": ("a",)})
    engine = script.open(None, None, "p@0")
    assert engine.generate([(Message("user", "Ping?"),)], SamplingParams(), [()])[0][0].text == "a"
    with pytest.raises(TropismError, match="cannot continue a prefix"):
        engine.generate([(Message("user", "Ping?"),)] * 2, SamplingParams(), [(), (3,)])
