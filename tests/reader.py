"""A reader who follows a page of docs/ to the letter, in a package of their own beside the library."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests import warm

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest brings

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 300  # seconds for one command
FILE = re.compile(r"^```(?:python|toml|yaml)\n(# ([\w/.-]+)\n.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page(name: str) -> str:
    """The text of a page of docs/."""
    return (ROOT / "docs" / name).read_text("utf-8")


def files(text: str) -> dict[str, str]:
    """The page's blocks that begin with a file's name, by that name."""
    return {match[2]: match[1] for match in FILE.finditer(text)}


def commands(text: str, number: int = 0) -> list[str]:
    """The lines of one of the page's shell blocks."""
    return SHELL.findall(text)[number].splitlines()


def write_package(text: str, folder: Path) -> Path:
    """The folder with the page's files, as `pip install -e .` leaves it, with entry points as metadata."""
    for name, content in files(text).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(content)
    info = folder / "reader-0.1.dist-info"
    info.mkdir()
    settings = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
    assert all((folder / package).is_dir() for package in settings["tool"]["setuptools"]["packages"])
    project = settings["project"]
    (info / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder


def run(folder: Path, *arguments: str) -> list[str]:
    """The lines that a Python command prints in the folder."""
    done = warm.run(list(arguments), folder, search=(folder,), limit=LIMIT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()
