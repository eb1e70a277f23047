"""One round: prompts → completions → judgments → Trees with rewards; fills in the fields that an algorithm needs."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tropism.asking.judge import asked
from tropism.models.forward import predict_tokens, predict_values
from tropism.protocols import Algorithm, Engine, Judge, Penalised
from tropism.tensors.batch import Batch
from tropism.tensors.encode import stepped, tree
from tropism.tensors.index import length_N, sum_by_completion
from tropism.tensors.maths import k1
from tropism.tensors.ratio import Ratio
from tropism.tensors.rows import passes, take_rows
from tropism.tensors.tree import Tree
from tropism.train import parallel
from tropism.types import Completion, Group, Judgment, SamplingParams


def repeats(groups: Iterable[Group]) -> Iterator[int]:
    """For each group the number of earlier groups with the same prompt, ignoring blanks that a template may strip. Of a
    prompt it keeps a hash."""
    seen: Counter[int] = Counter()
    for group in groups:
        key = hash(tuple((m.role, "".join(m.content.split())) for m in group.prompt))
        yield seen[key]
        seen[key] += 1


def apart(times: Sequence[int], sampling: SamplingParams) -> Iterator[tuple[list[int], SamplingParams]]:
    """Which prompts to sample in one call, and with which seed. A repeated prompt gets another seed, so that its
    samples do not depend on how a stage splits its prompts into calls."""
    for time in sorted({*times}):
        at = [i for i, t in enumerate(times) if t == time]
        yield at, dataclasses.replace(sampling, seed=sampling.seed + (time << 42))


def sample(
    groups: Sequence[Group], engine: Engine, sampling: SamplingParams, times: Sequence[int] = ()
) -> list[tuple[Completion, ...]]:
    """Completions for each group. Give `times` (`repeats`) if these groups are only some of the stage's groups."""
    found: dict[int, tuple[Completion, ...]] = {}
    for at, seeded in apart(times or [0] * len(groups), sampling):
        found |= zip(at, parallel.generate(engine, [groups[i].prompt for i in at], seeded))
    return [found[i] for i in range(len(groups))]


def rollouts(
    groups: Sequence[Group], engine: Engine, judge: Judge, sampling: SamplingParams, times: Sequence[int] = ()
) -> list[Group]:
    """The groups with `sampling.n` completions each, judged. `times` as in `sample`."""
    answers = sample(groups, engine, sampling, times)
    answered = [dataclasses.replace(g, completions=a) for g, a in zip(groups, answers)]
    return [dataclasses.replace(g, judgments=(j,)) for g, j in zip(answered, judgments(judge, answered))]


def judgments(judge: Judge, groups: Sequence[Group]) -> list[Judgment]:
    """The judgments of the groups; the judge is called once for all processes."""
    return parallel.peers().once(lambda: asked(judge, groups))


def experience(groups: Sequence[Group], tokenizer: PreTrainedTokenizerBase, context: int) -> list[Tree]:
    """Trees with the scores and step rewards of each group's newest judgment."""
    trees = [dataclasses.replace(tree(g, tokenizer, context), reward=scores(g)) for g in groups]
    return [stepped(t, g, tokenizer) for t, g in zip(trees, groups)]


def scores(group: Group) -> tuple[float | None, ...]:
    """The scores of a group's newest judgment."""
    return group.judgments[-1].scores


def needed(algorithm: Algorithm) -> tuple[str, ...]:
    """What an algorithm `needs`, without the reference if its KL penalty is off."""
    off = isinstance(algorithm, Penalised) and not algorithm.refers
    return tuple(need for need in algorithm.needs if not (off and need == "ref_logprobs_BT"))


def fillable(needs: Sequence[str], sampled: bool) -> list[str]:
    """The needed fields that a model has to fill; without `old` for samples, as the engine already gave it."""
    named = ("ref_logprobs_BT", "values_BT", *(() if sampled else ("old_logprobs_BT",)))
    return [name for name in named if name in needs]


@torch.no_grad()
def annotate(
    batch: Batch,
    needs: Sequence[str],
    reference: PreTrainedModel | None,
    critic: PreTrainedModel | None,
    sampling: SamplingParams,
    pass_tokens: int,
    policy: PreTrainedModel | None = None,
) -> Batch:
    """Fills the fields that an algorithm needs before `credit`.

    The old log-probabilities of samples came from the engine. If nothing was sampled (`policy` is given), they are
    those of the current policy.
    """
    found: dict[str, list[torch.Tensor]] = {name: [] for name in fillable(needs, policy is None)}
    for rows in passes(batch, pass_tokens):
        piece = take_rows(batch, rows)
        if "ref_logprobs_BT" in found and reference is not None:
            found["ref_logprobs_BT"].append(predict_tokens(reference, piece, sampling).need("logprobs_BT"))
        if "old_logprobs_BT" in found and policy is not None:
            found["old_logprobs_BT"].append(predict_tokens(policy, piece, sampling).need("logprobs_BT"))
        if "values_BT" in found and critic is not None:
            found["values_BT"].append(predict_values(critic, piece))
    return batch.replace(**{name: torch.cat(parts) for name, parts in found.items() if parts})


def round_metrics(batch: Batch) -> dict[str, Ratio]:
    """Metrics of a round's samples, before shaping and credit: reward, how they ended, length, KL per completion.

    The metrics of parts of a round can be added up (`tensors/ratio.py:total`).
    """
    one = torch.tensor(batch.n)
    scored = batch.need("scored_N")
    lengths = torch.bincount(batch.completion_BT[batch.completion_BT >= 0], minlength=batch.n)
    metrics = {
        "reward": Ratio((batch.need("reward_N") * scored).sum(), scored.sum()),
        "not_scored": Ratio((~scored).sum(), one),
        "stop_rate": Ratio(batch.ended_N.sum(), one),
        "tokens": Ratio(lengths.sum(), one),
    }
    if batch.step_reward_BT is not None:
        metrics["step_reward"] = Ratio((sum_by_completion(batch.step_reward_BT, batch) * scored).sum(), scored.sum())
    if batch.ref_logprobs_BT is not None and batch.old_logprobs_BT is not None:
        kl_N = sum_by_completion(k1(batch.old_logprobs_BT, batch.ref_logprobs_BT), batch)
        metrics["kl"] = Ratio(kl_N.sum(), (length_N(batch) > 0).sum())  # nats per completion, to the reference
    return metrics


def critic_metrics(batch: Batch) -> dict[str, Ratio]:
    """After credit, the share of the returns' variance that the critic explains; empty without a critic."""
    if batch.values_BT is None or batch.returns_BT is None:
        return {}
    mask = batch.loss_mask_BT
    returns, left = batch.returns_BT[mask], (batch.returns_BT - batch.values_BT)[mask]
    spread = ((returns - returns.mean()) ** 2).sum()
    unexplained = ((left - left.mean()) ** 2).sum()
    return {"explained_variance": Ratio(spread - unexplained, spread)}
