"""One round of experience: prompts → completions → judgment → a Batch with rewards, old and reference log-probabilities."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tropism.models.forward import predict_tokens, predict_values
from tropism.search._asked import asked
from tropism.tensors.batch import Batch, Layout, Ratio, length_N, passes, sum_by_completion, take_rows
from tropism.tensors.maths import k1
from tropism.train import parallel
from tropism.train.layout import layout
from tropism.train.trees import tree
from tropism.types import Engine, Group, Judge, Judgment, SamplingParams


def rollouts(groups: Sequence[Group], engine: Engine, judge: Judge, sampling: SamplingParams) -> list[Group]:
    """The groups with `sampling.n` completions each, judged."""
    answers = parallel.generate(engine, [g.prompt for g in groups], sampling)
    answered = [dataclasses.replace(g, completions=a) for g, a in zip(groups, answers)]
    return [dataclasses.replace(g, judgments=(j,)) for g, j in zip(answered, judgments(judge, answered))]


def judgments(judge: Judge, groups: Sequence[Group]) -> list[Judgment]:
    """What a judge says of the groups, asked once for all ranks."""
    return parallel.peers().once(lambda: asked(judge, groups))


def experience(
    groups: Sequence[Group],
    words: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    context: int,
    force: Layout = "auto",
) -> Batch:
    """A Batch whose rewards are the scores of each group's newest judgment."""
    trees = [dataclasses.replace(tree(g, words, context), reward=scores(g)) for g in groups]
    return layout(trees, model, force=force)


def scores(group: Group) -> tuple[float | None, ...]:
    """The scores of a group's newest judgment; one that is not a number counts as none."""
    return numbers(group.judgments[-1])


def numbers(judgment: Judgment) -> tuple[float | None, ...]:
    """A judgment's scores; one that is not a number counts as none."""
    return tuple(None if s is None or s != s else s for s in judgment.scores)


@torch.no_grad()
def annotate(
    batch: Batch,
    needs: Sequence[str],
    reference: PreTrainedModel,
    critic: PreTrainedModel | None,
    sampling: SamplingParams,
    pass_tokens: int,
    policy: PreTrainedModel | None = None,
) -> Batch:
    """Fills the fields that an algorithm needs before `credit`.

    The old log-probabilities came from the engine; where nothing was sampled (`policy` is given) they are the policy's
    of this moment.
    """
    fillable = ("ref_logprobs_BT", "values_BT", *(("old_logprobs_BT",) if policy is not None else ()))
    found: dict[str, list[torch.Tensor]] = {name: [] for name in needs if name in fillable}
    for rows in passes(batch, pass_tokens):
        piece = take_rows(batch, rows)
        if "ref_logprobs_BT" in found:
            found["ref_logprobs_BT"].append(predict_tokens(reference, piece, sampling).need("logprobs_BT"))
        if "old_logprobs_BT" in found and policy is not None:
            found["old_logprobs_BT"].append(predict_tokens(policy, piece, sampling).need("logprobs_BT"))
        if "values_BT" in found and critic is not None:
            found["values_BT"].append(predict_values(critic, piece))
    return batch.replace(**{name: torch.cat(parts) for name, parts in found.items() if parts})


def round_metrics(batch: Batch, judged: Batch) -> Mapping[str, Ratio]:
    """What a round shows of its own samples: reward (of the batch as `judged`, before shaping), both ends, length, KL
    per completion, the critic's use."""
    one = torch.tensor(batch.n)
    scored = batch.need("scored_N")
    lengths = torch.bincount(batch.completion_BT[batch.completion_BT >= 0], minlength=batch.n)
    metrics = {
        "reward": Ratio((judged.need("reward_N") * scored).sum(), scored.sum()),
        "not_scored": Ratio((~scored).sum(), one),
        "stop_rate": Ratio(batch.ended_N.sum(), one),
        "tokens": Ratio(lengths.sum(), one),
    }
    if batch.ref_logprobs_BT is not None and batch.old_logprobs_BT is not None:
        kl_N = sum_by_completion(k1(batch.old_logprobs_BT, batch.ref_logprobs_BT), judged)
        trained = (length_N(judged) > 0).sum()  # also of completions that `credit` left out
        metrics["kl"] = Ratio(kl_N.sum(), trained)  # nats per completion, to the reference
    if batch.values_BT is not None and batch.returns_BT is not None:
        mask = batch.loss_mask_BT
        returns, left = batch.returns_BT[mask], (batch.returns_BT - batch.values_BT)[mask]
        spread = ((returns - returns.mean()) ** 2).sum()
        unexplained = ((left - left.mean()) ** 2).sum()
        metrics["explained_variance"] = Ratio(spread - unexplained, spread)
    return metrics
