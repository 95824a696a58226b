"""Generates the videos of every method for the same prompts and seeds: resumable, sharded and timed.

Methods take turns video by video on one loaded engine, so that other load on the machine affects all of them.
Loading and a short first generation are not timed.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from toolbox import command
from tqdm import tqdm

from experiments import counted, making, manifest, methods, prompts, ranks
from videosys import (
    FAMILIES,
    CommandParser,
    Family,
    VideoSysEngine,
    check_writable,
    config_to_dict,
    configure_logging,
    load_config,
)
from videosys.serve import Made, add_executor_options, check_executor_options
from videosys.tiny import config as tiny_config

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
RUNS = "runs.jsonl"

# Fields that do not affect a video, or that its record stores separately.
INDIFFERENT = frozenset(
    {"device", "offload", "offline", "parallel", "batch_size", "seed", "num_videos_per_prompt", "cache"}
)


@dataclass(frozen=True)
class Study:
    """A model family and its default version."""

    family: Family
    usual: str

    @classmethod
    def of(cls, name: str, usual: str | None = None) -> Study:
        """The study of a registered family; ValueError for an unknown name."""
        if name not in FAMILIES:
            raise ValueError(f"unknown model family {name!r}; allowed: {', '.join(FAMILIES)}")
        family = FAMILIES[name]
        return cls(family, usual or next(iter(family.published), name))

    @property
    def name(self) -> str:
        return self.family.name

    @property
    def config(self) -> type:
        return self.family.config

    @property
    def versions(self) -> dict[str, tuple[Path | None, str]]:
        """Version -> (YAML file of the published settings or None, name of the tiny checkpoint)."""
        files = dict(self.family.published) or {self.name: ""}
        return {
            version: (EXAMPLES / self.name / file if file else None, self.family.tiny_name(version))
            for version, file in sorted(files.items())
        }


@dataclass(frozen=True)
class Job:
    """One video to generate."""

    method: methods.Method
    prompt: str
    index: int
    seed: int
    file: str


@dataclass(frozen=True)
class Run:
    """All settings of a run, determined before weights are loaded."""

    config: Any
    root: Path
    jobs: Sequence[Job]
    ranks: ranks.Ranks
    arguments: argparse.Namespace
    prompts: prompts.PromptList

    def folder(self, job: Job) -> Path:
        return self.root / job.method.name

    @property
    def is_local(self) -> bool:
        """Whether this process generates the videos itself, without processes that its engine starts."""
        return self.arguments.executor == "local"

    @property
    def own_jobs(self) -> list[Job]:
        """This process's share of the jobs. All methods of a video are timed on the same device."""
        mine = {*self.ranks.own(list(dict.fromkeys((job.prompt, job.index) for job in self.jobs)))}
        return [job for job in self.jobs if (job.prompt, job.index) in mine]

    @property
    def counts(self) -> bool:
        """Whether this process runs all the work of a generation and should count it."""
        alone = self.is_local and self.config.parallel.num_gpus == 1
        return alone and self.ranks.is_first and not self.ranks.together

    @property
    def encodes(self) -> bool:
        """Whether this process has the text encoder, rather than processes that the engine starts."""
        return self.is_local and (self.ranks.count > 1 or self.config.parallel.num_gpus == 1)

    @property
    def engine_config(self) -> Any:
        """The config of this process's engine, which loads nothing if others generate the videos."""
        if self.is_local:
            return self.config
        one = dataclasses.replace(self.config.parallel, num_gpus=1, dp=None, cfg=None, sp=None)
        return dataclasses.replace(self.config, device="cpu", parallel=one)

    @property
    def rank_file(self) -> str:
        return manifest.rank_name(self.ranks.share, self.ranks.shares)


def main(study: Study, argv: Sequence[str] | None = None, description: str | None = None) -> int:
    configure_logging()
    return command(lambda arguments: start(study, arguments), parser(study, description), argv)


def parser(study: Study, description: str | None = None) -> argparse.ArgumentParser:
    made = CommandParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--methods", default=methods.DEFAULT, help="comma-separated list: " + METHODS_HELP)
    made.add_argument(
        "--prompts",
        help="a file, vbench (default), or own (bundled prompts; default with --tiny)",
    )
    made.add_argument("--vbench-python", help="interpreter that has vbench, for its prompt list")
    made.add_argument("--num-samples", type=int, default=5, help="videos per prompt (VBench: 5)")
    made.add_argument("--limit", type=int, help="use only the first prompts of the list")
    made.add_argument("--seed", type=int, default=0, help="video i of every prompt uses seed + i")
    made.add_argument(
        "--output", type=Path, default=Path("samples"), help="output folder: OUTPUT/MODEL/METHOD/*.mp4"
    )
    made.add_argument(
        "--names", choices=prompts.NAMINGS, default="auto", help="auto: vbench for VBench's list"
    )
    made.add_argument("--lossless", action="store_true", help="write lossless mp4 files, for metrics")
    made.add_argument("--config", type=Path, help="YAML file to use instead of the published settings")
    made.add_argument("--tiny", action="store_true", help="use the bundled tiny checkpoint, for a CPU")
    made.add_argument(
        "--version", choices=list(study.versions), default=study.usual, help="version of the model"
    )
    made.add_argument("--reference-factor", type=int, default=methods.REFERENCE_FACTOR, help="see --methods")
    add_executor_options(made)
    made.add_argument("--quiet", action="store_true", help="no progress bar")
    made.add_argument("settings", nargs="*", metavar="key=value", help="config overrides")
    return made


