"""Scored samples in the run folder's `samples`, under a name that depends on everything that can change them.

A different threshold or loss, or a second run, then uses the same samples. Left out: deleting them; the user can do
that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from tropism.errors import TropismError
from tropism.protocols import EngineSpec, Judge
from tropism.recipe.refs import bind
from tropism.store import files
from tropism.store.fingerprint import describe
from tropism.store.groups import read_groups
from tropism.store.plain import to_json
from tropism.store.work import Work
from tropism.tensors.tree import Tree
from tropism.types import Group, SamplingParams


def weights_of(model: PreTrainedModel) -> str:
    """A name for the current policy: the hash of its weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        data = value.detach().cpu().flatten().view(torch.uint8)  # numpy has no bfloat16
        digest.update(name.encode() + data.numpy().tobytes())
    return digest.hexdigest()


def name_of(
    weights: str,
    judge: Judge,
    asked: Sequence[tuple[Group, Tree]],
    sampling: SamplingParams,
    engine: EngineSpec,
    version: int,
) -> str:
    """A name for scored samples. It depends on the policy, the judge with the content of its models, the prompts as the
    policy reads them, the sampling with its engine, and the `version` of the stage."""
    known = bind(judge, lambda ref: files.content_hash(Path(ref)) if Path(ref).exists() else ref)
    prompts = [(to_json(g), t.prompt) for g, t in asked]
    facts = [weights, describe(known), prompts, *describe([sampling, engine]), version]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def read_again(path: Path, work: Work) -> list[Group]:
    """The samples with which an unfinished stage continues."""
    if files.sealed(path) is None:
        raise TropismError(
            f"{path} was removed or changed while {work.id} was unfinished: delete {work.folder} as well"
        )
    return list(read_groups(path))
