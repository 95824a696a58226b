"""The benchmark cases. Each case yields rows: plain dictionaries, one per line of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from eval.performance.floor import Floor, total_flops
from eval.performance.models import Setting, Size, Subject, diffusers_step, facts, published
from eval.performance.plan import NO_COMPILER, Plan, Row, name_of
from eval.performance.timing import Run, alternate, counted, once, ratio
from videosys import TeaCache, TeaCacheConfig, compile_blocks, compile_report, graphed

NUM_STEPS = 10_000  # more steps than any benchmark runs with one cache


def steps(plan: Plan) -> Iterator[Row]:
    """Time a step of each model: eager, compiled, its floor, and diffusers' model with the same weights."""
    for setting in plan.settings():
        yield step_row(setting, setting.subject(), plan)


def step_row(setting: Setting, subject: Subject, plan: Plan) -> Row:
    calls = subject.calls()
    floor = Floor(calls, setting.dtype, setting.device) if plan.floor else None
    runs: dict[str, Run] = {"eager": subject.step}
    row: Row = {"model": setting.model, "dtype": name_of(setting.dtype), "tokens": setting.tokens}
    if plan.compile and plan.can_compile:
        runs["compiled"], compiling = compiled_step(setting)
        row |= compiling
    if floor and (theirs := diffusers_step(setting, subject)) is not None:
        runs["diffusers"] = theirs
    samples = alternate(runs | ({"floor": floor.measure} if floor else {}), plan.rounds)
    row |= {} if plan.can_compile or not plan.compile else {"compiled_s": NO_COMPILER}
    row |= {f"{name}_s": samples[name].seconds for name in runs}
    row |= {"spread": max(sample.spread for sample in samples.values()), "gflop": total_flops(calls) / 1e9}
    row |= floor_columns(floor, {name: row[f"{name}_s"] for name in runs}) if floor else {}
    if "diffusers" in runs:
        own = [name for name in ("eager", "compiled") if name in runs]
        row |= {f"{name}_ratio": ratio(samples, "diffusers", name) for name in own}
    return row


def floor_columns(floor: Floor, seconds: Mapping[str, float]) -> Row:
    """The columns that compare measured steps with the floor."""
    row: Row = {"floor_s": floor.seconds}
    row |= {f"{kind}_gflops": floor.peak(kind) / 1e9 for kind in ("linear", "attention")}
    return row | {f"{name}_share": floor.seconds / value for name, value in seconds.items()}


def compiled_step(setting: Setting) -> tuple[Run, Row]:
    """A step with compiled blocks, and a row with the compile time and the number of graph breaks."""
    subject, before = setting.subject(), compile_report()
    compile_blocks(subject.model)
    with torch.no_grad():
        _, seconds = once(subject.step)
    after = compile_report()
    breaks = after.graph_breaks - before.graph_breaks if before and after else "unknown"
    return subject.step, {"compile_s": seconds, "graph_breaks": breaks}


def forced(subject: Subject) -> TeaCache:
    """A TeaCache that has computed one step and reuses it at all others, because its threshold is never
    reached.
    """
    config = TeaCacheConfig(threshold=1e30, coefficients=(1.0, 0.0))
    cache = TeaCache(config, range(NUM_STEPS), lambda row: row[None])
    cache.begin_step(0, 0.0)
    subject.step(cache)
    return cache


def reuse(subject: Subject, cache: TeaCache) -> Run:
    """A skipped step, including the decision."""

    def run() -> torch.Tensor:
        cache.begin_step(1, 1.0)
        made = subject.step(cache)
        assert not cache.steps[-1].computed
        return made

    return run


def overhead(subject: Subject, cache: TeaCache) -> Run:
    """The cache's part of a computed step: signal, decision and residual."""
    model = subject.model
    embedded = model.embed(subject.latents, subject.timesteps, subject.condition)
    x, time = embedded[0], embedded[1:]
    after = x + 1

    def run() -> None:
        cache.begin_step(1, 1.0)
        cache.should_compute(lambda kind: model.signal(kind, x, *time))
        cache.store(x, after)

    return run


