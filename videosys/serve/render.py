"""Generates videos for a long list of prompts: `videosys render --config FILE --prompts FILE --out FOLDER`.

Each video is saved as soon as it is finished. After an interruption, the same command resumes without
repeating videos. At the end FOLDER/manifest.json lists all videos. `num_gpus=N parallel.dp=N` distributes the
videos over the devices of this computer, or with `--executor ray` over those of a cluster (docs/cluster.md).
If a process dies, only its current video is lost and retried.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from videosys.cache import cache_statistics
from videosys.engine import VideoSysEngine
from videosys.generation.config import PipelineConfig, loading_fields
from videosys.generation.request import VideoOutput, check_prompts
from videosys.models import FAMILIES, load_family_config
from videosys.serve.executors import (
    Executor,
    LocalExecutor,
    Task,
    ray_executor,
)
from videosys.serve.lock import own
from videosys.serve.options import add_executor_options, check_executor_options
from videosys.utils.command import RESUMABLE, CommandParser, path_argument, run_command
from videosys.utils.files import write_text
from videosys.utils.logging import configure_logging, get_logger
from videosys.utils.names import video_name
from videosys.utils.plain import to_plain
from videosys.utils.prompts import read_prompts
from videosys.utils.reading import load_json_object
from videosys.utils.rescue import report_remaining
from videosys.utils.sidecar import sidecar_path, write_sidecar
from videosys.utils.video import check_writable, save_video

MANIFEST, SETTINGS = "manifest.json", "settings.json"
LOG = get_logger("render")


def main(argv: Sequence[str] | None = None) -> int:
    """Render. Exit status: 1 if videos are missing at the end, 2 for wrong arguments, 130 after Ctrl-C."""
    return run_command(parser(), run, argv, RESUMABLE)


def parser() -> argparse.ArgumentParser:
    arguments = CommandParser(prog="videosys render", description=__doc__)
    add = arguments.add_argument
    add("--config", required=True, help="YAML or Python file, as for the samples")
    add("--prompts", type=path_argument, required=True, help="file of prompts, one per line")
    add("--out", type=path_argument, required=True, help="folder for the videos")
    add("--model", choices=list(FAMILIES), help="the model, if the config does not determine it")
    add_executor_options(arguments)
    add("--quiet", action="store_true", help="print errors only")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="config overrides")
    return arguments


def run(args: argparse.Namespace) -> int:
    """Generate the missing videos. ValueError for wrong arguments."""
    configure_logging(quiet=args.quiet)
    check_executor_options(args)
    config = load_family_config(args.config, args.model, args.overrides)
    prompts = check_prompts(list(dict.fromkeys(read_prompts(args.prompts).prompts)))
    if config.batch_size != 1:
        raise ValueError(
            f"batch_size is {config.batch_size}; it must be 1, so that resuming does not change videos"
        )
    if config.seed is None:
        config = dataclasses.replace(config, seed=0)
    check_writable(args.out / "probe.mp4", (config.output_frames, *config.size), count=len(prompts))
    with own(args.out, "--out"):
        render = Render(config.anchored(), prompts, args.out, args.quiet)
        with executor(args, config) as makers:
            return render.run(makers)


@contextlib.contextmanager
def executor(args: argparse.Namespace, config: PipelineConfig) -> Iterator[Executor]:
    """The executor that --executor and --address select."""
    if args.executor == "ray":
        with ray_executor(config, args.address) as makers:
            yield makers
    else:
        with VideoSysEngine(config, args.quiet) as engine:
            yield LocalExecutor(engine)


@dataclasses.dataclass(frozen=True)
class Item:
    """One video of the list."""

    prompt: str
    seed: int
    path: Path

    @property
    def task(self) -> Task:
        return Task(self.path.name, self.prompt, {"seed": self.seed})

    @property
    def is_done(self) -> bool:
        """Whether the video is complete; its JSON file is written last."""
        return sidecar_path(self.path).is_file() and self.path.is_file()


class Render:
    """A list of videos in a folder, some of which may be finished."""

    def __init__(self, config: PipelineConfig, prompts: Sequence[str], folder: Path, quiet: bool = False):
        """ValueError for a folder with videos of another config."""
        self.config, self.folder, self.quiet = config, folder, quiet
        assert config.seed is not None
        seeds = range(config.seed, config.seed + config.num_videos_per_prompt)
        self.items = [
            Item(prompt, seed, folder / video_name(prompt, seed)) for seed in seeds for prompt in prompts
        ]
        self.digest = digest(config)
        self._check_settings()

    def _check_settings(self) -> None:
        path = self.folder / SETTINGS
        if path.exists() and load_json_object(path).get("digest") != self.digest:
            raise ValueError(f"{path}: its videos were made with another config; choose another --out")

    def run(self, makers: Executor) -> int:
        """Generate the missing videos and write the manifest; return the exit status."""
        content = {"digest": self.digest, "config": to_plain(self.config)}
        write_text(self.folder / SETTINGS, json.dumps(content, indent=2) + "\n")
        todo = {item.path.name: item for item in self.items if not item.is_done}
        for task, made in makers.videos([[item.task] for item in todo.values()]):
            self._keep(todo[task.name], made.output)
        missing = [item for item in self.items if not item.is_done]
        self._list()
        if missing:
            LOG.error("%d of %d videos failed", len(missing), len(self.items))
        return 1 if missing else 0

    def _keep(self, item: Item, output: VideoOutput) -> None:
        """Save a video and its JSON file. ValueError if the disk is full; it names the last complete
        video.
        """
        steps, statistics = output.steps, str(cache_statistics(output.steps))
        with report_remaining(other.prompt for other in self.items if other != item and not other.is_done):
            path = save_video(output.video[0], item.path, fps=output.fps)
            if path != item.path:
                raise ValueError(f"{self.folder} is full; the last video is {path}")
            config = to_plain(self.config)
            write_sidecar(
                path, prompt=item.prompt, seed=item.seed, config=config, steps=steps, statistics=statistics
            )
        if not self.quiet:
            print(f"{path}  {statistics}", flush=True)

    def _list(self) -> None:
        """Write the manifest: all finished videos, in the order of the list."""
        rows: list[dict[str, Any]] = [
            {"file": item.path.name, "prompt": item.prompt, "seed": item.seed}
            for item in self.items
            if item.is_done
        ]
        content = {"digest": self.digest, "videos": rows, "missing": len(self.items) - len(rows)}
        write_text(self.folder / MANIFEST, json.dumps(content, indent=1) + "\n")


def digest(config: PipelineConfig) -> str:
    """A hash of the config without the fields that do not change a video: parallelism and the number of
    videos.
    """
    free = {"parallel", "num_gpus", "device", "offload", "offline", "num_videos_per_prompt", "seed"}
    assert free <= {item.name for item in dataclasses.fields(config)} | loading_fields(type(config))
    plain = {name: value for name, value in to_plain(config).items() if name not in free}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
