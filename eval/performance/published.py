"""Published sizes with random weights in bfloat16: what a GPU takes for them, step by step and as a whole."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from eval.performance.cases import cached, step_row
from eval.performance.models import Setting, Size, Subject
from eval.performance.needs import MIB, Video, decoder, peak
from eval.performance.plan import Plan, Row
from eval.performance.timing import Run, alternate, counted
from videosys import NoCacheConfig, TeaCache, TeaCacheConfig, compile_blocks, start

TFLOPS = 790.0  # of an H200 in bfloat16, measured in matrix products
MOST_KERNELS = 20
GUIDANCE = 4.0
OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class Published:
    """A size: its transformer, its autoencoder, its video, and the evaluations of a generation.

    computed: of these, how many TeaCache computes in each of its settings (arXiv 2411.19108, table 1).
    """

    setting: Setting
    autoencoder: str
    video: Video
    evaluations: int
    computed: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


def setting(model: str, latents: tuple[int, int, int], depth: int = 28, width: int = 1152) -> Setting:
    return Setting(model, torch.bfloat16, size=Size(latents), depth=depth, width=width, heads=16)


PLAN = ("OpenSoraT2V", "Open-Sora-Plan v1.2.0")
SIZES: Mapping[str, Published] = MappingProxyType(
    {
        "opensora-51x480x848": Published(
            setting("STDiT3", (15, 60, 106)), "Open-Sora v1.2", (51, 480, 848), 30, {"slow": 19, "fast": 12}
        ),
        "latte-16x512x512": Published(
            setting("LatteT2V", (16, 64, 64)), "Latte, temporal", (16, 512, 512), 50, {"slow": 27, "fast": 15}
        ),
        "v110-65x512x512": Published(
            setting("LatteT2V", (17, 64, 64)),
            "Open-Sora-Plan v1.1.0",
            (65, 512, 512),
            150,
            {"slow": 37, "fast": 24},
        ),
        "v120-29x480x640": Published(setting(PLAN[0], (8, 60, 80), 32, 2304), PLAN[1], (29, 480, 640), 100),
        "v120-93x480x640": Published(setting(PLAN[0], (24, 60, 80), 32, 2304), PLAN[1], (93, 480, 640), 100),
    }
)


Case = Callable[[Plan], Iterator[Row]]


def on_gpu(rows: Callable[[str, Published, Plan], Iterator[Row]], what: str) -> Case:
    """The rows of every size that is asked for, where there is a GPU."""

    def case(plan: Plan) -> Iterator[Row]:
        if missing := plan.needs_cuda(what):
            yield missing
            return
        for name in plan.sizes:
            size = SIZES[name]
            if size.setting.model in plan.models:
                here = replace(size, setting=replace(size.setting, device=plan.device))
                try:
                    yield from rows(name, here, plan)
                except torch.OutOfMemoryError:  # the other sizes are still worth measuring
                    yield {"size": name, "step": OUT_OF_MEMORY}
                gc.collect()  # compiled blocks refer to themselves
                torch.cuda.empty_cache()

    return case


def needs_of(name: str, size: Published, plan: Plan) -> Iterator[Row]:
    """A step, eager and compiled, against its floor; a reused one; what it and decoding take."""
    subject = size.setting.subject()
    row: Row = {"size": name, **step_row(size.setting, subject, plan)}
    ideal = row["gflop"] / 1e3 / TFLOPS
    row |= {"ideal_s": ideal}  # all products and attentions at the peak
    ways = [way for way in ("eager", "compiled") if isinstance(row.get(f"{way}_s"), float)]
    row |= {f"{way}_over_ideal": row[f"{way}_s"] / ideal for way in ways}
    for kind, sample in alternate(cached(subject), plan.rounds).items():
        row |= {f"{kind}_s": sample.seconds, f"{kind}_share": sample.seconds / row["eager_s"]}
    weights = sum(parameter.nbytes for parameter in subject.model.parameters())
    row |= {"weights_mib": weights / MIB}
    with torch.no_grad():
        row |= {"step_mib": peak(subject.step, plan.device) / MIB}
        yield row | decode_row(size, plan)


def decode_row(size: Published, plan: Plan) -> Row:
    """Seconds to decode the video, and what that takes beyond the weights."""
    try:
        run = decoder(size.autoencoder, size.video, size.setting.dtype, plan.device)
        most = peak(run, plan.device) / MIB
        samples = alternate({"decode": run}, max(plan.rounds // 2, 1))
    except torch.OutOfMemoryError:
        return {"decode_s": OUT_OF_MEMORY}
    return {"decode_s": samples["decode"].seconds, "decode_mib": most}


def kernels_of(name: str, size: Published, plan: Plan) -> Iterator[Row]:
    """The kernels of a step that take the most time, eager and compiled."""
    subject = size.setting.subject()
    yield from kernel_rows({"size": name, "step": "eager"}, subject.step, plan.device)
    if plan.compile and plan.can_compile:
        compile_blocks(subject.model)
        yield from kernel_rows({"size": name, "step": "compiled"}, subject.step, plan.device)


@torch.no_grad()
def kernel_rows(head: Row, run: Run, device: torch.device) -> Iterator[Row]:
    run()  # compiles and warms up
    is_gpu = device.type == "cuda"
    if is_gpu:
        torch.cuda.synchronize(device)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]
    with profile(activities=kinds) as profiler:
        run()
    own = DeviceType.CUDA if is_gpu else DeviceType.CPU
    events = [event for event in profiler.key_averages() if event.device_type == own]
    micros = [event.self_device_time_total if is_gpu else event.self_cpu_time_total for event in events]
    most = sorted(zip(micros, events), key=lambda pair: -pair[0])[:MOST_KERNELS]
    for time, event in most:
        took = {"calls": event.count, "ms": time / 1e3, "share": time / sum(micros)}
        yield {**head, "kernel": event.key[:80], **took}


class Paced(TeaCache):
    """TeaCache with all its work, computing the steps that it is told: random weights change otherwise than
    published ones.
    """

    def __init__(self, computed: frozenset[int], evaluations: int):
        config = TeaCacheConfig(threshold=1e30, coefficients=(1.0, 0.0))
        super().__init__(config, range(evaluations), lambda row: row[None])
        self.computed = computed

    def should_compute(self, signal: Callable[[str], torch.Tensor]) -> bool:
        super().should_compute(signal)
        return self.step in self.computed


def spread(computed: int, evaluations: int) -> frozenset[int]:
    """So many steps, the first and the last among them, as evenly as may be."""
    return frozenset(round(i * (evaluations - 1) / (computed - 1)) for i in range(computed))


def generations(name: str, size: Published, plan: Plan) -> Iterator[Row]:
    """Whole generations without the text encoder: every step computed, and as many as TeaCache computes.

    Each runs once: a generation takes minutes, and lasts long enough for its noise to even out.
    """
    if not size.computed:
        return
    subject = size.setting.subject()
    decode = decoder(size.autoencoder, size.video, size.setting.dtype, plan.device)
    ways = {"eager": False, **({"compiled": True} if plan.compile and plan.can_compile else {})}
    for way, is_compiled in ways.items():
        if is_compiled:
            compile_blocks(subject.model)
        whole = 0.0
        for setting, computed in {"all": size.evaluations, **size.computed}.items():
            seconds = timed(subject, decode, computed, size.evaluations)
            whole = whole or seconds
            row: Row = {"size": name, "step": way, "teacache": setting, "evaluations": size.evaluations}
            yield row | {"computed": computed, "seconds": seconds, "speedup": whole / seconds}


@torch.no_grad()
def timed(subject: Subject, decode: Run, computed: int, evaluations: int) -> float:
    """Seconds of all evaluations, guidance and a first-order sampler included, and of decoding."""
    if computed < evaluations:
        cache: Any = Paced(spread(computed, evaluations), evaluations)
    else:
        cache = start(NoCacheConfig(), range(evaluations), lambda row: row)
    subject.step()
    decode()

    def run() -> None:
        latents = subject.latents
        for step in range(evaluations):
            cache.begin_step(step, float(evaluations - step))
            made = replace(subject, latents=latents).step(cache)[:, : latents.shape[1]]
            cond, uncond = made.chunk(2)
            latents = latents - (uncond + GUIDANCE * (cond - uncond)).repeat(2, 1, 1, 1, 1) / evaluations
        decode()

    return counted(run)


published = on_gpu(needs_of, "published sizes")
kernels = on_gpu(kernels_of, "kernels by time")
teacache = on_gpu(generations, "TeaCache from end to end")
