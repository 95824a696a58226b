"""The command `videosys` and its subcommands."""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from videosys import __version__
from videosys.utils.command import USAGE_ERROR, exit_status
from videosys.utils.installed import CHECKOUT, configs_folder
from videosys.utils.typed import listing, suggest

EXAMPLES = configs_folder()
# Command -> its help text. A command is imported only when it is run.
COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "sample": "generate videos: [--model NAME] [--config FILE] [prompt=TEXT] [key=value ...]",
        "serve": "serve an OpenAI-compatible HTTP API",
        "ui": "serve, and open the web UI in a browser",
        "render": "generate videos for a long list of prompts; can be resumed",
        "calibrate": "find the best cache settings for a model",
        "plan": "print the solver, steps and cache for a goal, as YAML",
        "estimate": "estimate the memory and operations of a config without loading weights",
        "compare": "compare caches at equal computation",
    }
)
MODULES: Mapping[str, str] = MappingProxyType(
    {
        "serve": "videosys.serve.__main__",
        "ui": "videosys.serve.ui",
        "render": "videosys.serve.render",
        "calibrate": "videosys.calibration.__main__",
        "plan": "videosys.calibration.plan",
        "estimate": "videosys.estimate.__main__",
        "compare": "eval.policies.__main__",
    }
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status, or 2 for an unknown command."""
    name, *arguments = [*(sys.argv[1:] if argv is None else argv)] or ["--help"]
    return exit_status(lambda: run(name, arguments), "")


def run(name: str, arguments: list[str]) -> int:
    """Run a command by name, or print the help or the version."""
    if name in ("-h", "--help", "help"):
        print(usage())
        return 0
    if name == "--version":
        print(__version__)
        return 0
    if name not in COMMANDS:
        hint = suggest(name, COMMANDS)
        print(f"error: unknown command {name!r}{hint}; commands: {listing(COMMANDS)}", file=sys.stderr)
        return USAGE_ERROR
    return command(name, arguments)(arguments)


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name.ljust(width)}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        ["usage: videosys COMMAND [argument ...]", "", *lines, "", "videosys COMMAND --help: more"]
    )


def command(name: str, arguments: list[str]) -> Callable[[Sequence[str]], int]:
    """The function of a command. Options of the command line itself are removed from the arguments.

    ValueError for a command that needs files outside this installation.
    """
    if name == "sample":
        return sample(take_model(arguments))
    if MODULES[name].startswith("eval."):
        if not (CHECKOUT / "eval").is_dir():
            raise ValueError(f"{name} needs the folder eval/ of the repository, which is not installed")
        sys.path.insert(0, str(CHECKOUT))
    return importlib.import_module(MODULES[name]).main


def take_model(arguments: list[str]) -> str:
    """The model named by `--model`, which is removed, or by a folder in the path of `--config`."""
    from videosys.models import FAMILIES

    name = ""
    for position, word in enumerate(arguments):
        if word == "--model" or word.startswith("--model="):
            taken = arguments[position : position + (1 if "=" in word else 2)]
            del arguments[position : position + len(taken)]
            name = taken[-1].removeprefix("--model=")
            break
    else:
        words = [part for word in arguments for part in reversed(Path(word.removeprefix("--config=")).parts)]
        name = next((word for word in words if word in FAMILIES), next(iter(FAMILIES)))
    if name not in FAMILIES:
        raise ValueError(f"unknown model {name!r}{suggest(name, FAMILIES)}; models: {listing(FAMILIES)}")
    return name


def sample(model: str) -> Callable[[Sequence[str]], int]:
    """The main function of a model's sample script."""
    script = EXAMPLES / model / "sample.py"
    if not script.is_file():
        raise ValueError(f"sample needs {script}, which does not exist")
    return runpy.run_path(str(script))["main"]


if __name__ == "__main__":
    sys.exit(main())
