"""Two processes that meet as ranks 0 and 1: to run a function in, or a command."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny_recipe import Kill, _command


def two_ranks(work: Callable[..., Any], *args: Any) -> list[Any]:
    """What `work(rank, *args)` returned on rank 0 and on rank 1; where it raised, the error instead.

    `work` stands at the top of a module, as the processes find it by its name.
    """
    with tempfile.TemporaryDirectory() as folder:
        results = [Path(folder) / f"{rank}" for rank in range(2)]
        _both(_called, [(result, work, args) for result in results])
        return [pickle.loads(path.read_bytes()) if path.exists() else None for path in results]


def tropism_on_two(*words: object, kill: Kill | None = None) -> list[int | None]:
    """The exit statuses of `tropism WORDS` on two ranks. With `kill` rank 0 kills itself."""
    return _both(_command, [(tuple(map(str, words)), kill), (tuple(map(str, words)), None)])


def _both(work: Callable[..., None], arguments: list[tuple[Any, ...]]) -> list[int | None]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tropism.plan", "tropism.report.build", "tropism.report.summary", "tropism.talk"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [context.Process(target=_rank, args=(r, port, work, arguments[r])) for r in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in started]


def _rank(rank: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import torch

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    work(*arguments)


def _called(result: Path, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    import torch

    from tropism.train import parallel

    torch.use_deterministic_algorithms(True)
    try:
        with parallel.joined():
            found = work(int(os.environ["RANK"]), *args)
    except Exception as error:
        found = RuntimeError(repr(error))
    result.write_bytes(pickle.dumps(found))
