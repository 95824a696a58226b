"""How videosys is installed: where the example configs are, and how to add an extra."""

from __future__ import annotations

import importlib.metadata
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

NAME = "videosys"
PACKAGE = Path(__file__).resolve().parents[1]
CHECKOUT = PACKAGE.parent  # the repository, unless the package is in site-packages
MARKS = ("setup.py", "examples", "constraints.txt")  # exist only in the repository


def is_checkout(folder: Path = CHECKOUT) -> bool:
    """Whether a folder is the repository (or an unpacked source distribution)."""
    return all((folder / name).exists() for name in MARKS)


def configs_folder(package: Path = PACKAGE) -> Path:
    """The folder with one folder of example configs for each model.

    In a checkout it is examples/; a wheel has a copy of them in videosys/configs/.
    """
    return package.parent / "examples" if is_checkout(package.parent) else package / "configs"


def install_command(extra: str) -> str:
    """The command that installs an extra in the same way as videosys itself was installed."""
    folder = CHECKOUT if is_checkout() else None
    return f"pip install {requirement(extra, folder, direct_url())}"


def missing(what: str, extra: str, error: ImportError) -> ValueError:
    """The error for a feature whose extra is not installed: `error` names the missing module."""
    return ValueError(f"{what} needs an extra: {install_command(extra)} ({error.name} cannot be imported)")


def requirement(extra: str, checkout: Path | None, origin: Mapping[str, Any]) -> str:
    """The requirement for pip: a checkout, the file, folder or repository that pip installed, or the name.

    origin: the content of pip's direct_url.json, empty if videosys was installed from an index.
    """
    if checkout is not None:
        return f"-e {shlex.quote(f'{checkout}[{extra}]')}"
    url = str(origin.get("url", ""))
    if url.startswith("file:"):
        return shlex.quote(f"{url2pathname(urlsplit(url).path)}[{extra}]")
    if "vcs_info" in origin:
        return shlex.quote(f"{NAME}[{extra}] @ {origin['vcs_info'].get('vcs', 'git')}+{url}")
    return shlex.quote(f"{NAME}[{extra}] @ {url}" if url else f"{NAME}[{extra}]")


def direct_url() -> Mapping[str, Any]:
    """pip's record of the file, folder or URL from which videosys was installed; empty if there is none."""
    from videosys.utils.reading import parse_json  # imports numpy, which `videosys --help` does not need

    try:
        text = importlib.metadata.distribution(NAME).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return {}
    content = parse_json(text.encode()) if text else {}
    return content if isinstance(content, dict) else {}