@torch.no_grad()
def cached(subject: Subject) -> dict[str, Run]:
    """A skipped step, also with CUDA graphs if available, and the cache's part of a computed step."""
    runs = {"reused": reuse(subject, forced(subject)), "overhead": overhead(subject, forced(subject))}
    if subject.latents.device.type != "cuda":
        return runs
    other = replace(subject, model=graphed(subject.model, subject.latents.device))
    return runs | {"reused_graph": reuse(other, forced(other))}


def caches(plan: Plan) -> Iterator[Row]:
    """Time a computed step, a skipped step, and the cache's overhead in a computed step."""
    for setting in plan.settings():
        subject = setting.subject()
        samples = alternate({"computed": subject.step, **cached(subject)}, plan.rounds)
        row: Row = {"model": setting.model, "dtype": name_of(setting.dtype), "depth": setting.plan.depth}
        row |= {f"{name}_s": sample.seconds for name, sample in samples.items()}
        yield row | shares(row, setting.plan.depth, published()[setting.model].depth)


def shares(row: Row, depth: int, published: int) -> Row:
    """Skipped step and overhead as shares of a computed step, here and with the published number of blocks.

    The time of a computed step is scaled with the number of blocks, because all blocks cost the same; a
    skipped step and the overhead run none.
    """
    blocks = row["computed_s"] - row["reused_s"]
    deep = row["reused_s"] + blocks * published / depth
    return {
        "reused_share": row["reused_s"] / row["computed_s"],
        "overhead_share": row["overhead_s"] / row["computed_s"],
        "reused_share_published_depth": row["reused_s"] / deep,
        "overhead_share_published_depth": row["overhead_s"] / deep,
    }


def real(plan: Plan) -> Iterator[Row]:
    """Time the same for a model of published depth and width at a published size: Open-Sora's 144p, 51
    frames.

    Nothing is scaled. The computed step with its cache runs once, because it takes half a minute on a CPU.
    """
    for published_plan in published().values():
        latents = facts(published_plan.config).get("real")
        if latents is not None:
            yield real_row(Setting(published_plan, torch.bfloat16, plan.device, Size(tuple(latents))), plan)


def real_row(setting: Setting, plan: Plan) -> Row:
    subject, made = setting.subject(), []
    with torch.no_grad():
        if plan.device.type == "cuda":
            forced(subject)  # the first call on a GPU initializes its libraries
        seconds = counted(lambda: made.append(forced(subject)))
        runs = {"reused": reuse(subject, made[0]), "overhead": overhead(subject, made[0])}
    row: Row = {"model": setting.model, "dtype": name_of(setting.dtype), "depth": setting.plan.depth}
    row |= {"width": setting.config.hidden_size, "tokens": setting.tokens}
    row |= {"computed_s": seconds}
    row |= {f"{name}_s": sample.seconds for name, sample in alternate(runs, plan.rounds).items()}
    return row | {f"{name}_share": row[f"{name}_s"] / row["computed_s"] for name in runs}


SCALES: tuple[tuple[str, Sequence[dict[str, Any]]], ...] = (
    ("tokens", [{"latents": (4, side, side)} for side in (16, 32, 64)]),
    ("frames", [{"latents": (frames, 16, 16)} for frames in (1, 4, 16, 64)]),
)


def scaling(plan: Plan) -> Iterator[Row]:
    """Time a step for increasing numbers of tokens per frame and of frames."""
    for model in plan.models:
        for axis, sizes in SCALES:
            setting = Setting.small(model, torch.float32, plan.device)
            yield from scaling_rows(setting, axis, sizes, plan.rounds)


def scaling_rows(setting: Setting, axis: str, sizes: Sequence[dict[str, Any]], rounds: int) -> Iterator[Row]:
    subjects = {size["latents"]: setting.resized(**size).subject() for size in sizes}
    runs: dict[str, Callable[[], object]] = {str(key): subject.step for key, subject in subjects.items()}
    samples = alternate(runs, rounds)
    for latents, subject in subjects.items():
        tokens = setting.resized(latents=latents).tokens
        gflop = total_flops(subject.calls()) / 1e9
        seconds = samples[str(latents)].seconds
        yield {
            "model": setting.model,
            "axis": axis,
            "latents": "x".join(map(str, latents)),
            "tokens": tokens,
            "step_s": seconds,
            "gflop": gflop,
            "us_per_token": 1e6 * seconds / tokens,
            "gflops": gflop / seconds,
        }
