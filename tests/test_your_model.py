"""`recipes/your_model.toml` from a checkpoint: a small random GPT-NeoX with a tokenizer and template of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXConfig, PreTrainedTokenizerFast

from tropism.recipe.read import load
from tropism.report import build
from tropism.store.folder import read_metrics
from tropism.store.progress import Reporter
from tropism.store.run import run_recipe

RECIPE = Path(__file__).parent.parent / "recipes" / "your_model.toml"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QUESTIONS = [f"What is {a} plus {b}?" for a in range(1, 7) for b in range(1, 7)]


@pytest.fixture
def your_model(tmp_path: Path) -> Path:
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    words.train_from_iterator(QUESTIONS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<|endoftext|>", bos_token="<|endoftext|>", pad_token="<|pad|>"
    )
    tokenizer.chat_template = CHATML
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    folder = tmp_path / "your-model"
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_lines(path: Path, records: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_the_recipe_goes_from_a_checkpoint_to_ppo(your_model: Path, tmp_path: Path) -> None:
    chats = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": "It is small."}]}
        for q in QUESTIONS
    ]
    pairs = [{"prompt": q, "chosen": "It is small.", "rejected": "No idea, sorry."} for q in QUESTIONS]
    prompts = [{"prompt": q} for q in QUESTIONS]
    settings = {
        "sft.model": your_model,
        "sft.data.path": write_lines(tmp_path / "chats.jsonl", chats),
        "preferences.data.path": write_lines(tmp_path / "pairs.jsonl", pairs),
        "ppo.prompts.path": write_lines(tmp_path / "prompts.jsonl", prompts),
    }
    overrides = [f'{key}="{value}"' for key, value in settings.items()]
    overrides += [
        "sft.steps=60",
        "sft.held_out=0.2",
        "sft.optim.lr=3e-3",
        "reward.optim.lr=3e-3",
        "reward.passes=3",
        "ppo.optim.lr=1e-3",
    ]
    overrides += ["ppo.rounds=4", "ppo.prompts_per_round=8", "ppo.sampling.max_tokens=16", "ppo.minibatches=2"]
    recipe = load(RECIPE, overrides)
    folder = tmp_path / "run"
    run = run_recipe(recipe, folder, reporter=Reporter(quiet=True))

    sft = json.loads((run.artifacts["sft"].path.parent / "DONE").read_text("utf-8"))["meta"]["facts"]
    assert sft["held_out_loss"] < 0.5 * sft["held_out_loss_before"]
    rounds = read_metrics(run.artifacts["ppo"].path.parent)
    assert [line["round"] for line in rounds] == [1, 2, 3, 4]
    assert rounds[-1]["kl"] > 0  # the policy has moved, and the KL is measured from where it began
    assert rounds[-1]["stop_rate"] > 0.5  # SFT has taught it the template's own stop token, <|im_end|>

    verdict = " ".join(build.build(folder)["verdict"])  # what the terminal says at the end
    assert "pairs of held-out prompts in the right order" in verdict
    assert "PPO: the reward of its samples went from" in verdict
    assert "nats per completion" in verdict

    model = AutoModelForCausalLM.from_pretrained(run.artifacts["ppo"].path)
    tokenizer = AutoTokenizer.from_pretrained(run.artifacts["ppo"].path)
    assert type(model).__name__ == "GPTNeoXForCausalLM"
    assert tokenizer.chat_template == CHATML
