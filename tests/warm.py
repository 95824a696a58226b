"""Runs Python commands in forks of a process that has imported the libraries: 5 CPU seconds less for each.

Each command imports the package itself. Tests of the start, the signals or the end of an interpreter start
one of their own.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
import types
from code import InteractiveInterpreter
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = [
    "torch",
    "torch._dynamo",
    "torch.distributed",
    "diffusers.models.autoencoders",
    "diffusers.schedulers",
    "einops",
    "imageio_ffmpeg",
    "matplotlib.figure",
    "numpy",
    "omegaconf",
    "safetensors",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.t5.modeling_t5",
]
SETTINGS = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def run(
    arguments: list[str], folder: Path, search: tuple[Path, ...] = (), limit: int = 110
) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` in a folder: a file, -m and a module, or -c and code.

    search: folders before the repository in PYTHONPATH. After `limit` seconds, the status is -14.
    """
    with tempfile.TemporaryDirectory() as place:
        streams = [Path(place) / name for name in ("out", "err")]
        request = {
            "arguments": arguments,
            "folder": str(folder),
            "search": [str(path) for path in (*search, ROOT)],
            "streams": [str(path) for path in streams],
            "environment": {**os.environ, **SETTINGS},
            "limit": limit,
        }
        process = server()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        status = int(process.stdout.readline())
        out, err = (path.read_text("utf-8") for path in streams)
    return subprocess.CompletedProcess(arguments, status, out, err)


@functools.cache
def server() -> subprocess.Popen[str]:
    """The process that forks, one for each process of tests."""
    environment = {**os.environ, **SETTINGS, "PYTHONPATH": ""}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, __file__], env=environment, cwd="/", **pipes)
    atexit.register(process.kill)
    return process


class Program(InteractiveInterpreter):
    """Code that ends the process with an error."""

    def showtraceback(self) -> None:
        super().showtraceback()
        sys.exit(1)


def serve() -> None:
    """Read requests, one line each, and print the exit status of each."""
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            start(request)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def start(request: dict[str, Any]) -> NoReturn:
    """Become the process of a request."""
    os.setsid()
    files = [os.open(path, os.O_WRONLY | os.O_CREAT) for path in request["streams"]]
    for number, file in enumerate([os.open(os.devnull, os.O_RDONLY), *files]):
        os.dup2(file, number)
    os.environ.clear()
    os.environ.update(request["environment"], PYTHONPATH=os.pathsep.join(request["search"]))
    os.chdir(request["folder"])
    signal.alarm(request["limit"])
    status = 1
    try:
        execute(request["arguments"], request["search"])
        status = 0
    except SystemExit as end:
        status = status_of(end)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def status_of(end: SystemExit) -> int:
    """The exit status. A text is printed, as Python does, and is an error."""
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1


def execute(arguments: list[str], search: list[str]) -> None:
    """Do what Python does with its arguments."""
    first, *rest = arguments
    sys.path[:] = [*search, *sys.path[1:]]
    if first == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *rest[1:]]
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        Program(vars(main)).runcode(compile(rest[0], "<string>", "exec"))
    elif first == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(first).resolve().parent))
        sys.argv = arguments
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    serve()
