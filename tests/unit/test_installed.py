"""The command that installs an extra works for the way in which videosys is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.source import ROOT
from videosys.utils import installed

# What pip writes into direct_url.json, and what it can be given then.
ORIGINS = [
    ({}, "'videosys[serve]'"),
    (
        {"url": "file:///a%20b/videosys-0.1.0-py3-none-any.whl", "archive_info": {}},
        "'/a b/videosys-0.1.0-py3-none-any.whl[serve]'",
    ),
    ({"url": "file:///src/videosys", "dir_info": {}}, "'/src/videosys[serve]'"),
    (
        {"url": "https://example.org/x.git", "vcs_info": {"vcs": "git", "commit_id": "1"}},
        "'videosys[serve] @ git+https://example.org/x.git'",
    ),
    (
        {"url": "https://example.org/videosys-0.1.0.tar.gz", "archive_info": {}},
        "'videosys[serve] @ https://example.org/videosys-0.1.0.tar.gz'",
    ),
]


@pytest.mark.parametrize(("origin", "expected"), ORIGINS)
def test_an_extra_comes_from_where_videosys_came_from(origin, expected):
    assert installed.requirement("serve", None, origin) == expected


def test_in_a_checkout_the_command_names_it():
    assert installed.install_command("plot") == f"pip install -e '{ROOT}[plot]'"
    assert installed.requirement("plot", Path("/a b"), {}) == "-e '/a b[plot]'"


def test_example_configs_are_those_of_the_checkout_or_of_the_wheel(tmp_path):
    assert installed.configs_folder() == ROOT / "examples"
    package = tmp_path / "videosys"
    assert installed.configs_folder(package) == package / "configs"
    for name in installed.MARKS:
        (tmp_path / name).mkdir()
    assert installed.configs_folder(package) == tmp_path / "examples"


def test_no_text_asks_pip_for_a_package_that_an_index_need_not_have():
    for folder in ("videosys", "eval", "examples", "docs"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".md"):
                assert not re.search(r"pip install '?videosys\b", path.read_text("utf-8")), path


def test_extras_that_are_named_exist():
    setup = (ROOT / "setup.py").read_text("utf-8")
    for path in (ROOT / "videosys").rglob("*.py"):
        for extra in re.findall(r"install_command\('([\w-]+)'\)", path.read_text("utf-8")):
            assert f'"{extra}":' in setup, f"{path} names the extra {extra!r}"


def described(url: str) -> str:
    """The README as the package's metadata have it."""
    command = [sys.executable, "setup.py", "-q", "--long-description"]
    environment = {**os.environ, "PROJECT_URL": url}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_links_of_the_readme_lead_into_the_repository_or_are_text():
    readme = (ROOT / "README.md").read_text("utf-8")
    targets = re.findall(r"(?<!!)\[[^\]]*\]\((docs/[\w./#-]+)\)", readme)
    assert len(targets) > 5
    alone = described("")
    assert re.findall(r"\]\((?!https?:|#)[^)]*\)", alone) == []
    linked = described("https://example.org/videosys/")
    assert re.findall(r"\]\((?!https?:|#)[^)]*\)", linked) == []
    for target in targets:
        assert f"]({target})" not in alone
        assert f"https://example.org/videosys/blob/v0.1.0/{target})" in linked
    for picture in re.findall(r"!\[[^\]]*\]\((docs/[\w./-]+)\)", readme):
        assert f"https://example.org/videosys/raw/v0.1.0/{picture})" in linked
