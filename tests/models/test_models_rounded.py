"""A copy in bfloat16: rounded weights, exact positions, and it follows the model."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from tropism.models.rounded import follow, rounded


def test_the_copy_has_rounded_weights_and_exact_positions(llama: PreTrainedModel):
    before = {name: weight.clone() for name, weight in llama.state_dict().items()}
    made = rounded(llama, torch.bfloat16)
    assert all(torch.equal(weight, before[name]) for name, weight in llama.state_dict().items())
    for mine, theirs in zip(made.parameters(), llama.parameters(), strict=True):
        assert mine.dtype == torch.bfloat16 and not mine.requires_grad
        assert (mine.float() - theirs).abs().max() <= theirs.abs().max() * 2**-8  # 8 bits of mantissa
    assert made.model.rotary_emb.inv_freq.dtype == torch.float32
    assert made.lm_head.weight is made.model.embed_tokens.weight  # tied as before


def test_the_copy_follows_the_model(llama: PreTrainedModel):
    made, tokens = rounded(llama, torch.bfloat16), torch.arange(9)[None]
    old = made(input_ids=tokens).logits
    with torch.no_grad():
        for weight in llama.parameters():
            weight.mul_(1.5)
    assert torch.equal(made(input_ids=tokens).logits, old)
    follow(made, llama)
    assert torch.equal(made(input_ids=tokens).logits, rounded(llama, torch.bfloat16)(input_ids=tokens).logits)
    assert not torch.equal(made(input_ids=tokens).logits, old)
