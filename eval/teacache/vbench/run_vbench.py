"""Run an installed vbench on a folder of videos, one dimension at a time:

python vbench/run_vbench.py --video_path FOLDER --save_path FOLDER

vbench pins old versions of many packages, so it needs a separate environment (`make vbench`, or
--vbench-python). Dimensions whose packages are missing there are listed first, then the others run. An
interrupted run resumes with the remaining dimensions. cal_vbench.py computes the scores from the results.
"""

from __future__ import annotations

from videosys import leave_at_interrupt

if __name__ == "__main__":
    leave_at_interrupt()

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import scores
from toolbox import command, read_json, write_json
from tqdm import tqdm
from vbench_found import ADVICE, find_python

from videosys import CommandParser, read_prompts

WORKER = Path(__file__).resolve().parent / "worker.py"
SAMPLES = 5  # videos per prompt
VIDEO = ".mp4"
NEEDS = MappingProxyType(scores.constants()["modules"])  # per dimension, besides those that all need


def main(argv: Sequence[str] | None = None) -> int:
    return command(run, parser(), argv)


def parser() -> argparse.ArgumentParser:
    arguments = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument(
        "--video_path", "--video-path", type=Path, required=True, help="{prompt}-{index}.mp4"
    )
    arguments.add_argument(
        "--save_path", "--save-path", type=Path, required=True, help="folder for the results"
    )
    arguments.add_argument(
        "--vbench-python", default=find_python(), help="interpreter that has vbench (default: %(default)s)"
    )
    arguments.add_argument(
        "--dimensions", nargs="+", choices=scores.dimensions(), help="default: all that can run"
    )
    arguments.add_argument("--full-info", type=Path, help="VBench_full_info.json; default: vbench's own")
    arguments.add_argument("--device", default="auto", help="auto (default), cuda, cpu")
    arguments.add_argument("--partial", action="store_true", help="evaluate even if videos are missing")
    arguments.add_argument("--quiet", action="store_true", help="no progress bar")
    return arguments


def run(arguments: argparse.Namespace) -> int:
    wanted = arguments.dimensions or scores.dimensions()
    newest = newest_video(arguments.video_path)
    todo = [name for name in wanted if not is_done(arguments.save_path, name, newest)]
    absent: dict[str, list[str]] = {}
    if todo:
        installed = probe(arguments.vbench_python, todo)
        full_info = check(installed, arguments)
        absent = without_packages(installed, todo, arguments)
        todo = [name for name in todo if name not in absent]
    if todo:
        videos = check_videos(arguments.video_path, full_info, todo, arguments.partial)
        arguments.save_path.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in tqdm(todo, desc="vbench", unit="dimension", disable=arguments.quiet or not todo):
        try:
            evaluate(arguments, full_info, videos, name)
        except ValueError as error:  # continue with the other dimensions
            failed.append(name)
            tqdm.write(f"{name}: {error}", file=sys.stderr)
    done, new = len(wanted) - len(failed) - len(absent), len(todo) - len(failed)
    print(f"{done} of {len(wanted)} dimensions in {arguments.save_path}, {new} of them new")
    if failed:
        raise ValueError(f"vbench failed on {', '.join(failed)}")
    return 0


