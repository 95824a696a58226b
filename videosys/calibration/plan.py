"""Prints the plan for a goal as YAML: `python -m videosys.calibration.plan --config FILE`.

A plan combines solver, steps, grid and cache. It is read from the calibration next to the weights, or from
the one that the config names. The printed lines pin the plan: in a config they give the same videos without a
calibration.
"""

from __future__ import annotations

from videosys.utils.interrupts import leave_at_interrupt

if __name__ == "__main__":
    leave_at_interrupt()

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from videosys.cache import find_plan
from videosys.config import config_to_dict
from videosys.generation.plans import plan_settings, plan_text, with_plan
from videosys.models import FAMILIES, family_of, load_family_config
from videosys.utils.command import CommandParser, path_argument, run_command
from videosys.utils.logging import configure_logging


def main(argv: Sequence[str] | None = None) -> int:
    """Print a plan. Exit status 2 for wrong arguments, or if no plan reaches the goal."""
    return run_command(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    arguments = CommandParser(prog="python -m videosys.calibration.plan", description=__doc__)
    add = arguments.add_argument
    add("--config", type=path_argument, required=True, help="YAML or Python file, as for the samples")
    add("--model", choices=list(FAMILIES), help="the model, if the config does not determine it")
    text = "config overrides, such as cache.name=best cache.evaluations=17 cache.reference=converged"
    add("overrides", nargs="*", metavar="KEY=VALUE", help=text)
    return arguments


def run(args: argparse.Namespace) -> int:
    """Print the plan. ValueError for a config without a goal."""
    configure_logging()
    config = load_family_config(args.config, args.model, args.overrides)
    print(pinned(config))
    return 0


def pinned(config: Any) -> str:
    """YAML of the plan that the config's goal selects, with a comment that lists its figures."""
    pipeline = family_of(config).build(config, quiet=True)
    found = find_plan(config.cache, lambda: pipeline.scope(config), pipeline.parts.transformer.folder)
    if found is None:
        raise ValueError("cache sets no goal for a plan; set one, such as cache.name=best cache.speedup=2.0")
    config = with_plan(config, *found)
    written = config_to_dict(config)
    lines = [f"{name}: {json.dumps(short(written[name]))}" for name in plan_settings(config)]
    return "\n".join([f"# {plan_text(config, found[0])}", *lines])


def short(value: Any) -> Any:
    """A section without the settings that are None."""
    if not isinstance(value, dict):
        return value
    return {key: short(item) for key, item in value.items() if item is not None}


if __name__ == "__main__":
    sys.exit(main())
