"""The evaluate stage alone; its figures counted again from the answers it leaves, and by hand."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from transformers import AutoModelForCausalLM, AutoTokenizer

from tropism.errors import TropismError
from tropism.formats.phrasebook import Phrasebook
from tropism.formats.prompts import Prompts
from tropism.judges.verifier import Verifier
from tropism.measures.bleu import Bleu
from tropism.measures.chrf import CorpusChrF
from tropism.measures.rouge_l import RougeL
from tropism.models.architecture import Architecture, create
from tropism.models.folder import save
from tropism.search.best_of_n import BestOfN
from tropism.stages.evaluate import Evaluate
from tropism.stages.reward import HELD_OUT
from tropism.store.groups import read_groups, write_groups
from tropism.store.progress import Reporter
from tropism.store.run import Run
from tropism.text.tokenizer import train_tokenizer
from tropism.types import Completion, Group, Judgment, Message, SamplingParams

ASKED = Phrasebook("held_out", count=12)
SAMPLING = SamplingParams(n=3, max_tokens=6)


def likeness(completion: str, target: str) -> float:
    """Small models say little that is right, so this truth tells them apart by their length as well."""
    return len(completion) / 100 + (completion.strip() == target.strip())


TRUTH = Verifier(likeness)


def figures(out: Path) -> dict[str, Any]:
    return json.loads((out / "evaluation.json").read_text("utf-8"))


@pytest.fixture
def evaluated(run: Run, model_folder: str, other_folder: str) -> Path:
    models = {"base": other_folder, "sft": model_folder, "ppo": other_folder}
    proxy = Verifier(lambda completion: float(len(completion)))
    glossary = Phrasebook("glossary", count=10)
    return run(Evaluate(models, ASKED, judge=TRUTH, proxy=proxy, completes=glossary, sampling=SAMPLING))


def test_figures_are_those_of_the_answers(evaluated: Path) -> None:
    found = figures(evaluated)
    assert found["over"] == "sft" and list(found["models"]) == ["base", "sft", "ppo"]
    answers = {name: list(read_groups(evaluated / f"{name}.parquet")) for name in found["models"]}
    for name, said in found["models"].items():
        groups = answers[name]
        assert (said["n"], said["samples"]) == (12, 3)
        scores = [[likeness(c.text, g.target or "") for c in g.completions] for g in groups]
        assert said["quality"]["value"] == pytest.approx(np.mean(scores), abs=1e-4)
        assert said["tokens"]["value"] == pytest.approx(
            np.mean([len(c.tokens or ()) for g in groups for c in g.completions]), abs=1e-4
        )
        stopped = [c.finish_reason == "stop" for g in groups for c in g.completions]
        assert said["stop_rate"]["value"] == pytest.approx(np.mean(stopped), abs=1e-4)
        assert said["quality"]["low"] <= said["quality"]["value"] <= said["quality"]["high"]
        sft = [[likeness(c.text, g.target or "") for c in g.completions] for g in answers["sft"]]
        if name == "sft":  # one half by construction is no measurement
            assert {"win_over_sft", "kl_to_sft", "left_out"}.isdisjoint(said)
            continue
        wins = [np.mean([(a > b) + 0.5 * (a == b) for a, b in itertools.product(*pair)]) for pair in zip(scores, sft)]
        assert said["win_over_sft"]["value"] == pytest.approx(np.mean(wins), abs=1e-4)
    assert abs(found["models"]["ppo"]["win_over_sft"]["value"] - 0.5) > 0.01
    assert found["models"]["base"]["left_out"] == {"kl_to_sft": "base gets its prompts as raw text"}
    assert "left_out" not in found["models"]["ppo"]
    assert "reward" in found["models"]["ppo"] and "reward" not in found["models"]["base"]  # it is asked in raw text
    assert [m.role for m in answers["base"][0].prompt] == ["text"]
    assert [m.role for m in answers["ppo"][0].prompt] == ["user"]


def test_greedy_figures_are_those_of_transformers_generate(run: Run, model_folder: str, tmp_path: Path) -> None:
    """Every second reference answer is what transformers generates, so that half are right."""
    model = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    words = AutoTokenizer.from_pretrained(model_folder)
    texts, targets = [], []
    for n in range(8):
        asked = [{"role": "user", "content": f"{n} days"}]
        ids = words.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        made = model.generate(**ids, max_new_tokens=6, do_sample=False, pad_token_id=0)
        texts.append(words.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))
        targets.append(f" {texts[-1]} " if n % 2 and texts[-1].strip() else "something else")
    records = [{"prompt": f"{n} days", "target": target} for n, target in enumerate(targets)]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    found = figures(run(Evaluate({"sft": model_folder}, Prompts(str(tmp_path / "asked.jsonl")), sampling=SAMPLING)))
    said = found["models"]["sft"]
    right = sum(target != "something else" for target in targets)
    assert right >= 2 and said["exact_greedy"]["value"] == pytest.approx(right / 8, abs=1e-4)
    chrf = [CHRF().sentence_score(t.strip(), [target]).score for t, target in zip(texts, targets)]
    assert said["chrf"]["value"] == pytest.approx(np.mean(chrf), abs=1e-3)
    assert [row["models"]["sft"]["greedy"] for row in found["answers"]] == texts


def test_kl_is_the_mean_log_ratio_of_the_samples(evaluated: Path, model_folder: str, other_folder: str) -> None:
    found = figures(evaluated)["models"]
    assert "kl_to_sft" not in found["base"]
    words = AutoTokenizer.from_pretrained(model_folder)
    there, here = (AutoModelForCausalLM.from_pretrained(p).eval() for p in (other_folder, model_folder))
    ratios = []
    for group in read_groups(evaluated / "ppo.parquet"):
        asked = [{"role": m.role, "content": m.content} for m in group.prompt]
        prompt = words.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
        for completion in group.completions:
            answer = list(completion.tokens or ())
            ids, chosen = torch.tensor([prompt + answer]), torch.tensor(answer)[:, None]
            with torch.no_grad():
                own, ref = (
                    m(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1).gather(1, chosen).sum()
                    for m in (there, here)
                )
            ratios.append(float(own - ref))
    assert found["ppo"]["kl_to_sft"]["value"] == pytest.approx(np.mean(ratios), abs=2e-3)
    assert found["ppo"]["kl_to_sft"]["value"] > 1  # the two have other weights


def test_a_right_first_line_completes(run: Run, model_folder: str, tmp_path: Path) -> None:
    """The reference answers are what transformers generates, so that all, or all but one, are right."""
    model, words = (
        AutoModelForCausalLM.from_pretrained(model_folder).eval(),
        AutoTokenizer.from_pretrained(model_folder),
    )
    records = []
    for n in range(6):
        text = f"{n} days\n{n}"
        ids = torch.tensor([[words.bos_token_id, *words.encode(text, add_special_tokens=False)]])
        made = model.generate(
            ids,
            max_new_tokens=6,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=[words.bos_token_id, words.eos_token_id],
        )
        answer = words.decode(made[0, ids.shape[1] :], skip_special_tokens=True).split("\n")[0].strip()
        prompt = [{"role": "text", "content": text}]
        records.append({"prompt": prompt, "target": answer if n and answer else "something else"})
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    right = sum(r["target"] != "something else" for r in records)
    assert right >= 3
    out = run(
        Evaluate(
            {"base": model_folder, "sft": model_folder},
            ASKED,
            completes=Prompts(str(tmp_path / "raw.jsonl")),
            sampling=SAMPLING,
        )
    )
    assert figures(out)["base_completes"]["value"] == pytest.approx(right / 6, abs=1e-4)


def marked(id: str, reward: tuple[float, ...], truth: tuple[float | None, ...], lengths: tuple[int, ...]) -> Group:
    answers = tuple(Completion("x" * n) for n in lengths)
    return Group(id, (), answers, (Judgment("truth", truth), Judgment("reward_model@1", reward)))


def test_the_reward_model_is_measured_on_its_held_out_groups(run: Run, model_folder: str, tmp_path: Path) -> None:
    write_groups([marked("a", (3.0, 2.0), (1.0, 0.0), (1, 2))], tmp_path / HELD_OUT)
    out = run(Evaluate({"sft": model_folder}, ASKED, reward=str(tmp_path), sampling=SAMPLING))
    assert figures(out)["reward_model"]["pair_accuracy"]["value"] == 1.0
    wrong = Evaluate({"sft": model_folder}, ASKED, reward=str(tmp_path), against="people", sampling=SAMPLING)
    with pytest.raises(
        TropismError, match="group a has no judgment by 'people': set `against` to a judge of the label"
    ):
        run(wrong, "wrong")
    none = Evaluate({"sft": model_folder}, ASKED, reward=model_folder, sampling=SAMPLING)
    with pytest.raises(TropismError, match="has no held-out groups: raise `test` in the label stage"):
        run(none, "none")


def test_prompts_without_a_reference_give_no_exact_match(run: Run, model_folder: str) -> None:
    asked = Prompts(prompts=("a", "b", "c"))
    found = figures(run(Evaluate({"sft": model_folder}, asked, sampling=SAMPLING)))["models"]["sft"]
    assert {"exact_greedy", "exact_sampled", "chrf", "quality", "win_over_sft"}.isdisjoint(found)
    assert {"tokens", "stop_rate"} <= found.keys()


def test_metrics_score_all_answers_together(run: Run, model_folder: str) -> None:
    plain = figures(run(Evaluate({"sft": model_folder}, ASKED, sampling=SAMPLING), "plain"))["models"]["sft"]
    asked = Evaluate({"sft": model_folder}, ASKED, metrics=(Bleu(), CorpusChrF()), sampling=SAMPLING)
    found = figures(out := run(asked))
    said = found["models"]["sft"]
    assert "chrf" in plain and "chrf" not in said  # two chrF rows would be taken for one another
    assert "signatures" not in plain
    measured = {"bleu_greedy", "bleu_sampled", "chrf_greedy", "chrf_sampled", "signatures"}
    assert said.keys() - plain.keys() == measured
    assert [s.split("|")[0] for s in said["signatures"]] == ["BLEU", "chrF2"]
    groups = list(read_groups(out / "sft.parquet"))
    right = [(g.target or "").strip() for g in groups]
    greedy = [row["models"]["sft"]["greedy"].strip() for row in found["answers"]]
    sampled = [[g.completions[n].text.strip() for g in groups] for n in range(3)]
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        alone = [metric.corpus_score(system, [right]).score for system in sampled]
        assert said[f"{name}_sampled"]["value"] == pytest.approx(np.mean(alone), abs=1e-4)
        assert said[f"{name}_greedy"]["value"] == pytest.approx(metric.corpus_score(greedy, [right]).score, abs=1e-4)
    assert said["chrf_sampled"]["low"] < said["chrf_sampled"]["value"] < said["chrf_sampled"]["high"]


def test_metrics_need_references(run: Run, model_folder: str) -> None:
    wrong = Evaluate({"sft": model_folder}, Prompts(prompts=("a", "b")), metrics=(Bleu(),), sampling=SAMPLING)
    with pytest.raises(TropismError, match="metrics compare with a reference answer and group prompts:1 has none"):
        run(wrong)


def test_a_prompt_that_leaves_no_room_is_named(run: Run, model_folder: str) -> None:
    with pytest.raises(TropismError, match=r"the prompt of group prompts:2 has \d+ tokens"):
        run(Evaluate({"sft": model_folder}, Prompts(prompts=("a", "x" * 400)), sampling=SAMPLING))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"over": "sfft"}, "over = 'sfft' is not one of the models: choose one of sft"),
        ({"completes": ASKED}, "base = 'base' is not one of the models"),
        ({"models": {"sft": "a/b", "a/b": "a/b"}}, "models.a/b cannot name a file"),
    ],
)
def test_wrong_settings_are_refused_at_once(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(TropismError, match=says):
        replace(Evaluate({"sft": "a/b"}, ASKED), **wrong)


def test_the_judge_may_see_the_reference_and_the_proxy_is_shown_the_same_answers(run: Run, model_folder: str) -> None:
    seen: list[tuple[str, str | None]] = []

    def truth(completion: str, target: str | None, prompt: tuple[Message, ...]) -> float:
        seen.append((completion, target))
        return 1.0

    out = run(
        Evaluate(
            {"sft": model_folder},
            ASKED,
            judge=Verifier(truth),
            proxy=Verifier(lambda completion: 0.0),
            sampling=SAMPLING,
        )
    )
    assert len(seen) == 12 * (1 + 3) and all(target for _, target in seen)
    groups = list(read_groups(out / "sft.parquet"))
    assert [[j.judge for j in g.judgments] for g in groups] == [["truth", "proxy"]] * 12


def test_a_search_chooses_by_the_proxy(run: Run, model_folder: str) -> None:
    """The best of 4 by length: longer than what the model says by itself, each sample a search of its own."""
    proxy = Verifier(lambda completion: float(len(completion)))
    models = {"sft": model_folder, "best": model_folder}
    stage = Evaluate(models, ASKED, TRUTH, proxy, sampling=SAMPLING, searches={"best": BestOfN(4)})
    out = run(stage)
    found = figures(out)["models"]
    alone, best = (list(read_groups(out / f"{name}.parquet")) for name in models)
    assert [len(g.completions) for g in best] == [3] * 12
    mean = {n: np.mean([len(c.text) for g in gs for c in g.completions]) for n, gs in (("sft", alone), ("best", best))}
    assert mean["best"] > mean["sft"]
    assert found["best"]["reward"]["low"] > found["sft"]["reward"]["value"]
    assert len({tuple(c.tokens or ()) for c in best[0].completions}) > 1
    assert "kl_to_sft" not in found["best"] and "a search chose" in found["best"]["left_out"]["kl_to_sft"]
    assert "win_over_sft" in found["best"]  # the same model, but not the same answers


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"searches": {"other": BestOfN(4)}}, "searches.other is not one of the models that answer chats"),
        ({"searches": {"sft": BestOfN(4)}, "proxy": None}, "searches choose by the proxy"),
    ],
)
def test_a_search_needs_a_model_and_a_proxy(model_folder: str, changes: dict[str, Any], said: str) -> None:
    fields = {"models": {"sft": model_folder}, "prompts": ASKED, "proxy": TRUTH, **changes}
    with pytest.raises(TropismError, match=said):
        Evaluate(**fields)


def test_greedy_answers_have_no_kl(run: Run, model_folder: str, other_folder: str) -> None:
    """Each is certain, so its log-probability is 0, and the log-ratio would be that of what was not sampled."""
    models = {"sft": model_folder, "again": model_folder, "ppo": other_folder}
    found = figures(run(Evaluate(models, ASKED, TRUTH, sampling=SamplingParams(n=1, max_tokens=6, temperature=0.0))))
    assert found["models"]["ppo"]["left_out"] == {"kl_to_sft": "at temperature 0 nothing is sampled"}
    for said in found["models"].values():
        assert "kl_to_sft" not in said
    assert "win_over_sft" in found["models"]["ppo"] and "win_over_sft" not in found["models"]["again"]


@pytest.fixture
def foreign_folder(tmp_path: Path) -> str:
    """A model with a tokenizer of its own, and a chat template."""
    own = train_tokenizer([f"{n} weeks, {n} semaines\n" for n in range(100)], 290)
    save(create(Architecture("llama", 32, 1, 2, context=128), own, 0), own, tmp_path / "foreign")
    return str(tmp_path / "foreign")


def test_models_of_other_tokenizers_have_all_but_a_kl(run: Run, model_folder: str, foreign_folder: str) -> None:
    models = {"sft": model_folder, "foreign": foreign_folder}
    out = run(Evaluate(models, ASKED, TRUTH, TRUTH, metrics=(Bleu(),), sampling=SAMPLING))
    said = figures(out)["models"]["foreign"]
    assert said["left_out"] == {"kl_to_sft": "its tokens are not those of sft"} and "kl_to_sft" not in said
    expected = {"quality", "reward", "win_over_sft", "bleu_sampled", "exact_sampled", "tokens", "stop_rate"}
    assert expected <= said.keys()
    groups = list(read_groups(out / "foreign.parquet"))
    scores = [likeness(c.text, g.target or "") for g in groups for c in g.completions]
    assert said["quality"]["value"] == pytest.approx(np.mean(scores), abs=1e-4)
    assert (
        "kl_to_foreign" not in figures(run(Evaluate(models, ASKED, sampling=SAMPLING, over="foreign")))["models"]["sft"]
    )


def test_what_is_never_right_is_not_known_to_be_never_right(run: Run, model_folder: str, other_folder: str) -> None:
    """No figure that has bounds is a point: 0 of 12 prompts leave room for 24 %."""
    never = Verifier(lambda completion: 0.0)
    models = {"sft": model_folder, "ppo": other_folder}
    said = figures(
        run(Evaluate(models, ASKED, never, never, metrics=(Bleu(), CorpusChrF(), RougeL()), sampling=SAMPLING))
    )
    for name, found in said["models"].items():
        assert found["quality"]["value"] == found["reward"]["value"] == 0
        assert 0.15 < found["quality"]["high"] < 0.35
        for key, figure in found.items():
            if isinstance(figure, dict) and "low" in figure:
                assert figure["low"] < figure["high"], (name, key)
    assert said["models"]["ppo"]["win_over_sft"]["value"] == 0.5


def test_answers_outlive_figures_that_fail(
    run: Run, model_folder: str, other_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are on the disk before anything is computed from them, and the same command does not sample again."""
    stage = Evaluate({"sft": model_folder, "ppo": other_folder}, ASKED, TRUTH, sampling=SAMPLING)
    with Run(tmp_path / "whole", reporter=Reporter(quiet=True)) as other:
        whole = figures(other(stage))
    asked: list[str] = []
    answer, measure = Evaluate._answer, Evaluate._figures

    def counted(self: Evaluate, name: str, *rest: Any) -> Any:
        asked.append(name)
        if asked == ["sft", "ppo"]:
            raise KeyboardInterrupt  # in the middle of the second model
        return answer(self, name, *rest)

    def fails(*_: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(Evaluate, "_answer", counted)
    monkeypatch.setattr(Evaluate, "_figures", fails)
    for error in (KeyboardInterrupt, RuntimeError, RuntimeError):
        with pytest.raises(error):
            run(stage)
    assert asked == ["sft", "ppo", "ppo"]
    (left,) = (tmp_path / "run").glob("evaluate-*/out")
    assert {f.name for f in left.iterdir()} == {"sft.parquet", "ppo.parquet"}
    monkeypatch.setattr(Evaluate, "_figures", measure)
    assert figures(run(stage)) == whole and len(asked) == 3