def newest_video(folder: Path) -> float:
    """The modification time of the newest video of a folder. ValueError if the folder does not exist."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    return max((path.stat().st_mtime for path in folder.glob(f"*{VIDEO}")), default=0.0)


def is_done(folder: Path, dimension: str, newest: float) -> bool:
    """Whether a dimension has a readable result that is newer than all videos, so it includes them."""
    path = folder / f"{dimension}{scores.SUFFIX}"
    try:
        return dimension in scores.results(path) and path.stat().st_mtime >= newest
    except ValueError:
        return False


def probe(python: str, dimensions: Sequence[str]) -> Mapping[str, Any]:
    """The packages of an interpreter that these dimensions need. ValueError if it does not exist."""
    modules = sorted({*NEEDS["all"], *(module for name in dimensions for module in NEEDS[name])})
    try:
        words = [python, str(WORKER), "--probe", *modules]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        said = getattr(error, "stderr", "") or str(error)
        raise ValueError(f"--vbench-python {python}: cannot run it: {said.strip()[-300:]}") from None


def check(installed: Mapping[str, Any], arguments: argparse.Namespace) -> Path:
    """The path of the prompt list. A ValueError names what is missing and how to install it."""
    python = arguments.vbench_python
    if not installed["vbench"]:
        raise ValueError(f"{python} (Python {installed['python']}) has no vbench; {ADVICE}")
    lost = [package(name) for name in NEEDS["all"] if name in installed["missing"]]
    if lost:
        raise ValueError(
            f"{python} has vbench but lacks {', '.join(lost)}, which all dimensions need; {ADVICE}"
        )
    full_info = arguments.full_info or installed["full_info"]
    if not full_info or not Path(full_info).is_file():
        raise ValueError(f"no VBench_full_info.json at {full_info or installed['vbench']}; set --full-info")
    return Path(full_info)


def without_packages(
    installed: Mapping[str, Any], todo: Sequence[str], arguments: argparse.Namespace
) -> dict[str, list[str]]:
    """The dimensions that cannot run, with the packages that each lacks. They are also printed.

    ValueError if --dimensions names one of them, or if no dimension is left.
    """
    lacking = {
        name: [package(module) for module in NEEDS[name] if module in installed["missing"]] for name in todo
    }
    absent = {name: packages for name, packages in lacking.items() if packages}
    lines = [f"{name} (needs {', '.join(packages)})" for name, packages in absent.items()]
    if absent and (arguments.dimensions or len(absent) == len(scores.dimensions())):
        raise ValueError(
            f"{arguments.vbench_python} lacks packages: {'; '.join(lines)}; install them there, or choose "
            "other --dimensions"
        )
    if lines:
        print(f"skipped, because {arguments.vbench_python} lacks packages: {'; '.join(lines)}", flush=True)
    return absent


def package(module: str) -> str:
    """The pip package of a module."""
    return scores.constants()["packages"].get(module, module)


def check_videos(folder: Path, full_info: Path, todo: Sequence[str], partial: bool) -> list[str]:
    """The names of the required videos that exist. ValueError if some are missing, because vbench would skip
    them silently.
    """
    names = {f"{prompt}-{index}{VIDEO}" for prompt in prompts_of(full_info, todo) for index in range(SAMPLES)}
    if not names:
        raise ValueError(f"{full_info}: contains no prompts for {', '.join(todo)}")
    missing = sorted(names - {path.name for path in folder.iterdir()})
    if len(missing) == len(names):
        raise ValueError(f"{folder}: contains none of the {len(names)} videos, such as {missing[:1]}")
    if missing and not partial:
        raise ValueError(
            f"{folder}: {len(missing)} of {len(names)} videos are missing, such as {missing[:3]}; use "
            "--partial to evaluate anyway"
        )
    return sorted(names - {*missing})


def prompts_of(full_info: Path, todo: Sequence[str]) -> list[str]:
    """The prompts of these dimensions. ValueError for a list that is not in VBench's format."""
    file = read_prompts(full_info)
    named = [row.get("dimension") for row in file.rows]
    if not file.is_vbench or not all(isinstance(names, list) for names in named):
        raise ValueError(f"{full_info}: must be a list of objects with prompt_en and dimension, as in VBench")
    return [prompt for prompt, names in zip(file.prompts, named) if any(name in todo for name in names or ())]


def evaluate(arguments: argparse.Namespace, full_info: Path, videos: Sequence[str], dimension: str) -> None:
    """Run one dimension in a separate folder, so that results are complete or absent.

    ValueError with the last line of vbench's output if there is no result.
    """
    with tempfile.TemporaryDirectory(dir=arguments.save_path, prefix=".") as folder:
        options = {
            "--videos": linked(videos, arguments.video_path.resolve(), Path(folder) / "videos"),
            "--output": folder,
            "--dimension": dimension,
            "--full-info": full_info.resolve(),
            "--device": arguments.device,
        }
        words = [str(word) for option in options.items() for word in option]
        done = subprocess.run([arguments.vbench_python, str(WORKER), *words], capture_output=True, text=True)
        log, name = arguments.save_path / f"{dimension}.log", f"{dimension}{scores.SUFFIX}"
        if done.returncode or not (Path(folder) / name).is_file():
            log.write_text(done.stdout + done.stderr, "utf-8")
            reason = (done.stderr.strip().splitlines() or ["no result"])[-1][-300:]
            raise ValueError(f"exit status {done.returncode}, {reason} (all of its output: {log})")
        content = read_json(Path(folder) / name)
        write_json(arguments.save_path / name, moved(content, options["--videos"], arguments.video_path))
        log.unlink(missing_ok=True)


def moved(content: Any, old: Path, new: Path) -> Any:
    """Replace the paths of the links that vbench read by the paths of the videos in a result."""
    if isinstance(content, str):
        path = Path(content)
        return str(new / path.relative_to(old)) if path.is_relative_to(old) else content
    if isinstance(content, list):
        return [moved(item, old, new) for item in content]
    if isinstance(content, dict):
        return {name: moved(item, old, new) for name, item in content.items()}
    return content


def linked(names: Sequence[str], source: Path, folder: Path) -> Path:
    """Create a folder of links to the videos only. vbench takes the suffix of the first file for that of all
    videos, but our folders also contain manifests.
    """
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(source / name)
    return folder


if __name__ == "__main__":
    sys.exit(main())
