"""Shared by the sample scripts of all models: parses arguments, generates, saves and reports videos."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from videosys import (
    CommandParser,
    Family,
    VideoOutput,
    VideoSysEngine,
    cache_statistics,
    check_matplotlib,
    check_room,
    check_writable,
    config_to_dict,
    configure_logging,
    is_main_process,
    load_config,
    plot_steps,
    read_prompts,
    report_remaining,
    reserved_path,
    run_command,
    video_name,
    write_sidecar,
)

COMMAND = "videosys sample [--model NAME]"
HELP = """
Keys of the script: prompt=TEXT (may be repeated), prompts=FILE (one prompt per line, or JSON, JSON lines or
CSV with a column `prompt`), output=FOLDER, format=.gif, crf=18, lossless=true, overwrite=true, plot=true (a
plot of the cache's decisions), quiet=true (errors only), verbose=true (more details), json_logs=true (one
JSON object per line of the log). Every other key is a field of {config}, with dots for sections: seed=3
cache.threshold=0.2.
"""
FORMATS = (".mp4", ".gif", ".png", "")
PROMPTS = {
    "tiny": "a large red circle moves rightward on a white background",
    "published": "a serene waterfall cascading down moss-covered rocks, its sound filling the quiet forest",
}
LOG = logging.getLogger("videosys.sample")


@dataclass(frozen=True)
class Example:
    """A script: its model family, the folder of its YAML files, and its --help text.

    The folder has a file for each published version, and tiny.yaml if the package has a tiny checkpoint
    (tiny_VERSION.yaml for other versions than the default).
    """

    family: Family
    folder: Path
    description: str

    @property
    def config(self) -> type:
        return self.family.config

    @property
    def published(self) -> Mapping[str, str]:
        """The YAML file of each published version, the default one first."""
        return self.family.published or {"": "base.yaml"}


@dataclass(frozen=True)
class Options:
    """The options of the scripts, which are not fields of a model's config."""

    prompt: str = ""
    prompts: str = ""
    output: str = "outputs"
    format: str = ".mp4"
    crf: int = 18
    lossless: bool = False
    overwrite: bool = False
    plot: bool = False
    quiet: bool = False
    verbose: bool = False
    json_logs: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format is {self.format!r}; allowed: .mp4, .gif, .png, or nothing for a folder")
        if self.plot:
            check_matplotlib()
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf is {self.crf}; it must be from 0 to 51")
        if self.quiet and self.verbose:
            raise ValueError("quiet and verbose cannot both be true")


