"""Reads the results of a folder of samples: times, steps, work, VBench scores and similarity per method."""

from __future__ import annotations

import filecmp
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common_metrics import compare
from experiments import counted, manifest, methods, runner
from toolbox import read_json, write_json

from reporting import costs

METRICS_FOLDER = "metrics"
ONE_THREAD = "CPU, 1 threads"  # suffix of such a device's name in runs.jsonl
YARDSTICKS = (methods.BASE, methods.REFERENCE)  # methods that videos are compared with


@dataclass(frozen=True)
class Result:
    """One method of one model. likeness: yardstick -> metric -> summary as in `compare.summary`."""

    name: str
    records: Mapping[str, Mapping[str, Any]]
    costs: costs.Costs | None
    uses_one_thread: bool
    vbench: Mapping[str, Any] | None = None
    likeness: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    saved: int | None = 0  # FLOPs saved relative to base, counted in a run, if steps are partly computed
    cache: Mapping[str, Any] | None = None  # resolved config, if the run recorded it

    def mean(self, key: str) -> float:
        return statistics.fmean(record[key] for record in self.records.values())

    @property
    def computed(self) -> float:
        return self.mean("computed")

    @property
    def evaluations(self) -> float:
        return self.mean("steps")

    @property
    def time_key(self) -> str:
        """The field with comparable seconds: CPU time on a single CPU thread, because others may use the CPU,
        else wall time, because CPU time is a sum over threads.
        """
        return "cpu_seconds" if self.uses_one_thread else "seconds"

    @property
    def latency(self) -> float:
        return statistics.median(record[self.time_key] for record in self.records.values())

    def speedup(self, base: Result) -> float:
        """Seconds of the base divided by ours, summed over the videos that both have."""
        shared = self.records.keys() & base.records.keys()
        key = self.time_key
        ours, theirs = (sum(item.records[name][key] for name in shared) for item in (self, base))
        return theirs / ours if ours else float("nan")

    @property
    def flops(self) -> float | None:
        """Mean FLOPs of denoising a video; None if they were not counted."""
        if self.costs is None or self.saved is None:
            return None
        return statistics.fmean(map(self.costs.total, self.records.values())) - self.saved

    @property
    def is_partial(self) -> bool:
        """Whether its computed steps are only partly computed, as with a cache of branches."""
        return any(record.get("reused_branches") for record in self.records.values())

    @property
    def num_assumed(self) -> int:
        """Number of videos with an unknown number of text tokens."""
        return sum(record.get("text_tokens") is None for record in self.records.values())

    @property
    def is_uncalibrated(self) -> bool:
        """Whether it is TeaCache without coefficients for its model."""
        cache = self.cache or {}
        asked = next(iter(self.records.values()))["cache"].get("coefficients", ())
        return asked is None and cache.get("coefficients") == [1.0, 0.0]

    def value(self, yardstick: str, metric: str) -> float | None:
        """The mean of a metric over videos, against a yardstick."""
        return self.likeness.get(yardstick, {}).get(metric, {}).get("per_video")


def twins(folder: Path, results: Sequence[Result]) -> list[list[str]]:
    """Groups of two or more methods whose videos are identical byte for byte."""
    groups: list[list[Result]] = []
    for result in results:
        group = next((group for group in groups if are_same(folder, group[0], result)), None)
        if group is None:
            groups.append([result])
        else:
            group.append(result)
    return [[result.name for result in group] for group in groups if len(group) > 1]


def are_same(folder: Path, one: Result, other: Result) -> bool:
    return one.records.keys() == other.records.keys() and all(
        filecmp.cmp(folder / one.name / file, folder / other.name / file, shallow=False)
        for file in one.records
    )


@dataclass(frozen=True)
class Model:
    """All methods of one model, the base first."""

    name: str
    folder: Path
    results: tuple[Result, ...]
    devices: tuple[str, ...]

    def result(self, name: str) -> Result | None:
        return next((result for result in self.results if result.name == name), None)

    @property
    def base(self) -> Result:
        return next(result for result in self.results if result.name == methods.BASE)

    @property
    def config(self) -> Mapping[str, Any]:
        return next(iter(self.base.records.values()))["config"]

    @property
    def study(self) -> str:
        """The model's name without the suffix of tiny checkpoints."""
        return self.name.removesuffix("_tiny")

    @property
    def num_videos(self) -> int:
        return len(self.base.records)


def find_models(root: Path) -> list[Path]:
    """The folders below `root` with a base run. ValueError if there are none."""
    folders = sorted(path.parent for path in root.glob(f"*/{methods.BASE}") if manifest.read(path))
    if not folders:
        raise ValueError(
            f"{root}: contains no MODEL/{methods.BASE}/{manifest.NAME}; run experiments/*.py first"
        )
    return folders


