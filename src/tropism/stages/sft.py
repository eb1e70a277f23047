"""Stage: supervised fine-tuning on demonstrations. Only assistant turns are trained, with their stop tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Interval

from tropism.algorithms.nll import NLL
from tropism.errors import TropismError
from tropism.models.folder import context_of, save
from tropism.models.halves import vocabulary_of
from tropism.models.vocabulary import know
from tropism.models.weights import Weights
from tropism.needs import Earlier, Needs, mean_tokens, training
from tropism.protocols import Format
from tropism.stages._fit import PASS_TOKENS, Data, fit, measure, tell
from tropism.stages._overlap import learns
from tropism.stages._read import fitting, held_out, read
from tropism.store.work import Work
from tropism.tensors.encode import demonstration
from tropism.tensors.tree import Tree
from tropism.text import chat
from tropism.text.template import adopt_template, give_arguments
from tropism.text.tokenizer import load_tokenizer
from tropism.train.loop import Learner
from tropism.train.optim import Optim
from tropism.types import Group, PolicyRef

__all__ = ["SFT"]


@dataclass(frozen=True)
class SFT(Weights):
    """`chat_template` is for a tokenizer that has none: "tropism" or a Jinja file. `template_arguments` are written
    into the template (`{ enable_thinking = false }`) and saved with it, so that every later stage renders the same
    text.

    `train_on`: every assistant turn, or only the last one. If the template writes earlier turns differently from what
    the model says, only the last one is trained, and such conversations are counted. `thinking`: text in `<think>` is
    trained, or kept but not trained, or dropped. `too_long` says what to do with a demonstration longer than the
    model's context.
    """

    model: PolicyRef
    data: Format
    chat_template: str = ""
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    train_on: Literal["all", "last"] = "all"
    thinking: chat.Thinking = "train"
    steps: Annotated[int, Ge(1)] = 400
    groups_per_step: Annotated[int, Ge(1)] = 32
    held_out: Annotated[float, Interval(ge=0, le=0.5)] = 0.02
    too_long: Literal["stop", "skip"] = "stop"
    pass_tokens: Annotated[int, Ge(0)] = PASS_TOKENS  # in one forward pass: lower it if memory is short
    optim: Optim = field(default_factory=lambda: Optim(lr=4e-3))

    version: ClassVar[int] = 3
    makes: ClassVar[Literal["policy"]] = "policy"

    def needs(self, earlier: Earlier) -> Needs:
        each = mean_tokens(self.data.groups())
        at_once = self.groups_per_step * each
        return training(
            earlier.model(self.model),
            updates=self.steps,
            tokens=self.steps * at_once,
            at_once=at_once,
            pass_tokens=self.pass_tokens,
            group=each,
        )

    def run(self, work: Work) -> None:
        groups = read(self.data, "data", work)
        tokenizer = load_tokenizer(self.model)
        model = self.train_lm(self.model, work.seed)
        tell(work, model)
        if self.chat_template:
            adopt(tokenizer, self.chat_template)
            if len(tokenizer) > vocabulary_of(model):
                if self.adapter.r:
                    raise TropismError(
                        f"chat_template = {self.chat_template!r} adds tokens to {self.model}, but an adapter trains no "
                        "embeddings: run one sft stage without `adapter` first"
                    )
                model.resize_token_embeddings(len(tokenizer))
            know(model, tokenizer)
            model.config.eos_token_id, model.config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
        if self.template_arguments:
            give_arguments(tokenizer, self.template_arguments)
        context = context_of(model)
        rewritten: list[str] = []

        def make(group: Group) -> Tree:
            try:
                return demonstration(group, tokenizer, context, self.train_on, self.thinking)
            except chat.Rewritten:
                made = demonstration(group, tokenizer, context, "last", self.thinking)
                rewritten.append(group.id)
                return made

        kept = fitting(groups, make, self.too_long, work, self.data)
        if rewritten:
            work.note(
                f"in {len(rewritten)} of {len(kept)} conversations only the last turn is trained: the chat template writes "
                "earlier turns differently from what a model says"
            )
            work.facts["last_turn_only"] = len(rewritten)
        train, test = held_out([g for g, _ in kept], self.held_out)
        learns(work, train)
        trees = {g.id: t for g, t in kept}
        before = measure({"policy": model}, NLL(), [trees[g.id] for g in test])["loss"].value if test else None
        learner = Learner({"policy": model}, self.optim, self.steps, pass_tokens=self.pass_tokens, layout=self.layout)
        fit(work, learner, NLL(), Data([trees[g.id] for g in train], self.steps, groups=self.groups_per_step))
        work.facts |= {
            "demonstrations": len(train),
            "tokens": sum(t.size for t in trees.values()),
        }
        if test:
            after = measure({"policy": model}, NLL(), [trees[g.id] for g in test])["loss"]
            work.facts |= {
                "held_out_loss_before": round(before or 0.0, 4),
                "held_out_loss": round(after.value, 4),
                "held_out_tokens": int(after.count),
            }
        save(model, tokenizer, work.out, self.save_dtype)


def adopt(tokenizer: object, template: str) -> None:
    """Gives a tokenizer a chat template: tropism's own, or the Jinja file at `template`."""
    if template == "tropism":
        adopt_template(tokenizer)  # type: ignore[arg-type]
        return
    try:
        tokenizer.chat_template = Path(template).read_text(encoding="utf-8")  # type: ignore[attr-defined]
    except OSError as error:
        raise TropismError(
            f'chat_template = {template!r} cannot be read ({error.strerror}): give "tropism" or the '
            "path of a Jinja file"
        ) from None
