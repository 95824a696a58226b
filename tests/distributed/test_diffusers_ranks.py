"""Caches around a pipeline of diffusers whose transformer shares its tokens between two ranks."""

from __future__ import annotations

import json
import multiprocessing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from tests.video_pipelines import case, generate
from videosys.cache import IntervalConfig, NoCacheConfig, TeaCacheConfig
from videosys.diffusers import cached

RANKS, SECONDS = 2, 100
CACHES = {
    "none": NoCacheConfig(),
    "interval": IntervalConfig(every=2),
    "teacache": TeaCacheConfig(threshold=0.25),
}


def parallel(pipe: Any) -> None:
    """Ulysses over all ranks. diffusers asks for an accelerator, which a CPU stands in for."""
    from diffusers import ContextParallelConfig

    torch._C._get_accelerator = lambda *args: torch.device("cpu")
    torch.accelerator.device_count = lambda: 1
    for name in ("transformer", "transformer_2"):
        if getattr(pipe, name, None) is not None:
            config = ContextParallelConfig(ulysses_degree=dist.get_world_size())
            getattr(pipe, name).enable_parallelism(config=config)


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=timedelta(seconds=60))
    tensors, seen = {}, {}
    for name in ("wan", "wan_two_models"):
        pipe, call = case(name)
        parallel(pipe)
        tensors[f"{name} plain"] = generate(pipe, call)
        for kind, cache in CACHES.items():
            with cached(pipe, cache=cache) as run:
                tensors[f"{name} {kind}"] = generate(pipe, call)
            seen[f"{name} {kind}"] = [step.computed for step in run.steps]
        tensors[f"{name} after"] = generate(pipe, call)
    seen["error"] = error_of(pipe, call, rank)
    seen["stack"] = refusal(pipe)
    save_file({name: x.contiguous() for name, x in tensors.items()}, folder / f"{rank}.safetensors")
    (folder / f"{rank}.json").write_text(json.dumps(seen))
    dist.barrier()
    dist.destroy_process_group()


def error_of(pipe: Any, call: dict[str, Any], rank: int) -> str:
    """What a rank says where the settings differ from rank to rank."""
    try:
        with cached(pipe, cache=TeaCacheConfig(threshold=0.2 + rank)):
            generate(pipe, call)
    except RuntimeError as error:
        return str(error)
    return ""


def refusal(pipe: Any) -> str:
    try:
        with cached(pipe, cache="interval", place="stack"):
            return ""
    except ValueError as error:
        return str(error)


@pytest.fixture(scope="module", name="ranks")
def both_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(rank, folder), daemon=True) for rank in range(RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * RANKS
    paths = [folder / f"{rank}" for rank in range(RANKS)]
    return [
        (load_file(path.with_suffix(".safetensors")), json.loads(path.with_suffix(".json").read_text()))
        for path in paths
    ]


@pytest.mark.distributed
@pytest.mark.parametrize("name", ["wan", "wan_two_models"])
@pytest.mark.parametrize("kind", CACHES)
def test_two_ranks_decide_alike_and_give_what_one_gives(ranks, name, kind):
    pipe, call = case(name)
    with cached(pipe, cache=CACHES[kind], place="output") as run:
        alone = generate(pipe, call)
    (first, decisions), (second, others) = ranks
    key = f"{name} {kind}"
    assert decisions[key] == others[key] == [step.computed for step in run.steps]
    assert torch.equal(first[key], second[key])
    assert float((first[key] - alone).abs().max()) < 1e-5 * float(alone.abs().max())
    assert torch.equal(first[f"{name} after"], first[f"{name} plain"])
    if kind == "none":
        assert torch.equal(first[key], first[f"{name} plain"])


@pytest.mark.distributed
def test_settings_that_differ_are_an_error_on_all_ranks(ranks):
    for _, seen in ranks:
        assert seen["error"].startswith("the ranks of one video disagree on the settings of the cache")
        assert "have only a rank's share of the tokens" in seen["stack"]
