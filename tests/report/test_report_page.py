"""report.html: well-formed, alone, safe, in order, honest about simulated people."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_runs import figure, finish, make_run, plan

from tropism.report.page import page
from tropism.report.read import read
from tropism.store import files

HEADINGS = [
    "The run",
    "The models",
    "The same prompts, answered by each",
    "Learning curves",
    "The reward model",
    "Reward, truth and KL",
    "Is the reward being hacked?",
    "Diagnostics",
    "Facts of each stage",
    "Methods",
]


class Page(HTMLParser):
    """The elements of a page; a tag that is not closed where it should be fails the test."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def within(self, tag: str) -> list[str]:
        return [data for parent, data in self.texts if parent == tag]


def made(folder: Path) -> tuple[str, Page]:
    text = page(read(folder))
    return text, Page(text)


def test_it_is_well_formed_and_in_order(tmp_path: Path) -> None:
    text, found = made(make_run(tmp_path))
    assert found.within("h1") == ["first"]
    assert found.within("h2") == HEADINGS
    assert text.index("PPO answers better than SFT") < text.index("The run")


def test_it_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    text, found = made(make_run(tmp_path, answer="see https://example.org/26-days"))
    tags = {tag for tag, _ in found.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "a", "use", "image"}
    assert not {name for _, attrs in found.elements for name in attrs} & {
        "src",
        "href",
        "xlink:href",
        "srcset",
        "style",
    }
    assert "url(" not in text
    assert "@import" not in text
    policy = next(a["content"] for t, a in found.elements if t == "meta" and a.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_an_answer_is_text_whatever_it_says(tmp_path: Path) -> None:
    nasty = "</p><script>alert(1)</script><b onclick='x'>\"&\x00\x1b\x9f"
    text, found = made(make_run(tmp_path, answer=nasty, name="<i>"))
    assert "<script" not in text
    assert "</p><script>alert(1)</script><b onclick='x'>\"&���" in found.within("p")
    assert not [attrs for _, attrs in found.elements if "onclick" in attrs]


def test_a_recipe_s_and_a_stage_s_name_are_text_too(tmp_path: Path) -> None:
    stage = {"id": "<b>", "fields": {"kind": "<i>:X"}}
    files.write_json(
        tmp_path / "recipe.json", {"name": "<u>", "seed": 0, "stages": {"<b>": {}}, "folders": {"<b>": "<b>-0123abcd"}}
    )
    (folder := tmp_path / "<b>-0123abcd").mkdir()
    files.write_json(folder / "stage.json", stage)
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0, "round": 1, "reward": 0.5}\n')
    files.seal(folder, {"seconds": 1.0, "facts": {"<s>": "<q>"}}, "DONE")
    _, found = made(tmp_path)
    assert not {tag for tag, _ in found.elements} & {"b", "i", "u", "s", "q"}
    assert found.within("h1") == ["<u>"]


def test_right_answers_are_marked_in_words(tmp_path: Path) -> None:
    _, found = made(make_run(tmp_path, answer=" 26 days\n"))
    assert found.within("b").count("✓ right") == 12  # PPO's twelve; base and SFT are wrong in every row
    assert found.within("b").count("✗") == 24


def test_every_plot_has_a_name_and_its_points_their_numbers(tmp_path: Path) -> None:
    _, found = made(make_run(tmp_path))
    plots = [attrs for tag, attrs in found.elements if tag == "svg" and "role" in attrs]
    assert len(plots) >= 15
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in plots)
    titles = found.within("title")
    assert "PPO, sampled: 45\u202f% (95 % interval 40\u202f% to 50\u202f%)" in titles
    assert "loss: 1.35 at step 20" in titles  # 0.8 + (6.3 - 0.8) / 10
    assert "said 0.52, was 0.50 of 500 pairs" in titles


def test_simulated_people_are_called_simulated(tmp_path: Path) -> None:
    text, _ = made(make_run(tmp_path))
    assert "The demonstrators and annotators of this run are simulated" in text
    plan(people := tmp_path / "people")
    finish(people, "sft", data={"kind": "tropism.formats.chat:Chat"})
    text, _ = made(people)
    assert "simulated" not in text


def test_hacking_is_told_beside_its_plot(tmp_path: Path) -> None:
    _, found = made(make_run(tmp_path, truth=(0.58, 0.3)))
    (caption,) = [said for said in found.within("p") if said.startswith("A dot is a round")]
    assert "Here they part: from round 1 to 60 the learned reward rose from 0.08 to 0.82" in caption
    _, found = made(make_run(tmp_path, name="honest"))
    (caption,) = [said for said in found.within("p") if said.startswith("A dot is a round")]
    assert caption.endswith("Here no fall of the true quality under a rising reward can be told from noise.")


def test_losses_say_what_they_beat(tmp_path: Path) -> None:
    _, found = made(make_run(tmp_path))
    assert "Held out: 0.661 bits per byte; gzip needs 2.21." in found.within("p")
    assert "Held out: 6.36 before, 1.1 after." in found.within("p")