def load_model(folder: Path, metrics: Mapping[str, compare.Metric], quiet: bool = False) -> Model:
    """Load all results of a model. Missing similarity metrics are measured now and saved."""
    runs = list(manifest.lines(folder / runner.RUNS))
    devices = tuple(dict.fromkeys(run["device"] for run in runs)) or ("unknown device",)
    loaded = load_records(folder)
    caches = {name: cache for run in runs for name, cache in run.get("caches", {}).items()}
    work, totals = costs_of(loaded[methods.BASE], runs), counted.read(folder)
    results = [
        Result(
            name,
            records,
            work,
            all(device.endswith(ONE_THREAD) for device in devices),
            vbench_scores(folder / name),
            {
                other: likeness(folder, name, other, loaded, metrics, quiet)
                for other in YARDSTICKS
                if other in loaded and other != name
            },
            saved(name, records, totals, work),
            caches.get(name),
        )
        for name, records in loaded.items()
    ]
    return Model(folder.name, folder, tuple(sorted(results, key=rank)), devices)


def load_records(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """The records of existing videos, by method. ValueError if the base has none."""
    loaded = {path.name: manifest.finished(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    if not loaded.get(methods.BASE):
        raise ValueError(f"{folder / methods.BASE}: none of the videos in its manifest exists")
    return {name: with_tokens(records, loaded) for name, records in loaded.items() if records}


def rank(result: Result) -> tuple[int, float]:
    """The sort key: base and reference first, then by computed steps."""
    first = (methods.BASE, methods.REFERENCE)
    return (first.index(result.name) if result.name in first else len(first), -result.computed)


def with_tokens(
    records: Mapping[str, Mapping[str, Any]], loaded: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """Add the number of text tokens to records, if it is known for any video of the same prompt."""
    known = {
        record["prompt"]: record["text_tokens"]
        for others in loaded.values()
        for record in others.values()
        if record.get("text_tokens") is not None
    }
    return {name: {**record, "text_tokens": known.get(record["prompt"])} for name, record in records.items()}


def costs_of(
    records: Mapping[str, Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]
) -> costs.Costs | None:
    record = next(iter(records.values()))
    described = [run["transformer"] for run in runs if "transformer" in run]
    if described:
        return costs.of_run(described[-1], record["config"])
    return costs.of_config(record["config"], record["frames"], record["height"], record["width"])


def saved(
    name: str,
    records: Mapping[str, Mapping[str, Any]],
    totals: Mapping[str, Mapping[str, Any]],
    work: costs.Costs | None,
) -> int | None:
    """FLOPs that a method saves in its computed steps.

    None if they were not counted, or if the count of the base is below its known work, because the counter
    then missed some operators.
    """
    record = next(iter(records.values()))
    if not record["reused_branches"]:
        return 0
    if work is None or name not in totals:
        return None
    counts, steps = totals[name], record["steps"]
    known = work.work(counts["text_tokens"]).total(steps, steps)
    return counts["base"] - counts["flops"] if counts["base"] >= 0.98 * known else None


def vbench_scores(folder: Path) -> Mapping[str, Any] | None:
    path = folder / "vbench" / "scores.json"
    return read_json(path) if path.is_file() else None


def likeness(
    folder: Path,
    name: str,
    other: str,
    loaded: Mapping[str, Mapping[str, Any]],
    metrics: Mapping[str, compare.Metric],
    quiet: bool,
) -> dict[str, Any]:
    """The similarity summary of a method against a yardstick, over the videos that both have."""
    shared = sorted(loaded[name].keys() & loaded[other].keys())
    path = folder / METRICS_FOLDER / f"{name}_against_{other}.json"
    rows = kept(path, shared, metrics, (folder / name, folder / other))
    if rows is None:
        pairs = [compare.Pair(file, folder / name / file, folder / other / file) for file in shared]
        rows = compare.measure(pairs, metrics, quiet)
        write_json(path, {"method": name, "against": other, "videos": rows})
    names = [name for name in compare.METRICS if all(name in row for row in rows)]
    return compare.summary(rows, names) if rows else {}


def kept(
    path: Path, names: Sequence[str], metrics: Iterable[str], folders: Iterable[Path]
) -> list[dict] | None:
    """The saved measurements, if they are newer than all videos and have these videos and metrics, else
    None.
    """
    if not path.is_file():
        return None
    newest = max(((folder / name).stat().st_mtime for folder in folders for name in names), default=0.0)
    rows = read_json(path)["videos"]
    is_same = [row["name"] for row in rows] == list(names) and all({*metrics} <= row.keys() for row in rows)
    return rows if is_same and path.stat().st_mtime >= newest else None
