"""What only several processes can show: each function runs on every rank and returns what it saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist

from tests.distributed.cases import CACHES
from tests.distributed.models import Request, build, condition, forward, latents, loop
from videosys.cache import NO_CACHE, start
from videosys.generation.denoise import Sampling, denoise
from videosys.layers.tiling import Tiling
from videosys.models.open_sora_plan.autoencoder import V110, V120, CausalVAE
from videosys.parallel import Parallel, ParallelConfig
from videosys.schedulers.rflow import RFlowScheduler

Check = Callable[[int, int], Any]  # of rank and world size


def mesh(world_size: int, cfg: int = 1, sp: int | None = None, **options: Any) -> Parallel:
    config = ParallelConfig(world_size, cfg=cfg, sp=sp or world_size // cfg, **options)
    return Parallel.from_config(config.resolved(is_guided=True), "cpu")


def raised(run: Callable[[], Any]) -> str:
    """The error of something that must fail."""
    try:
        run()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def exchanges(rank: int, world_size: int) -> list[str]:
    """The operations on shards that are uneven or empty, against the whole tensor; returns what differs."""
    parallel, wrong = mesh(world_size), []
    x = torch.arange(2.0 * 7 * 5 * 3).view(2, 7, 5, 3)
    for dim, other in ((1, 2), (2, 1), (0, 1), (1, 0), (2, 3), (3, 2)):
        shard, size = parallel.shard(x, dim), x.shape[dim]
        swapped = parallel.swap_all((shard, -shard), dim, other, size)
        if not torch.equal(parallel.swap(shard, dim, other, size), parallel.shard(x, other)):
            wrong.append(f"swap {dim} {other}")
        if not all(map(torch.equal, swapped, (parallel.shard(x, other), -parallel.shard(x, other)))):
            wrong.append(f"swap_all {dim} {other}")
        if not torch.equal(parallel.gather(shard, dim, size), x):
            wrong.append(f"gather {dim}")
    for dtype in (torch.bfloat16, torch.float64, torch.int64):
        if not torch.equal(parallel.gather(parallel.shard(x.to(dtype), 1), 1, 7), x.to(dtype)):
            wrong.append(f"gather {dtype}")
    return wrong


def shared_work(rank: int, world_size: int) -> list[str]:
    """`map` of fewer and of more items than ranks, of several sizes; returns what differs."""
    parallel, wrong = mesh(world_size), []
    for count in (1, 2, 5, 7):
        items, done, ran = [torch.full((n + 1, 2), float(n)) for n in range(count)], [], []

        def double(item: torch.Tensor, ran: list = ran) -> torch.Tensor:
            ran.append(len(item))
            return torch.cat((item, item)) * 2

        results = list(parallel.map(double, items, done.append))
        if sorted(done) != list(range(count)) or len(ran) > -(-count // world_size) + 1:
            wrong.append(f"{count} items: {done} were reported, {ran} computed")
        if not all(torch.equal(x, torch.cat((item, item)) * 2) for x, item in zip(results, items)):
            wrong.append(f"{count} items: other results")
    return wrong


def rows(rank: int, world_size: int) -> list[list[float]]:
    return mesh(world_size).gather_rows(torch.tensor([rank, 0.5], dtype=torch.float64)).tolist()


def split_rows(rank: int, world_size: int) -> list[list[float]]:
    """Rows of a replica, where there are two."""
    parallel = mesh(world_size, sp=world_size // 2) if world_size % 2 == 0 else mesh(world_size)
    return parallel.gather_rows(torch.tensor([rank], dtype=torch.float64)).tolist()


def other_threshold(rank: int, world_size: int) -> str:
    """Another TeaCache threshold on the last rank."""
    cache = CACHES["naive"]
    own = replace(cache, threshold=0.3) if rank == world_size - 1 else cache
    return raised(lambda: loop(Request("latte"), own, mesh(world_size)))


def other_request(rank: int, world_size: int) -> str:
    """Another request on rank 0: its latents have another checksum."""
    parallel, request = mesh(world_size), Request("latte")
    model, scheduler = build(request, parallel), RFlowScheduler(use_timestep_transform=False)
    scheduler.set_timesteps(6)
    cache = start(CACHES["naive"], scheduler.times(), parallel.gather_rows, 1 if rank == 0 else 2)
    prepared = condition(model, request, parallel)
    return raised(
        lambda: denoise(model, scheduler, latents(request), prepared, Sampling(5.0), cache, parallel)
    )


def no_guidance(rank: int, world_size: int) -> str:
    """A request without guidance where the pair is split."""
    if world_size % 2:
        return "guidance_scale"
    request, parallel = Request("latte"), mesh(world_size, cfg=2)
    model, prepared = build(request, parallel), condition(build(request, parallel), request, parallel)
    sampling = Sampling(guidance_scale=1.0)
    return raised(
        lambda: denoise(model, RFlowScheduler(), latents(request), prepared, sampling, NO_CACHE, parallel)
    )


def gradients(rank: int, world_size: int) -> str:
    parallel = mesh(world_size)
    x = torch.ones(4, 4, requires_grad=True)
    return raised(lambda: parallel.gather(x, 0, 4)) + raised(lambda: parallel.swap(x, 0, 1, 4))


def patience(rank: int, world_size: int) -> list[float]:
    """Seconds after which the groups of both backends give up."""
    backends = ["torch", "colossalai"] if find_spec("colossalai") and world_size == 4 else ["torch"]
    meshes = [mesh(world_size, mesh_backend=backend) for backend in backends]
    groups = [axis.group for m in meshes for axis in (m.dp, m.cfg, m.sp, m.replica)]
    return [group._get_backend(torch.device("cpu")).options._timeout.total_seconds() for group in groups]


def wrong_meshes(rank: int, world_size: int) -> list[str]:
    """Meshes that are refused."""
    open_axes, larger = ParallelConfig(world_size), ParallelConfig(world_size + 1).resolved(True)
    return [
        raised(lambda config=config: Parallel.from_config(config, "cpu")) for config in (open_axes, larger)
    ]


def causal_vae(rank: int, world_size: int) -> list[bool]:
    """Whether tiles of uneven sizes that ranks share decode and encode to the very same."""
    same = []
    for layout, num_frames in ((V110, 9), (V120, 5)):
        tiling = Tiling(32, 4, 5, 2, 0.25)
        config = replace(layout, hidden_size=32, hidden_size_mult=(1, 1, 1, 1), num_res_blocks=1)
        torch.manual_seed(0)
        one = CausalVAE(config, tiling=tiling).eval().requires_grad_(False)
        shared = CausalVAE(config, mesh(world_size), tiling).eval().requires_grad_(False)
        shared.load_state_dict(one.state_dict())
        x = torch.randn(1, 4, (num_frames - 1) // 4 + 1, 5, 9, generator=torch.Generator().manual_seed(1))
        done: list[int] = []
        frames = shared.decode(x, num_frames, done.append)
        same += [torch.equal(one.decode(x, num_frames), frames), sum(done) == num_frames]
        same.append(torch.equal(one.encode(frames).mean, shared.encode(frames).mean))
    return same


def published_vaes(rank: int, world_size: int) -> list[bool]:
    """The same of the autoencoders that diffusers builds; seconds to import, so one world size is enough."""
    if world_size != 3:
        return []
    from tests.tiny_checkpoint import FRAMES, VAE
    from videosys.models.latte.autoencoder import TEMPORAL, LatteVAE
    from videosys.models.opensora.autoencoder import OpenSoraVAE

    narrow = replace(FRAMES, block_out_channels=(32, 32, 32, 32), layers_per_block=1, norm_num_groups=32)
    parallel, same = mesh(world_size), []
    for make, num_frames, latent_frames in (
        (lambda p: OpenSoraVAE(VAE, p), 39, 12),
        (lambda p: LatteVAE(FRAMES, p), 5, 5),
        (lambda p: LatteVAE(replace(narrow, _class_name=TEMPORAL, decode_chunk_size=3), p), 5, 5),
    ):
        torch.manual_seed(0)
        one, shared = (make(p).eval().requires_grad_(False) for p in (Parallel(), parallel))
        shared.load_state_dict(one.state_dict())
        x = torch.randn(2, 4, latent_frames, 3, 2, generator=torch.Generator().manual_seed(1))
        done: list[int] = []
        frames = shared.decode(x, num_frames, done.append)
        same += [torch.equal(one.decode(x, num_frames), frames), sum(done) == 2 * num_frames]
        sources = [torch.Generator().manual_seed(5) for _ in range(2)]
        # Not to the bit: a result that was sent lies in memory in another order.
        encoded = [vae.encode(frames, source) for vae, source in zip((one, shared), sources)]
        same.append(torch.allclose(*encoded, rtol=0, atol=2e-6 * float(encoded[0].abs().max())))
    return same


def grouped_blocks(rank: int, world_size: int) -> list[bool]:
    """Whether blocks that come one after the other give the very same."""
    if world_size != 3:
        return []
    from videosys.generation.groups import Groups

    parallel, same = mesh(world_size), []
    for model in ("opensora", "plan_v120"):
        options = {"parallel": parallel, "cache": CACHES["naive"]}
        whole, steps = loop(Request(model), **options)
        grouped, grouped_steps = loop(
            Request(model), **options, change=lambda m: Groups(m, torch.device("cpu"))
        )
        same += [torch.equal(whole, grouped), steps == grouped_steps]
    return same


def colossalai(rank: int, world_size: int) -> Any:
    """The groups of both backends, and how far their results are apart."""
    if world_size != 4:
        return None
    try:
        import colossalai.cluster  # noqa: F401
    except ImportError as error:
        return str(error)
    meshes = [mesh(4, cfg=2, sp=2, mesh_backend=backend) for backend in ("torch", "colossalai")]
    groups = [
        [list(map(int, dist.get_process_group_ranks(axis.group))) for axis in (m.dp, m.cfg, m.sp, m.replica)]
        for m in meshes
    ]
    outputs = [forward(Request("opensora", prompts=2), m) for m in meshes]
    return {"torch": groups[0], "colossalai": groups[1], "equal": torch.equal(*outputs)}


CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        check.__name__: check
        for check in (
            exchanges,
            shared_work,
            rows,
            split_rows,
            other_threshold,
            other_request,
            no_guidance,
            gradients,
            wrong_meshes,
            causal_vae,
            published_vaes,
            grouped_blocks,
            colossalai,
            patience,
        )
    }
)
