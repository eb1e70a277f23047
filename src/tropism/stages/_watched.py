"""The effects of a probe's looks (evaluations on held-out prompts during training): when a stage ends, and which
weights it keeps. A stage inherits `Watched`, like `Weights`.

With `keep = "best"` the result has the weights of the look with the best figure; the look before the first update
counts too. The last weights are in `out/last`. The figure is the mean of the probe's truth, or of its reward if it has
no truth; `keep_by` names one. A truth that was used to choose among looks is no longer an unbiased figure: measure the
result on other prompts than those of the probe.

With `stop_when_over_optimised` the stage ends at the first look that shows that the true quality has fallen while the
learned reward has not. If the true quality of a run does not change, the chance of a false alarm is at most 5 %,
however many looks there are (`tensors/looks.py:fall_so_far`). With more prompts in the probe a real fall is detected
earlier.

The results of the looks so far are in a table that is part of every checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tropism.errors import TropismError
from tropism.models.folder import save
from tropism.stages._best import put_back, remember
from tropism.stages._probe import Probe
from tropism.store.fingerprint import ADDED
from tropism.store.work import Work
from tropism.tensors.looks import PROMPTS, fall_so_far, read_look

LAST = "last"  # the folder of the last weights, inside a result with the best ones


@dataclass(frozen=True, kw_only=True)
class Watched:
    """`probe` says how the policy is evaluated during training; `keep` and `keep_by` which weights are kept;
    `stop_when_over_optimised` whether a fall of the probe's truth ends the stage."""

    probe: Probe | None = None
    keep: Literal["last", "best"] = field(default="last", metadata=ADDED)
    keep_by: Literal["truth", "reward"] | None = field(default=None, metadata=ADDED)
    stop_when_over_optimised: bool = field(default=False, metadata=ADDED)

    def check_watched(self) -> None:
        """Raises TropismError for settings that need a probe if there is none."""
        stage = type(self).__name__.lower()
        if self.keep_by and self.keep != "best":
            raise TropismError(
                f'{stage}.keep_by = "{self.keep_by}" chooses nothing with keep = "last": set keep = "best"'
            )
        if self.keep == "best" and self.probe is None:
            raise TropismError(f'{stage}.keep = "best" needs looks to choose from: add a probe, or leave keep out')
        if self.keep_by == "truth" and self.probe and self.probe.truth is None:
            raise TropismError(
                f'{stage}.keep_by = "truth" needs a judge of the truth: give the probe a truth, or keep by "reward"'
            )
        if self.stop_when_over_optimised and (self.probe is None or self.probe.truth is None):
            raise TropismError(f"{stage}.stop_when_over_optimised needs a probe with a truth: add one, or leave it out")

    @property
    def kept_by(self) -> str:
        """The figure for choosing the best look."""
        return self.keep_by or ("truth" if self.probe and self.probe.truth else "reward")

    def look(
        self,
        seen: dict[str, Any],
        policy: PreTrainedModel,
        reference: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase,
        round: int,
        spent: int,
    ) -> dict[str, Any]:
        """A line for the metrics, empty without a probe, which needs a `reference`; `seen` is the table of the looks so
        far."""
        if self.probe is None or reference is None:
            return {}
        line = self.probe.look(policy, reference, tokenizer, spent)
        if self.keep == "best" and (figure := line.get(f"probe_{self.kept_by}")) is not None:
            remember(seen, policy, -figure, round)
        if self.stop_when_over_optimised:
            self._judge(seen, line)
        return line

    def _judge(self, seen: dict[str, Any], line: dict[str, Any]) -> None:
        """Adds a look to those `seen`, and notes there if they show that the policy is over-optimised."""
        if (asked := len(line["by_prompt"]["reward"])) < PROMPTS:
            raise TropismError(
                f"stop_when_over_optimised needs {PROMPTS} prompts to tell a fall from noise, but the probe has "
                f"{asked}: give it more"
            )
        seen.setdefault("lines", []).append({key: line[key] for key in ("spent", "probe_kl", "by_prompt")})
        looks = [look for one in seen["lines"] if (look := read_look(one))]
        if far := fall_so_far(looks):
            seen["over_optimised"] = far

    def leave(
        self, seen: dict[str, Any], policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, work: Work, dtype: str
    ) -> None:
        """Writes the result, and says why the stage ended early, if it did. Raises TropismError if the best weights are
        to be kept and no look has a figure."""
        if far := seen.get("over_optimised"):
            work.facts["over_optimised"] = far
            work.note(
                f"ended as over-optimised: since {far['kl']:.1f} nats of KL the true quality went from "
                f"{far['truth_best']:g} to {far['truth_last']:g}, the learned reward from {far['reward_best']:g} to "
                f"{far['reward_last']:g}"
            )
        if self.keep == "best":
            if "best" not in seen:
                raise TropismError(
                    f"no look of the probe has a {self.kept_by} to keep by: name another judge, or leave keep out"
                )
            save(policy, tokenizer, work.out / LAST, dtype)
            put_back(seen, policy)
            work.facts |= {"best_round": seen["best_step"], f"best_{self.kept_by}": round(-seen["best_loss"], 4)}
        save(policy, tokenizer, work.out, dtype)
