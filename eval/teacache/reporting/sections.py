"""The sections of the report, as blocks of a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import methods
from toolbox import read_json, write_text

from reporting import draw, gpus, page, work
from reporting.results import YARDSTICKS, Model, Result, twins
from videosys import read_video, transformer_work

HERE = Path(__file__).resolve().parent
PAPER = HERE / "paper.json"
NOTHING = "-"
AGAINST = {
    methods.BASE: "the method's own full run (base)",
    methods.REFERENCE: "a run of several times more steps (reference)",
}
HEAD = ("method", "computed", "TFLOPs", "speed-up", "latency s", "VBench %")
PAPER_HEAD = ("method", "PFLOPs", "speed-up", "latency s", "VBench %", "LPIPS", "SSIM", "PSNR")
PAPER_KEYS = ("pflops", "speedup", "latency", "vbench", "lpips", "ssim", "psnr")
METRIC_HEAD = (("lpips", "LPIPS", 4), ("ssim", "SSIM", 4), ("psnr", "PSNR dB", 2))


def introduction(models: Sequence[Model], command: str) -> list[page.Block]:
    lines = [
        "PSNR (dB, 100 for equal frames), SSIM and LPIPS are means over frames, then over videos. A "
        "comparison with base shows what the cache changed; a comparison with reference shows the distance "
        "from the sampler's limit. FLOPs are those of the transformer, counted for the text of each prompt, "
        "two per multiply-add. Steps computed 'in part' reused some branches of blocks. Latency is the "
        "median over videos of a whole generation, without loading and a first generation; on one CPU "
        "thread it is CPU time. Speed-up is the time of base divided by the method's time, for the same "
        "videos."
    ]
    lines += [f"Generated with `{command}`."] if command else []
    return [page.Text(line) for line in lines]


def model_section(model: Model, folder: Path) -> list[page.Block]:
    """The section of a model; its images are written to `folder`."""
    record = next(iter(model.base.records.values()))
    size = f"{record['frames']} frames of {record['width']} x {record['height']}"
    devices = " and ".join(model.devices)
    return [
        page.Heading(model.name),
        page.Text(f"{model.num_videos} videos of {size}, {record['steps']} model evaluations; {devices}."),
        main_table(model),
        page.Text(said_against(model)),
        *doubts(model),
        *plot(model, folder),
        *side_by_side(model, folder),
        *paper(model),
    ]


def main_table(model: Model) -> page.Table:
    yardsticks = [name for name in YARDSTICKS if model.result(name) is not None]
    metrics = [
        item
        for item in METRIC_HEAD
        if any(r.value(y, item[0]) is not None for r in model.results for y in yardsticks)
    ]
    columns = [f"{title} to {name}" for name in yardsticks for _, title, _ in metrics]
    rows = [
        [
            *figures(result, model.base),
            *(likeness(result, name, metric, digits) for name in yardsticks for metric, _, digits in metrics),
        ]
        for result in model.results
    ]
    return page.Table([*HEAD, *columns], rows)


def figures(result: Result, base: Result) -> list[str]:
    flops = None if result.flops is None else result.flops / 1e12
    vbench = result.vbench or {}
    mark = " (incomplete)" if vbench.get("missing") else ""
    return [
        result.name,
        f"{result.computed:.1f} of {result.evaluations:.0f}{', in part' if result.is_partial else ''}",
        number(flops, 3),
        f"{result.speedup(base):.2f}",
        f"{result.latency:.2f}",
        number(vbench.get("total"), 2) + mark,
    ]


def likeness(result: Result, yardstick: str, metric: str, digits: int) -> str:
    row: Mapping[str, Any] = result.likeness.get(yardstick, {}).get(metric, {})
    if not row:
        return NOTHING
    error = f" ± {row['error']:.{digits}f}" if row.get("error") is not None else ""
    return f"{row['per_video']:.{digits}f}{error}"


def number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def said_against(model: Model) -> str:
    """A sentence on the references and the uncertainty of the table's similarity metrics."""
    parts = [f"'{name}' is {AGAINST[name]}" for name in YARDSTICKS if model.result(name) is not None]
    reference = model.result(methods.REFERENCE)
    more = f" with {reference.evaluations:.0f} evaluations" if reference is not None else ""
    missing = [
        f"{title} was not measured: no weights"
        for metric, title, _ in METRIC_HEAD
        if all(result.value(name, metric) is None for result in model.results for name in YARDSTICKS)
    ]
    return "; ".join([" and ".join(parts) + more, "± is the standard error over videos", *missing]) + "."


