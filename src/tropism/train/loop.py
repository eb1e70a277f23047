"""One update, with the same code for every algorithm.

Each micro-batch adds the gradient of the *total* of its loss; at the end this is divided once by the count of the whole
update. So accumulation, packing in another order and several processes give the same update by construction.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from tropism.errors import TropismError
from tropism.models.adapters import load_trained, trained_state
from tropism.models.forward import Compare, predict_divergence, predict_running_scores, predict_tokens, predict_values
from tropism.models.layout import pass_size
from tropism.protocols import Algorithm, Distilling, Exploring
from tropism.tensors.batch import Batch, Layout, Prediction
from tropism.tensors.ratio import Ratio, total
from tropism.tensors.rows import passes, take_rows
from tropism.train import parallel
from tropism.train.apart import computed
from tropism.train.optim import Optim, clip, optimizer, set_rate
from tropism.train.spare import spared
from tropism.types import SamplingParams

ROLE = {
    "logprobs_BT": "policy",
    "entropy_BT": "policy",
    "entropy_bonus_BT": "policy",
    "divergence_BT": "policy",
    "values_BT": "critic",
    "scores_N": "scorer",
    "scores_BT": "scorer",
}  # which model predicts what
GIVEN = {
    "reward_N": "the rewards",
    "old_logprobs_BT": "the log-probabilities of the policy that sampled",
    "ref_logprobs_BT": "the log-probabilities of the reference",
    "values_BT": "the values of the critic",
    "advantages_BT": "the advantages",
    "returns_BT": "the returns",
}  # what an update is given, in words


@dataclass(frozen=True)
class Mixed:
    """Another loss of the policy, on its own batch, and the factor for its gradient."""

    algorithm: Algorithm
    batch: Batch
    coefficient: float


@dataclass
class Learner:
    """The models in training and their optimiser. `models` has the policy, critic or scorer that the algorithm
    predicts.

    `rates` may give a model its own peak learning rate; `pass_tokens` limits the tokens of one forward pass (0: no
    limit); `layout` is the layout of the batches; `teacher`, which is not trained, is for an algorithm that compares
    with one.
    """

    models: Mapping[str, PreTrainedModel]
    optim: Optim
    steps: int
    rates: Mapping[str, float] = field(default_factory=dict)
    pass_tokens: int = 0
    sampling: SamplingParams | None = None
    layout: Layout = "auto"
    teacher: PreTrainedModel | None = None
    done: int = 0

    def __post_init__(self) -> None:
        for model in self.models.values():
            parallel.follow(model.parameters())
        self.optimizer = optimizer(self.models, self.optim)

    def update(
        self, algorithm: Algorithm, batch: Batch, frozen: str = "", mixed: Mixed | None = None
    ) -> dict[str, Ratio]:
        """One optimiser update on the whole `batch`, of which each process computes a share.

        `frozen` names a model that is not updated; `mixed` is another loss of the policy, whose gradient is added.
        Raises NotFinite, in every process, before the weights change.
        """
        self.optimizer.zero_grad(set_to_none=True)  # left by an update that raised NotFinite
        trained = {name: model for name, model in self.models.items() if name != frozen}
        summed = self._backward(algorithm, batch, self.sampling, trained)
        moved = bool(summed["loss"].count) or mixed is not None
        if mixed is not None:
            summed |= self._mix(mixed)
        scale = self.optim.rate(self.done, self.steps) / self.optim.lr
        set_rate(self.optimizer, {n: self.rates.get(n, self.optim.lr) * scale for n in self.models})
        for name, model in self.models.items():
            if name not in trained or not moved:
                model.zero_grad(set_to_none=True)
                continue
            norm = clip(model.parameters(), self.optim.clip_norm)
            if norm != norm or norm == float("inf"):
                raise NotFinite(f"the gradient of the {name}", self.done + 1, batch.ids, self._source(batch))
            summed[f"{name}_gradient_norm"] = Ratio(torch.tensor(norm), torch.tensor(1))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        return summed

    def _backward(
        self,
        algorithm: Algorithm,
        batch: Batch,
        sampling: SamplingParams | None,
        trained: Mapping[str, PreTrainedModel],
    ) -> dict[str, Ratio]:
        """Puts the gradient of the loss, divided once by its count, into the `trained` models; none if the count is
        0."""
        metrics: list[dict[str, Ratio]] = []
        bad: tuple[str, ...] = ()
        mine = parallel.share(batch)
        if mine is not None:
            mine, counted = spared(algorithm, mine)
            metrics += [{"loss": loss} for loss in counted]
        for piece in _pieces(mine, self.pass_tokens):
            predicted = functools.partial(self.predict, algorithm, sampling=sampling)
            loss, more, learn = computed(algorithm, piece, predicted, self.pass_tokens)
            if not torch.isfinite(loss.total):
                bad = piece.ids
                break
            learn()
            metrics.append({"loss": loss, **more})
        summed, bad = parallel.add_metrics(total(metrics), bad, batch)
        if bad:
            raise NotFinite("the loss", self.done + 1, bad, self._source(batch))
        count = float(summed["loss"].count)
        if count:
            parallel.add_gradients(p for model in trained.values() for p in model.parameters())
        for model in trained.values():
            if not count:
                model.zero_grad(set_to_none=True)
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad.div_(count)
        return summed

    def _mix(self, mixed: Mixed) -> dict[str, Ratio]:
        """Adds `coefficient` times the gradient of the other loss (at temperature 1) to the policy's gradient."""
        policy = self.models["policy"]
        before = {p: p.grad for p in policy.parameters() if p.grad is not None}
        policy.zero_grad(set_to_none=True)
        summed = self._backward(mixed.algorithm, mixed.batch, None, {"policy": policy})
        for parameter in policy.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(mixed.coefficient)
        for parameter, gradient in before.items():
            parameter.grad = gradient if parameter.grad is None else gradient.add_(parameter.grad)
        return {"mixed_loss": summed["loss"]}

    def _source(self, batch: Batch) -> str:
        """The input of the update that is not finite; "" if all of it is finite."""
        for name, model in self.models.items():
            if not all(torch.isfinite(p).all() for p in model.parameters()):
                return f"the weights of the {name}"
        given = ((what, getattr(batch, name)) for name, what in GIVEN.items())
        return next((what for what, x in given if x is not None and not torch.isfinite(x).all()), "")

    def predict(self, algorithm: Algorithm, batch: Batch, sampling: SamplingParams | None) -> Prediction:
        models = {**self.models, "teacher": self.teacher} if self.teacher is not None else self.models
        compare = algorithm.divergence if isinstance(algorithm, Distilling) else None
        return predict(models, reads(algorithm), batch, sampling, compare)

    def save(self, folder: Path, **more: Any) -> None:
        """Saves weights, optimiser, schedule and everything else that the next step reads (tensors and plain
        values)."""
        models = {name: trained_state(model) for name, model in self.models.items()}
        state = {"models": models, "optimizer": self.optimizer.state_dict(), "done": self.done, "more": more}
        with open(folder / "learner.pt", "wb") as file:  # with a path, torch would not report a full disk
            torch.save(state, file)

    def restore(self, folder: Path) -> dict[str, Any]:
        """The inverse of `save`; returns the other values that were saved."""
        state = torch.load(folder / "learner.pt", weights_only=True)
        for name, model in self.models.items():
            load_trained(model, state["models"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.done = state["done"]
        return state["more"]


class NotFinite(TropismError):
    """A loss or gradient that is NaN or infinite, raised before the weights change. `source` is the input that was not
    finite already before the update, if there was one."""

    def __init__(self, what: str, step: int, ids: tuple[str, ...], source: str = "") -> None:
        self.what, self.step, self.ids, self.source = what, step, ids, source
        shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        super().__init__(f"{what} is not finite at step {step}, in a batch of the groups {shown}")

    def with_checkpoint(self, path: str) -> TropismError:
        """The error with a remedy. The learning rate is not the cause if an input of the update was not finite."""
        remedy = "lower the learning rate or fix those groups"
        if self.source:
            remedy = f"{self.source} were not finite before this update: check those first"
        return TropismError(f"{self}; the last good checkpoint is {path}: {remedy}")


def _pieces(batch: Batch | None, tokens: int) -> Iterator[Batch]:
    """The part of the batch for each forward pass; none if this process has no share."""
    if batch is None:
        return
    for rows in passes(batch, pass_size(tokens, batch.tokens_BT.device.type)):
        yield take_rows(batch, rows)


def reads(algorithm: Algorithm) -> tuple[str, ...]:
    """The fields of a Prediction that the algorithm's loss reads, with the entropy's gradient if it is used."""
    bonus = isinstance(algorithm, Exploring) and algorithm.entropy > 0
    return (*algorithm.predicts, "entropy_bonus_BT") if bonus else algorithm.predicts


def predict(
    models: Mapping[str, PreTrainedModel],
    wanted: tuple[str, ...],
    batch: Batch,
    sampling: SamplingParams | None = None,
    compare: Compare | None = None,
) -> Prediction:
    """The fields of a Prediction that an algorithm reads, each from the model with that role. `compare` computes the
    divergence of the policy's and the teacher's distributions."""
    for part in wanted:
        if ROLE[part] not in models:
            raise TropismError(f"the algorithm reads {part}, which a {ROLE[part]} predicts: this stage has none")
    divergence_BT = None
    if "divergence_BT" in wanted:
        if compare is None or "teacher" not in models:
            raise TropismError("the algorithm compares the policy with a teacher: this stage has none")
        divergence_BT = predict_divergence(models["policy"], models["teacher"], batch, compare)
    found = Prediction()
    if "logprobs_BT" in wanted:
        found = predict_tokens(models["policy"], batch, sampling, "entropy_BT" in wanted, "entropy_bonus_BT" in wanted)
    scored = "scores_N" in wanted or "scores_BT" in wanted
    scores_BT = predict_running_scores(models["scorer"], batch) if scored else None
    return Prediction(
        logprobs_BT=found.logprobs_BT,
        entropy_BT=found.entropy_BT,
        values_BT=predict_values(models["critic"], batch) if "values_BT" in wanted else None,
        scores_N=scores_BT.flatten()[batch.last_N] if scores_BT is not None else None,
        scores_BT=scores_BT,
        entropy_bonus_BT=found.entropy_bonus_BT,
        divergence_BT=divergence_BT,
    )


def values(metrics: Mapping[str, Ratio]) -> dict[str, float]:
    """Metrics as numbers, for a log line; metrics with a count of 0 are left out."""
    return {name: ratio.value for name, ratio in metrics.items() if ratio.count}