def test_a_run_of_real_text_has_no_exact_match_and_no_truth(tmp_path: Path) -> None:
    plan(tmp_path)
    models = {n: {"n": 50, "stop_rate": figure(0.5), "reward": figure(r)} for n, r in (("sft", 0.0), ("ppo", 0.7))}
    answer = {"prompt": ["Why?"], "greedy": "", "sampled": "", "quality": None, "reward": 0.3}
    answers = [{"id": "a", "target": None, "models": {"sft": answer, "ppo": answer}}]
    finish(tmp_path, "evaluation", found={"over": "sft", "models": models, "answers": answers})
    text, found = made(tmp_path)
    assert "exact match" not in text.lower()
    assert "✓" not in text
    assert "(nothing)" in found.within("p")
    assert found.within("h2") == [*HEADINGS[:3], "Methods"]


@pytest.mark.parametrize("missing", ["truth", "kl", "explained_variance"])
def test_a_round_without_a_metric_is_drawn_without_it(tmp_path: Path, missing: str) -> None:
    plan(tmp_path)
    lines = [
        {"round": i, "reward": 0.1 * i, "truth": 0.5, "kl": 0.1 * i, "explained_variance": 0.1} for i in range(1, 4)
    ]
    finish(tmp_path, "ppo", [{k: v for k, v in line.items() if k != missing} for line in lines])
    _, found = made(tmp_path)
    assert ("Is the reward being hacked?" in found.within("h2")) == (missing == "explained_variance")
    assert ("Diagnostics" in found.within("h2")) == (missing != "explained_variance")


def test_a_long_answer_is_cut(tmp_path: Path) -> None:
    _, found = made(make_run(tmp_path, answer="ha" * 1000))
    assert max(len(said) for said in found.within("p") if re.fullmatch(r"(ha)+ …", said)) == 282


def test_proxy_and_truth_stand_over_the_distance_of_their_own_round(tmp_path: Path) -> None:
    # rewards 1, 3, 2: mean 2, standard deviation sqrt(2/3), so 3 stands at +1.225, in the round with KL 4, the farthest
    plan(tmp_path)
    rewards, kls = (1.0, 3.0, 2.0), (0.0, 4.0, 1.0)
    lines = [{"round": i, "reward": r, "truth": -r, "kl": kl} for i, (r, kl) in enumerate(zip(rewards, kls))]
    finish(tmp_path, "ppo", lines)
    _, found = made(tmp_path)
    over = "at √KL, √(nats per completion)"
    assert {t for t in found.within("title") if over in t} == {
        f"learned reward: −1.225 {over} 0",
        f"learned reward: 0 {over} 1",
        f"learned reward: 1.225 {over} 2",
        f"true quality: 1.225 {over} 0",
        f"true quality: 0 {over} 1",
        f"true quality: −1.225 {over} 2",
    }


def test_what_never_changed_is_said_and_not_drawn(tmp_path: Path) -> None:
    _, found = made(make_run(tmp_path))
    (said,) = [said for said in found.within("p") if "the same in every round" in said]
    assert "Answers without a score: 0\u202f% (share of completions)" in said
    assert "PPO: Answers without a score" not in found.within("figcaption")
    assert "PPO: Length" in found.within("figcaption")


def test_what_the_reward_model_is_worth(tmp_path: Path) -> None:
    _, found = made(make_run(tmp_path))
    headings = found.within("figcaption")
    first = headings.index("Calibration")
    assert headings[first : first + 4] == [
        "Calibration",
        "Accuracy by margin",
        "Accuracy by K",
        "Does it like long answers?",
    ]
    assert any("Expected calibration error: 3\u202f% (2–4\u202f%)." in said for said in found.within("p"))
    titles = found.within("title")
    assert "0.4–0.8: 70\u202f% (67–73\u202f%) of 586 pairs" in titles
    assert "3: 76\u202f% (71–81\u202f%) of 900 pairs" in titles
    small = found.within("small")
    assert {"2,345 pairs", "402 pairs", "180 prompts"} <= set(small)


def test_a_reward_model_measured_before_there_were_more_figures(tmp_path: Path) -> None:
    """One K is no comparison, and what was not measured is left out."""
    plan(tmp_path)
    old = {"n_groups": 9, "n_pairs": 90, "against": "truth", "pair_accuracy": figure(0.8), "calibration": []}
    finish(tmp_path, "evaluation", found={"over": "sft", "models": {}, "reward_model": old, "answers": []})
    _, found = made(tmp_path)
    assert "held-out pairs put in the right order" in found.within("th")
    assert not {"Accuracy by margin", "Accuracy by K", "Calibration"} & set(found.within("figcaption"))
    rows = [{"k": 7, "n": 90, "accuracy": figure(0.8)}]
    other = tmp_path / "other"
    plan(other)
    again = {"over": "sft", "models": {}, "reward_model": {**old, "accuracy_by_k": rows}, "answers": []}
    finish(other, "evaluation", found=again)
    assert "Accuracy by K" not in made(other)[1].within("figcaption")