def main(example: Example, argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 2 for a user error, or 130 after an interrupt."""
    configure_logging()
    interrupted = ""
    with contextlib.suppress(ValueError):  # of an invalid environment, which `run` reports
        interrupted = "interrupted; the videos listed above are complete" if is_main_process() else ""
    return run_command(parser(example), partial(run, example), argv, interrupted)


def run(example: Example, arguments: argparse.Namespace) -> int:
    options, prompts, overrides = split(arguments.settings)
    # Under torchrun every process runs this script; only the first one prints and saves.
    if not is_main_process():
        options = replace(options, quiet=True, verbose=False)
    configure_logging(quiet=options.quiet, verbose=options.verbose, json_lines=options.json_logs)
    path = arguments.config or default_config(example, overrides, options.quiet)
    config = load_config(example.config, path, overrides)
    prompts = prompts or [PROMPTS["tiny" if "bundled:" in str(config.transformer) else "published"]]
    if is_main_process():
        check_output(options, config, len(prompts) * config.num_videos_per_prompt)
    with VideoSysEngine(config, options.quiet) as engine:
        wanted = [prompt for prompt in prompts for _ in range(config.num_videos_per_prompt)]
        generate(engine, engine.stream(prompts), options, wanted)
    return 0


def parser(example: Example) -> CommandParser:
    description = example.description + HELP.format(config=example.config.__name__)
    arguments = CommandParser(
        prog=COMMAND if Path(sys.argv[0]).stem in ("videosys", "__main__") else None,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument(
        "--config", type=Path, help="a YAML file, a Python file that sets `config`, or a name such as tiny"
    )
    arguments.add_argument("settings", nargs="*", metavar="key=value")
    return arguments


def split(settings: Sequence[str]) -> tuple[Options, list[str], list[str]]:
    """(the script's options, the prompts, the remaining settings, which are those of the model)."""
    names = set(Options.__dataclass_fields__)
    ours = [setting for setting in settings if setting.partition("=")[0] in names]
    options = load_config(Options, overrides=ours)
    prompts = [
        setting.partition("=")[2].removeprefix("\ufeff") for setting in ours if setting.startswith("prompt=")
    ]
    if "prompts=" in ours:
        raise ValueError("prompts= is empty; it must be a file with prompts")
    if options.prompts:
        prompts += listed(options.prompts)
    for prompt in prompts:
        if not prompt.strip():
            raise ValueError(f"prompt is {prompt!r}; it must not be blank")
    return options, prompts, [setting for setting in settings if setting not in ours]


def listed(path: str) -> Sequence[str]:
    """The prompts of a file. A ValueError names the key."""
    try:
        return read_prompts(path).prompts
    except ValueError as error:
        raise ValueError(f"prompts={error}") from error


def default_config(example: Example, overrides: Sequence[str] = (), quiet: bool = False) -> Path:
    """The YAML file for this machine and for the version in the overrides. Prints its name and the reason,
    unless quiet.
    """
    import torch

    say = (lambda line: None) if quiet else print
    folder, version = example.folder, dict(part.partition("=")[::2] for part in overrides).get("version")
    published = example.published.get(version or "", next(iter(example.published.values())))
    if torch.cuda.is_available():
        say(f"config: {published}, the published checkpoint, because a CUDA device is available")
        return folder / published
    kept = {path.name for path in folder.glob("*.yaml")}
    name = next((name for name in (f"tiny_{version}.yaml", "tiny.yaml") if name in kept), None)
    if name is None:
        raise ValueError(
            "there is no CUDA device, and the package has no tiny checkpoint of this model; to run the "
            f"published one slowly on the CPU: --config {folder / published}"
        )
    say(f"config: {name}, the bundled tiny checkpoint, because no CUDA device is available")
    return folder / name


def check_output(options: Options, config: Any, count: int) -> None:
    shape = (config.output_frames, *config.size)
    path = Path(options.output) / f"probe{options.format}"
    check_writable(path, shape, lossless=options.lossless, count=count)


def generate(
    engine: VideoSysEngine, videos: Iterator[VideoOutput], options: Options, wanted: Sequence[str]
) -> None:
    """Saves each video as soon as it is finished and prints a line about it. wanted: prompts of the videos.

    If the output folder becomes full, a ValueError lists the remaining prompts.
    """
    begin = time.perf_counter()
    for output in videos:
        wanted = wanted[len(output.video) :]
        if is_main_process():
            keep(engine, output, options, wanted, time.perf_counter() - begin)
        begin = time.perf_counter()


def keep(
    engine: VideoSysEngine, output: VideoOutput, options: Options, wanted: Sequence[str], seconds: float
) -> None:
    """Saves the videos of an output. Arguments and errors as in `generate`."""
    with report_remaining(wanted):
        for index in range(len(output.video)):
            path = save(engine, output, index, options)
            report(output, index, path, seconds / len(output.video))
            describe(engine, output, index, path, options.plot)
        is_rescued = path.parent.resolve() != Path(options.output).expanduser().resolve()
        if is_rescued and wanted:
            check_room(options.output, output.video[-1].nbytes // 4)


def save(engine: VideoSysEngine, output: VideoOutput, index: int, options: Options) -> Path:
    name = video_name(output.prompts[index], output.seeds[index], suffix=options.format)
    choices = {"crf": options.crf, "lossless": options.lossless}
    with reserved_path(options.output, name, options.overwrite) as path:
        return engine.save_video(output.video[index], path, fps=output.fps, **choices)


def describe(engine: VideoSysEngine, output: VideoOutput, index: int, path: Path, plot: bool) -> None:
    """Writes the JSON file and the plot next to a video. A failure is logged, and the video is kept."""
    try:
        write_sidecar(
            path,
            prompt=output.prompts[index],
            seed=output.seeds[index],
            config=config_to_dict(engine.config),
            statistics=cache_statistics(output.steps_per_video[index]),
            compiled=output.compiled,
            threshold=threshold(engine),
            steps=output.steps_per_video[index],
        )
        if plot:
            picture = path.with_name(f"{path.name}.steps.png")
            plot_steps(output.steps_per_video[index], picture, threshold(engine))
    except OSError as error:
        LOG.error("%s was saved without its JSON file or plot: %s", path, error)


def threshold(engine: VideoSysEngine) -> float | None:
    """The threshold of the cache, possibly from a calibration; None if the cache has none."""
    return getattr(engine.pipeline.with_resolved_cache(engine.config).cache, "threshold", None)


def report(output: VideoOutput, index: int, path: Path, seconds: float) -> None:
    frames, height, width, _ = output.video[index].shape
    compiled = "" if output.compiled is None else f", {output.compiled}"
    print(
        f"{path}  {width}x{height}  {frames} frames at {output.fps:g} fps  {seconds:.1f} s"
        f"  {cache_statistics(output.steps_per_video[index])}{compiled}",
        flush=True,
    )