def doubts(model: Model) -> Iterator[page.Block]:
    """Remarks on the limits of the table, if any."""
    videos = model.base.records.keys()
    others = [result for result in model.results if result.records.keys() != videos]
    if others:
        counts = ", ".join(f"{item.name} ({len(item.records.keys() & videos)})" for item in others)
        yield page.Text(
            f"Some methods lack videos; of base's {len(videos)} videos, they have: {counts}. Similarity and "
            "speed-up use the videos that both methods have, other columns use all videos of a method."
        )
    if len(model.devices) > 1:
        yield page.Text("The videos were generated on different devices, so their times cannot be compared.")
    for names in twins(model.folder, model.results):
        yield page.Text(f"These methods give identical videos, byte for byte: {', '.join(names)}.")
    if naive := [result.name for result in model.results if result.is_uncalibrated]:
        yield page.Text(
            f"No coefficients are published for this model: {', '.join(naive)} compares distances with the "
            "threshold without rescaling."
        )
    assumed = [result.name for result in model.results if result.num_assumed and result.costs is not None]
    if assumed:
        yield page.Text(
            f"The manifests of {', '.join(assumed)} do not have the number of text tokens. Their FLOPs are "
            "upper bounds, counted for the longest prompt."
        )
    if any(result.costs is None for result in model.results):
        yield page.Text(
            "FLOPs are missing: runs.jsonl does not describe the transformer and its checkpoint is not on "
            "this computer, or this report does not know this kind of transformer."
        )
    elif uncounted := [result.name for result in model.results if result.saved is None]:
        yield page.Text(
            f"FLOPs of {', '.join(uncounted)} are missing: flops.json has no count that includes all the "
            "work of a full run. Run experiments/*.py again to create one."
        )


def plot(model: Model, folder: Path) -> Iterator[page.Block]:
    """Plot quality against latency, one panel per yardstick."""
    panels = []
    for yardstick in YARDSTICKS:
        values = {result.name: (result.latency, result.value(yardstick, "psnr")) for result in model.results}
        points = {name: (x, y) for name, (x, y) in values.items() if y is not None and name not in YARDSTICKS}
        base = values[methods.BASE]
        if base[1] is not None:
            points = {methods.BASE: (base[0], base[1]), **points}
        if points:
            panels.append(draw.Panel(f"against {yardstick}", "latency, s", "PSNR, dB", points))
    if panels:
        name = f"{model.name}_psnr_latency.svg"
        write_text(folder / name, draw.plot(panels))
        yield page.Picture(name, f"{model.name}: PSNR against latency")


def side_by_side(model: Model, folder: Path) -> Iterator[page.Block]:
    """Frames of one video with every method."""
    shared = set.intersection(*({*result.records} for result in model.results))
    if not shared:
        return
    file = next(name for name in model.base.records if name in shared)
    videos = {result.name: read_video(model.folder / result.name / file)[0] for result in model.results}
    name = f"{model.name}_frames.png"
    draw.frames(videos, folder / name)
    yield page.Text(f"The same prompt and seed: {model.base.records[file]['prompt']!r}.")
    yield page.Picture(name, f"{model.name}: frames of every method")


def paper(model: Model) -> list[page.Block]:
    """The paper's own table of this model, quoted."""
    quoted = read_json(PAPER)
    name = model.study.removesuffix("_v1_2")
    rows = quoted["models"].get(name)
    if rows is None:
        return []
    cells = [
        [row["method"], *(NOTHING if row[key] is None else f"{row[key]:g}" for key in PAPER_KEYS)]
        for row in rows
    ]
    said = f"Quoted from the paper, not measured here, relative to its own full runs: {quoted['source']}"
    remark = quoted["remarks"].get(name, "")
    return [page.Text(f"{said} {remark}".rstrip()), page.Table(PAPER_HEAD, cells)]


