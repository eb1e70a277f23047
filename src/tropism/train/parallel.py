"""Several processes (ranks) that train one model. No other file deals with them.

    torchrun --standalone --nproc-per-node 2 -m tropism.cli run RECIPE

Every rank runs the whole recipe and builds the same batches. In an update each rank takes a share of the batch's groups
(`share`) and adds up their loss totals, counts and gradients; then these are added up over the ranks (`add_metrics`,
`add_gradients`). The sum is divided once by the count of the whole update, so two ranks make the same update as one.
Each rank gets the same sum and takes the same step, so their weights stay equal bit for bit and are not sent again.

Started without torchrun there is one rank, and nothing here takes any time.

Left out: sharding (each rank has the weights, the optimiser and one flat copy of the gradients), sending gradients
while others are still computed, and NCCL (sums go through the host's memory).
"""

from __future__ import annotations

import contextlib
import functools
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from tropism.errors import TropismError, Waiting
from tropism.protocols import Engine
from tropism.store.peers import Peers
from tropism.tensors.batch import Batch
from tropism.tensors.ratio import Ratio, total
from tropism.tensors.rows import passes, take_rows
from tropism.types import Completion, Message, SamplingParams

T = TypeVar("T")
LONGEST_WAIT = timedelta(
    days=7
)  # for a rank that works (a judge may be a person); one that has ended is noticed at once


@contextlib.contextmanager
def joined() -> Iterator[Peers]:
    """Connects to the other ranks if this process was started as one of several; disconnects at the end."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield peers()
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group("gloo", timeout=LONGEST_WAIT)
    try:
        yield peers()
    finally:
        dist.destroy_process_group()


def peers() -> Peers:
    """The ranks, as the Peers of a run folder."""
    return _Ranks() if size() > 1 else Peers()


def size() -> int:
    """The number of ranks."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Ranks(Peers):
    def __init__(self) -> None:
        self.leads = dist.get_rank() == 0

    def once(self, make: Callable[[], T]) -> T:
        value: Any = None
        error: TropismError | None = None
        if self.leads:
            try:
                value = make()
            except TropismError as found:  # raised on every rank, or the others would wait
                error = (Waiting if isinstance(found, Waiting) else TropismError)(str(found))
        value, error = _gather((value, error))[0]
        if error:
            raise error
        return value


def split(sizes: Sequence[int], parts: int) -> list[list[int]]:
    """Indices of `sizes` in `parts` parts with similar sums: largest first, into the emptiest. Parts may be empty."""
    made: list[list[int]] = [[] for _ in range(parts)]
    fill = [0] * parts
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        part = fill.index(min(fill))
        made[part].append(index)
        fill[part] += sizes[index]
    return made


def share(batch: Batch) -> Batch | None:
    """This rank's part of a batch: whole groups, balanced by token count (padding included). None if nothing is
    left for it."""
    if size() == 1:
        return batch
    units = passes(batch, 1)  # the smallest runs of rows that do not split a group
    mine = split([len(rows) for rows in units], size())[dist.get_rank()]
    rows = sorted(row for unit in mine for row in units[unit])
    return take_rows(batch, rows) if rows else None


def add_metrics(
    metrics: dict[str, Ratio], bad: tuple[str, ...], batch: Batch
) -> tuple[dict[str, Ratio], tuple[str, ...]]:
    """The sum of the metrics of all ranks, and the first `bad` that is not empty: the same on every rank.

    Raises TropismError on every rank if the whole `batch` is not the same on all.
    """
    if size() == 1:
        return metrics, bad
    on_host = {name: Ratio(r.total.detach().cpu(), r.count.detach().cpu()) for name, r in metrics.items()}
    found = _gather((on_host, bad, _mark(batch)))
    if len({mark for _, _, mark in found}) > 1:
        raise TropismError(
            f"the processes have different batches, this one has the groups {', '.join(batch.ids[:8])}: make the "
            "formats, judges and engines of the recipe give every process the same, or run it in one process"
        )
    return total(m for m, _, _ in found), next((b for _, b, _ in found if b), ())


@torch.no_grad()
def add_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Adds up each parameter's gradient over the ranks, in float32 or wider: one all-reduce of one flat tensor.

    A parameter that no rank has a gradient for keeps none.
    """
    if size() == 1:
        return
    trained = [p for p in dict.fromkeys(parameters) if p.requires_grad]
    wide = functools.reduce(torch.promote_types, (p.dtype for p in trained), torch.float32)
    known = torch.tensor([p.grad is not None for p in trained], dtype=wide)
    gradients = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten().to("cpu", wide) for p in trained]
    flat = torch.cat([known, *gradients])
    with _waiting():
        dist.all_reduce(flat)
    known, *gradients = flat.split([len(trained), *(p.numel() for p in trained)])
    for parameter, gradient, ranks in zip(trained, gradients, known.tolist()):
        if ranks:
            parameter.grad = gradient.view_as(parameter).to(parameter.device, parameter.dtype)


@torch.no_grad()
def follow(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Gives every rank the leader's weights at the start."""
    if size() == 1:
        return
    for parameter in parameters:
        if parameter.requires_grad:
            sent = parameter.detach().cpu()
            with _waiting():
                dist.broadcast(sent, 0)
            parameter.copy_(sent)


def generate(
    engine: Engine, prompts: Sequence[Sequence[Message]], params: SamplingParams
) -> list[tuple[Completion, ...]]:
    """`engine.generate`, where each rank samples for some of the prompts and gets all completions.

    A sample depends only on the weights, the prompt, the seed and its number, so any rank may draw it. A prompt that
    occurs more than once stays with one rank, which continues the numbers of its samples.
    """
    if size() == 1:
        return engine.generate(prompts, params)
    alike: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for p, prompt in enumerate(prompts):  # ignoring blanks at the ends, as a chat template may strip them
        alike.setdefault(tuple((m.role, "".join(m.content.split())) for m in prompt), []).append(p)
    asked = list(alike.values())
    mine = sorted(p for part in split([len(a) for a in asked], size())[dist.get_rank()] for p in asked[part])
    answers = engine.generate([prompts[p] for p in mine], params) if mine else []
    every = {p: answer for part in _gather(list(zip(mine, answers))) for p, answer in part}
    return [every[p] for p in range(len(prompts))]


def _gather(value: Any) -> list[Any]:
    """Every rank's value, in the order of the ranks. Returns when all ranks have called it."""
    found: list[Any] = [None] * size()
    with _waiting():
        dist.all_gather_object(found, value)
    return found


@contextlib.contextmanager
def _waiting() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # the connection to a process that has ended
        raise TropismError(
            "another process of this run has ended, see its message above: run the same command again to continue"
        ) from error


def _mark(batch: Batch) -> int:
    """A checksum of a batch's tokens and rewards."""
    mark = 0
    for part in (batch.tokens_BT, batch.reward_N):
        if isinstance(part, Tensor):
            mark = zlib.crc32(part.cpu().contiguous().numpy().tobytes(), mark)
    return mark
