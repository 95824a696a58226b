"""Finds vbench on this machine: in this environment or in a separate one."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

LIST = "VBench_full_info.json"
ENVIRONMENT = ".venv-vbench"  # created by `make vbench`
ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("lib/python3*/site-packages", "lib64/python3*/site-packages", "Lib/site-packages")
ADVICE = (
    "vbench 0.1.5 works with Python 3.10 and 3.11 (it pins transformers 4.33.2, which needs tokenizers 0.13, "
    "and numpy below 2): `make vbench PYTHON=python3.10` creates an environment for it in .venv-vbench. This "
    "environment is found automatically, as is a command `vbench` on the PATH; for another one, use "
    "--vbench-python FOLDER/bin/python"
)


def find_list(python: str | None = None) -> Path | None:
    """VBench's prompt list, from the environment of `python` or else from the first of `environments`.

    vbench is neither imported nor started.
    """
    folders = [environment(python)] if python else list(environments())
    own = [] if python else [package_here()]
    packages = [*own, *(package for folder in folders for package in packages_in(folder))]
    return next((path / LIST for path in packages if path is not None and (path / LIST).is_file()), None)


def find_python() -> str:
    """The interpreter that has vbench; this one if none is found."""
    if package_here() is not None:
        return sys.executable
    for folder in environments():
        for name in ("bin/python", "Scripts/python.exe"):
            if (folder / name).is_file() and list(packages_in(folder)):
                return str(folder / name)
    return sys.executable


def environments() -> Iterator[Path]:
    """Yield possible environments of vbench: .venv-vbench here or in the repository, and that of a command
    `vbench`.
    """
    yield from (Path.cwd() / ENVIRONMENT, ROOT / ENVIRONMENT)
    command = shutil.which("vbench")
    if command is not None:
        yield Path(command).absolute().parent.parent


def environment(python: str) -> Path:
    """The environment folder of an interpreter. The path is not resolved, because it may be a link."""
    return Path(shutil.which(python) or python).absolute().parent.parent


def packages_in(folder: Path) -> Iterator[Path]:
    for library in LIBRARIES:
        yield from sorted(folder.glob(f"{library}/vbench"))


def package_here() -> Path | None:
    """The folder of vbench in this environment, found without an import."""
    spec = importlib.util.find_spec("vbench")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    return next((path for path in map(Path, folders) if (path / "__init__.py").is_file()), None)