def projection(models: Sequence[Model], gpu: gpus.Gpu) -> list[page.Block]:
    """The projected effect of shares of computed steps at the published sizes."""
    head = ("size", "method", "computed", "PFLOPs", "speed-up", "loop s, fused", "loop s, eager")
    rows = [row for setting in work.SETTINGS for row in projected(setting, models, gpu)]
    text = (
        f"Calculated, not measured, for one {gpu.name} (peaks of {gpu.peak_flops / 1e12:g} TFLOP/s in "
        f"bfloat16 and {gpu.peak_bandwidth / 1e12:g} TB/s: {gpu.source}). FLOPs are counted from the models "
        "at the published sizes with the longest prompt. The loop's time is the sum of these FLOPs at "
        f"{gpus.PRODUCTS:g} of the peak and of the remaining memory traffic at {gpus.COPIES:g} of the peak "
        "bandwidth. This is a lower bound; good code takes 1.35 to 1.6 times as long. Text encoder and "
        "autoencoder are not included. Rows marked 'paper' use the computed steps implied by the paper's "
        "latencies. Rows marked 'tiny' use the share of computed steps of the tiny checkpoint above "
        "('run': of another checkpoint), for TeaCache and for the cheapest method whose PSNR to base is at "
        "least TeaCache's. Whether a large model needs the same share as a tiny one is not known."
    )
    return [page.Heading("Published sizes"), page.Text(text), page.Table(head, rows)]


def projected(setting: work.Setting, models: Sequence[Model], gpu: gpus.Gpu) -> Iterator[list[str]]:
    counted, every = transformer_work(setting.plan), setting.plan.evaluations
    base = work.seconds(counted, every, every, gpu, fused=True)
    for name, computed in {"base": float(every), **shares(setting, models)}.items():
        fused, eager = (work.seconds(counted, computed, every, gpu, fused) for fused in (True, False))
        flops = counted.total(computed, every) / 1e15
        yield [
            setting.title,
            name,
            f"{computed:.0f} of {every}",
            f"{flops:.2f}",
            f"{base / fused:.2f}",
            f"{fused:.1f}",
            f"{eager:.1f}",
        ]


def shares(setting: work.Setting, models: Sequence[Model]) -> dict[str, float]:
    """Computed steps by method: from the paper, and from the tiny checkpoint of the same model."""
    evaluations = setting.plan.evaluations
    steps: dict[str, float] = {}
    paper = read_json(PAPER)["computed_steps"].get(setting.study, {})
    for name in ("TeaCache-slow", "TeaCache-fast"):
        if name in paper:
            steps[f"{name} (paper)"] = paper[name] / paper["all"] * evaluations
    for model in models:
        if model.study.removesuffix("_v1_2") == setting.study:
            mark = "tiny" if model.name.endswith("_tiny") else "run"
            parts = measured(model).items()
            steps |= {f"{name} ({mark})": share * evaluations for name, share in parts}
    return steps


def measured(model: Model) -> dict[str, float]:
    """Shares of computed steps of TeaCache, and of the cheapest method that is at least as good."""
    parts = {}
    for name in ("teacache_slow", "teacache_fast"):
        teacache = model.result(name)
        if teacache is not None:
            best = cheapest(model, teacache)
            parts[name] = teacache.computed / teacache.evaluations
            if best.name != name:
                parts[f"{best.name}, as good as {name}"] = best.computed / model.base.evaluations
    return parts


def cheapest(model: Model, other: Result) -> Result:
    """The cache with the fewest computed steps whose PSNR to base is at least that of another."""
    least = other.value(methods.BASE, "psnr")
    rivals = [
        result
        for result in model.results
        if result.name not in YARDSTICKS and not result.name.startswith("steps_") and not result.saved
    ]
    good = [r for r in rivals if least is not None and (r.value(methods.BASE, "psnr") or 0) >= least]
    return min([other, *good], key=lambda result: result.computed)
