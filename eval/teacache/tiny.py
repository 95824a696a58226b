"""Run the whole evaluation with the package's tiny checkpoints on a CPU: python tiny.py

Generates a few prompts with every method and tiny checkpoint, measures PSNR and SSIM against the method's
full run and against a run with four times the steps, and writes the report. Existing videos are kept.
"""

from __future__ import annotations

from videosys import leave_at_interrupt

if __name__ == "__main__":
    leave_at_interrupt()

import argparse
import dataclasses
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import report
from experiments import making, methods, runner
from toolbox import command

from videosys import FAMILIES, CommandParser, config_to_dict, load_config
from videosys.tiny import config as tiny_config

STUDIES = tuple(runner.Study.of(family.name) for family in FAMILIES.values() if family.tiny)
PLAIN = ("base", "reference")
SAME = "pab"  # alias of pab_slow
OPTIONS = ("--tiny", "--lossless", "--num-samples", "1")


def main(argv: Sequence[str] | None = None) -> int:
    return command(run, parser(), argv)


def parser() -> argparse.ArgumentParser:
    made = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--output", type=Path, default=Path("samples_tiny"), help="output folder for videos and report"
    )
    made.add_argument("--limit", type=int, default=3, help="prompts")
    made.add_argument("--methods", help="methods for all models; default: each model's methods")
    made.add_argument(
        "--only", nargs="+", choices=[study.name for study in STUDIES], help="use only these models"
    )
    made.add_argument("--page", help="a Markdown file: replace the part between its marks by the report")
    made.add_argument("--quiet", action="store_true", help="no progress bars")
    made.add_argument("settings", nargs="*", metavar="key=value", help="config overrides for all models")
    return made


def run(arguments: argparse.Namespace) -> int:
    names = arguments.only or [study.name for study in STUDIES]
    quiet = ["--quiet"] if arguments.quiet else []
    made = 0
    for study, version in bundled([study for study in STUDIES if study.name in names]):
        chosen = arguments.methods or ",".join(usual(study, version))
        words = [*OPTIONS, "--limit", str(arguments.limit), "--output", str(arguments.output), *quiet]
        status = runner.main(study, [*words, "--version", version, "--methods", chosen, *arguments.settings])
        if status:
            return status
        made += 1
    if not made:
        raise ValueError("this version of the package has no tiny checkpoints of these models")
    said = "make eval-tiny" if not arguments.settings else "eval/teacache/tiny.py"
    page = ["--page", arguments.page] if arguments.page else []
    return report.main(["--root", str(arguments.output), "--device", "cpu", "--command", said, *page, *quiet])


def bundled(studies: Sequence[runner.Study]) -> Iterator[tuple[runner.Study, str]]:
    """Yield the models and versions that have a tiny checkpoint; print the names of the others."""
    for study in studies:
        for version, (_, name) in study.versions.items():
            try:
                tiny_config(name)
            except ValueError as error:
                print(f"skipped: {study.name} {version}: {error}", flush=True)
            else:
                yield study, version


def usual(study: runner.Study, version: str) -> list[str]:
    """The default methods: full runs, fewer steps (two thirds and a half, about TeaCache-slow's), all
    presets.
    """
    config = tiny_config(study.versions[version][1])
    presets = methods.cache_presets(config)
    steps = methods.num_steps(config)
    fewer = [f"steps_{max(making.WARM_UP_STEPS, steps * share // 6)}" for share in (4, 3)]
    made = {name: preset for name, preset in presets.items() if not isinstance(preset, type) and name != SAME}
    ready = distinct(config, made)
    return [*PLAIN, *fewer, *ready, *calibrated(study, config, list(presets.values()))]


def distinct(config: Any, presets: Mapping[str, Any]) -> list[str]:
    """The names of presets without those that equal an earlier one for this config. For example, without
    published coefficients teacache_naive equals teacache_slow.
    """
    found: dict[str, Any] = {}
    for name, preset in presets.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about missing coefficients, which the report mentions
            cache = dataclasses.replace(config, cache=preset).with_default_coefficients()
        same = next((other for other, settled in found.items() if settled == cache), None)
        if same is None:
            found[name] = cache
        else:
            print(f"skipped: {name} is {same} with {config.model_name}", flush=True)
    return list(found)


def calibrated(study: runner.Study, config: Any, presets: Sequence[Any]) -> list[str]:
    """YAML files of this tiny checkpoint whose cache is not a preset, as values for --methods."""
    folder = Path(runner.EXAMPLES) / study.name
    loaded = {path: load_config(study.config, path) for path in sorted(folder.glob("tiny*.yaml"))}
    plain = [config.cache, *presets]
    return [
        called(path, other)
        for path, other in loaded.items()
        if other.transformer == config.transformer and other.cache not in plain
    ]


def called(path: Path, config: Any) -> str:
    """A file with its method's name: the file's name, unless that only names the checkpoint."""
    if path.stem.endswith("calibrated"):
        return str(path)
    cache = config_to_dict(config)["cache"]
    return f"{cache['name']}_{'calibrated' if cache.get('calibration') else path.stem}={path}"


if __name__ == "__main__":
    sys.exit(main())
