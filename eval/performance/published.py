"""Benchmarks published sizes with random bfloat16 weights on a GPU: single steps and whole generations."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from eval.performance.cases import cached, step_row
from eval.performance.models import Setting, Size, Subject, class_of
from eval.performance.needs import MIB, SMALL, Video, decoder, peak
from eval.performance.operations import TFLOPS, operation_rows
from eval.performance.plan import Plan, Row
from eval.performance.sizes import SIZES, PublishedSize
from eval.performance.timing import Run, alternate, counted
from videosys import NoCacheConfig, TeaCache, TeaCacheConfig, compile_blocks, start
from videosys.estimate import estimate

MOST_KERNELS = 20
TINY_STEPS = 4
GUIDANCE = 4.0
OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class Published:
    """A published size on a device. computed: see `PublishedSize`. video: shape of the decoded video."""

    setting: Setting
    computed: Mapping[str, int]
    video: Video

    @classmethod
    def tiny(cls, size: PublishedSize, device: torch.device, kernels: str = "auto") -> Published:
        """A small replacement: the model with two blocks, and few tokens, steps and frames."""
        where = (torch.bfloat16, device, Size((4, 8, 8), text=5), kernels)
        setting = Setting.small(class_of(size.plan), *where)
        config = replace(size.plan.config, num_inference_steps=TINY_STEPS)
        return cls(replace(setting, plan=replace(setting.plan, config=config)), {"fast": 2}, SMALL)

    @classmethod
    def of(cls, size: PublishedSize, device: torch.device, kernels: str = "auto") -> Published:
        where = (torch.bfloat16, device, Size(size.plan.latent_size), kernels)
        video = (size.plan.config.clip_frames, *size.plan.config.size)
        return cls(Setting(size.plan, *where), size.computed, video)

    @property
    def evaluations(self) -> int:
        """Evaluations of a generation, without those that a sampler adds to its steps."""
        return self.setting.plan.config.steps

    def decoder(self) -> Run:
        """A callable that decodes a video of this size."""
        return decoder(self.setting.plan, self.video, self.setting.dtype, self.setting.device)


Case = Callable[[Plan], Iterator[Row]]


def on_gpu(rows: Callable[[str, Published, Plan], Iterator[Row]], what: str) -> Case:
    """A case that yields the rows of all requested sizes, if there is a GPU."""

    def case(plan: Plan) -> Iterator[Row]:
        if missing := plan.needs_cuda(what):
            yield missing
            return
        for name in plan.sizes:
            size = size_of(name, plan)
            if size.setting.model in plan.models:
                try:
                    yield from rows(name, size, plan)
                except torch.OutOfMemoryError:  # continue with the other sizes
                    yield {"size": name, "step": OUT_OF_MEMORY}
                gc.collect()  # compiled blocks contain reference cycles
                if plan.device.type == "cuda":
                    torch.cuda.empty_cache()

    return case


def size_of(name: str, plan: Plan) -> Published:
    """A published size, or its tiny replacement."""
    return (Published.tiny if plan.tiny else Published.of)(SIZES[name], plan.device, plan.kernels)


def needs_of(name: str, size: Published, plan: Plan) -> Iterator[Row]:
    """Measure an eager and a compiled step against the floor, a skipped step, decoding, and memory."""
    subject = size.setting.subject()
    row: Row = {"size": name, **step_row(size.setting, subject, plan)}
    ideal = row["gflop"] / 1e3 / TFLOPS
    row |= {"ideal_s": ideal}  # all matrix products and attentions at the peak rate
    ways = [way for way in ("eager", "compiled") if isinstance(row.get(f"{way}_s"), float)]
    row |= {f"{way}_over_ideal": row[f"{way}_s"] / ideal for way in ways}
    for kind, sample in alternate(cached(subject), plan.rounds).items():
        row |= {f"{kind}_s": sample.seconds, f"{kind}_share": sample.seconds / row["eager_s"]}
    weights = sum(parameter.nbytes for parameter in subject.model.parameters())
    row |= {"weights_mib": weights / MIB}
    with torch.no_grad():
        row |= {"step_mib": peak(subject.step, plan.device) / MIB}
        row |= decode_row(size, plan)
    yield row | (estimate_row(row, size) if plan.device.type == "cuda" else {})


def estimate_row(row: Row, size: Published) -> Row:
    """The estimated memory of a step and of decoding in MiB, and the measured memory as a share of it.

    For a step, both include the keys and values of the text and the step's input, as in the estimate.
    """
    config = replace(size.setting.plan.config, device="cuda", dtype="bfloat16", cache=NoCacheConfig())
    _, transformer, vae = estimate(config, size.setting.size.text).stages
    columns: Row = {"step_estimate_mib": transformer.total / MIB, "decode_estimate_mib": vae.total / MIB}
    measured = {"step": (row["weights_mib"] + row["step_mib"]) * MIB + transformer.text}
    if isinstance(row.get("decode_mib"), float):
        measured |= {"decode": row["decode_mib"] * MIB + vae.weights}
    for kind, most in measured.items():
        columns[f"{kind}_over_estimate"] = most / MIB / columns[f"{kind}_estimate_mib"]
    return columns


def decode_row(size: Published, plan: Plan) -> Row:
    """Decoding time in seconds and peak memory beyond the weights."""
    try:
        run = size.decoder()
        most = peak(run, plan.device) / MIB
        samples = alternate({"decode": run}, max(plan.rounds // 2, 1))
    except torch.OutOfMemoryError:
        return {"decode_s": OUT_OF_MEMORY}
    return {"decode_s": samples["decode"].seconds, "decode_mib": most}


def kernels_of(name: str, size: Published, plan: Plan) -> Iterator[Row]:
    """The slowest kernels of a step, eager and compiled, with and without this package's kernels; then each
    of this package's kernels.
    """
    for choice in ("none", "auto") if plan.device.type == "cuda" else ("auto",):
        subject = replace(size.setting, kernels=choice).subject()
        head: Row = {"size": name, "step": "eager", "kernels": choice}
        yield from kernel_rows(head, subject.step, plan.device)
        if choice == "auto":
            alone = list(operation_rows({"size": name, "step": "alone"}, subject, plan))
        if plan.compile and plan.can_compile:
            compile_blocks(subject.model)
            yield from kernel_rows({**head, "step": "compiled"}, subject.step, plan.device)
    yield from alone


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
    """TeaCache with all its overhead, but with given computed steps, because random weights would lead to
    other decisions than published ones.
    """

    def __init__(self, computed: frozenset[int], evaluations: int):
        config = TeaCacheConfig(threshold=1e30, coefficients=(1.0, 0.0))
        super().__init__(config, range(evaluations), lambda row: row[None])
        self.computed = computed

    def should_compute(self, signal: Callable[[str], torch.Tensor]) -> bool:
        super().should_compute(signal)
        return self.step in self.computed


def spread(computed: int, evaluations: int) -> frozenset[int]:
    """Evenly spaced steps, including the first and the last."""
    return frozenset(round(i * (evaluations - 1) / (computed - 1)) for i in range(computed))


def generations(name: str, size: Published, plan: Plan) -> Iterator[Row]:
    """Time whole generations without the text encoder: all steps computed, and as many as TeaCache computes.

    Each runs once: a generation takes minutes, long enough for noise to average out.
    """
    if not size.computed:
        return
    subject = size.setting.subject()
    decode = size.decoder()
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
    """Seconds of all evaluations, including guidance and a first-order sampler, and of decoding."""
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
