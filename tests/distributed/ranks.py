"""Processes on gloo that run all cases and checks of a world size, and write down what came out."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from tests.distributed.cases import MESHES, cases
from tests.distributed.checks import CHECKS
from videosys.parallel import Parallel, ParallelConfig

PATIENCE = timedelta(seconds=120)


@dataclass(frozen=True)
class Outcome:
    """The results of one rank: tensor and decisions of every case, and the observation of every check."""

    tensors: dict[str, torch.Tensor]
    steps: dict[str, list[dict[str, Any]]]
    seen: dict[str, Any]


@contextmanager
def started(world_size: int, folder: Path) -> Iterator[Callable[[float], list[Outcome]]]:
    """Ranks at work; the function waits so many seconds for them and returns the outcome of each."""
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=work, args=(rank, world_size, folder), daemon=True)
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    try:
        yield lambda seconds: outcomes(processes, folder, seconds)
    finally:
        for process in processes:
            process.kill()


def outcomes(processes: list[Any], folder: Path, seconds: float) -> list[Outcome]:
    """The outcome of each rank. AssertionError where one failed, or is not done in time."""
    for process in processes:
        process.join(seconds)
    codes = [process.exitcode for process in processes]
    assert codes == [0] * len(processes), f"ranks ended with {codes}; None is for one that hangs"
    return [read(folder, rank) for rank in range(len(processes))]


def read(folder: Path, rank: int) -> Outcome:
    noted = json.loads((folder / f"{rank}.json").read_text())
    return Outcome(load_file(folder / f"{rank}.safetensors"), **noted)


def work(rank: int, world_size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=PATIENCE)
    meshes = {axes: mesh(world_size, axes) for axes in MESHES[world_size]}
    tensors, steps = {}, {}
    for case in cases(world_size):
        output, records = case.run(meshes[case.axes])
        tensors[case.name] = output.contiguous()
        steps[case.name] = [asdict(record) for record in records]
    seen = {name: check(rank, world_size) for name, check in CHECKS.items()}
    save_file(tensors, folder / f"{rank}.safetensors")
    (folder / f"{rank}.json").write_text(json.dumps({"steps": steps, "seen": seen}))
    dist.barrier()
    dist.destroy_process_group()


def mesh(world_size: int, axes: tuple[int, int, int]) -> Parallel:
    dp, cfg, sp = axes
    return Parallel.from_config(ParallelConfig(world_size, dp, cfg, sp), "cpu")