METHODS_HELP = (
    "base, reference (--reference-factor times the steps), steps_N, names of caches such as teacache_slow or "
    "pab_fast, YAML files with a cache (FILE or NAME=FILE)"
)


def start(study: Study, arguments: argparse.Namespace) -> int:
    check_counts(arguments)
    check_executor_options(arguments)
    run = plan(study, arguments)
    todo = pending(run)
    done = len(run.own_jobs) - len(todo)
    say(run, f"prompts: {len(run.prompts.prompts)} of {run.prompts.origin}")
    say(run, f"{len(run.jobs)} videos in {run.root}; this process: {done} exist, {len(todo)} to generate")
    missing = 0
    if todo or (run.counts and counted.lacking(run.jobs, run.root)):
        with making.naming_tiny(run):
            missing = work(run, todo)
    if missing:
        print(f"{missing} videos failed", file=sys.stderr)
    return 1 if missing else 0


def check_counts(arguments: argparse.Namespace) -> None:
    for name in ("num_samples", "limit", "reference_factor"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; it must be 1 or more")


def plan(study: Study, arguments: argparse.Namespace) -> Run:
    """The run that the arguments describe. ValueError for any invalid argument."""
    config = settings(study, arguments)
    compared = methods.parse_methods(arguments.methods, config, arguments.reference_factor)
    for method in compared:
        requested(config, method)
    listed = prompts.load_prompts(arguments.prompts, arguments.tiny, arguments.vbench_python)
    listed = dataclasses.replace(listed, prompts=listed.prompts[: arguments.limit])
    root = arguments.output / run_name(study, arguments)
    naming = prompts.choose_naming(arguments.names, listed, root)
    check_place(root, config, arguments.lossless)
    jobs = [
        Job(method, prompt, index, seed, prompts.file_name(prompt, index, seed, naming))
        for prompt in listed.prompts
        for index, seed in enumerate(range(arguments.seed, arguments.seed + arguments.num_samples))
        for method in compared
    ]
    together = any(setting.startswith("parallel.") for setting in arguments.settings)
    current = ranks.current(together)
    if current.count > 1 and arguments.executor != "local":
        raise ValueError(f"--executor {arguments.executor} cannot be combined with torchrun")
    return Run(on_device(config, current), root, jobs, current, arguments, listed)


def run_name(study: Study, arguments: argparse.Namespace) -> str:
    version = f"_{arguments.version}" if len(study.versions) > 1 else ""
    return f"{study.name}{version}{'_tiny' if arguments.tiny else ''}"


def settings(study: Study, arguments: argparse.Namespace) -> Any:
    """The published config, that of a file, or that of the tiny checkpoint, with the given overrides."""
    file, tiny = study.versions[arguments.version]
    if not arguments.tiny:
        return load_config(study.config, arguments.config or file, arguments.settings)
    if arguments.config is not None:
        raise ValueError("--tiny cannot be combined with --config")
    return load_config(study.config, config_to_dict(tiny_config(tiny)), arguments.settings)


def requested(config: Any, method: methods.Method) -> Any:
    """The config of a method, with names of cache presets resolved."""
    presets = methods.cache_presets(config)
    cache = method.request["cache"]
    choice = presets[cache] if isinstance(cache, str) else cache
    settings = choice() if isinstance(choice, type) else choice
    return dataclasses.replace(config, **{**method.request, "cache": settings})


def check_place(root: Path, config: Any, lossless: bool) -> None:
    root.mkdir(parents=True, exist_ok=True)
    check_writable(root / "probe.mp4", (config.output_frames, *config.size), lossless=lossless)


def on_device(config: Any, current: ranks.Ranks) -> Any:
    if config.device == "auto" and not current.together and current.count > 1 and torch.cuda.is_available():
        return dataclasses.replace(config, device=f"cuda:{current.local % torch.cuda.device_count()}")
    return config


def pending(run: Run) -> list[Job]:
    """This process's unfinished jobs. ValueError if existing videos were made with other settings."""
    folders = {job.method.name: run.folder(job) for job in run.jobs}
    there = {name: manifest.finished(folder) for name, folder in folders.items() if folder.is_dir()}
    for job in run.jobs:
        record = there.get(job.method.name, {}).get(job.file)
        if record is not None:
            check_same(run, job, record)
    return [job for job in run.own_jobs if job.file not in there.get(job.method.name, {})]


def check_same(run: Run, job: Job, record: Mapping[str, Any]) -> None:
    """ValueError if a video was made with other settings than the current ones."""
    now = described(run, job)
    names = ("seed", "prompt", "lossless", "cache", "config")
    differing = [name for name in names if record.get(name) != now[name]]
    if "config" in differing:
        old = record.get("config") or {}
        differing = [key for key in sorted({*old, *now["config"]}) if old.get(key) != now["config"].get(key)]
    if differing:
        path, changed = run.folder(job) / job.file, ", ".join(differing)
        raise ValueError(f"{path} was generated with another {changed}; choose another --output")


def described(run: Run, job: Job) -> dict[str, Any]:
    """Everything that determines a video, as JSON data."""
    config = config_to_dict(requested(run.config, job.method))
    record = {
        "method": job.method.name,
        "prompt": job.prompt,
        "index": job.index,
        "seed": job.seed,
        "file": job.file,
        "lossless": run.arguments.lossless,
        "cache": config["cache"],
        "config": {name: value for name, value in config.items() if name not in INDIFFERENT},
    }
    return json.loads(json.dumps(record))


def work(run: Run, todo: Sequence[Job]) -> int:
    """Generate the missing videos and count work that was not counted yet. Returns how many are missing."""
    missing = 0
    with VideoSysEngine(run.engine_config, quiet=True) as engine:
        if todo:
            missing = make_all(run, engine, todo)
        if run.counts:
            counted.note(engine, run.jobs, run.root)
    return missing


def make_all(run: Run, engine: VideoSysEngine, todo: Sequence[Job]) -> int:
    """Generate and save the videos. Returns how many failed."""
    caches = settled_caches(run, engine)  # before weights are loaded: a calibration may be missing
    known, devices = {"videos": len(todo), "caches": caches}, set()
    jobs = {f"{job.method.name}/{job.file}": job for job in todo}
    is_quiet, tokens = run.arguments.quiet or not run.ranks.is_first, {}
    bar = tqdm(total=len(todo), desc=run.root.name, unit="video", disable=is_quiet)
    with bar, making.executor(run, engine, todo[0].prompt, known) as makers:
        for task, made in makers.videos(making.groups(jobs)):
            if made.device not in devices:
                note_run(run, engine, made.device, known)
            devices.add(made.device)
            job = jobs.pop(task.name)
            if job.prompt not in tokens and run.encodes:
                tokens = {job.prompt: counted.text_tokens(engine.pipeline, job.prompt, run.config)}
            keep(run, engine, job, made, tokens.get(job.prompt))
            bar.set_postfix_str(job.method.name)
            bar.update()
    return len(jobs)


def keep(run: Run, engine: VideoSysEngine, job: Job, made: Made, text_tokens: int | None) -> None:
    """Save a video and its line in the manifest."""
    if run.ranks.together and not run.ranks.is_first:
        return  # another rank has the video
    output, folder = made.output, run.folder(job)
    video = output.video[0]
    folder.mkdir(parents=True, exist_ok=True)
    wanted = manifest.partial(folder, job.file)
    saved = engine.save_video(video, wanted, fps=output.fps, lossless=run.arguments.lossless)
    if saved != wanted:
        raise ValueError(f"{folder} is full; this video is in {saved} and was not recorded")
    decisions = "".join("1" if step.computed else "0" for step in output.steps)
    frames, height, width, _ = video.shape
    results = {
        "seconds": round(made.seconds, 4),
        "cpu_seconds": round(made.cpu_seconds, 4),  # only of the process that generated it
        "steps": len(decisions),
        "computed": decisions.count("1"),
        "decisions": decisions,
        "reused_branches": sum(step.reused for step in output.steps),
        "text_tokens": text_tokens,
        "frames": frames,
        "height": height,
        "width": width,
        "fps": output.fps,
    }
    manifest.complete(folder, run.rank_file, {**described(run, job), **results})


def note_run(run: Run, engine: VideoSysEngine, device: str, known: Mapping[str, Any]) -> None:
    """Append a line with the device and the model of the manifests' timings."""
    record = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "rank": run.ranks.rank,
        "ranks": run.ranks.count,
        "device": device,
        "torch": torch.__version__,
        "transformer": counted.transformer(engine.pipeline, run.config),
        **known,
    }
    if run.ranks.is_first or not run.ranks.together:
        manifest.append(run.root / RUNS, record)


def settled_caches(run: Run, engine: VideoSysEngine) -> dict[str, Any]:
    """The cache config of each method, with coefficients and calibrations resolved."""
    compared = {job.method.name: job.method for job in run.jobs}
    configs = {
        name: engine.pipeline.with_resolved_cache(requested(run.config, method))
        for name, method in compared.items()
    }
    return {name: config_to_dict(config)["cache"] for name, config in configs.items()}


def say(run: Run, line: str) -> None:
    if run.ranks.is_first and not run.arguments.quiet:
        print(line, flush=True)
