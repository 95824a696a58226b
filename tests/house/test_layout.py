"""The top level of the repository: the folders that the design names, and files of tools and forges."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.house.source import ROOT

PROJECT = {"setup.py", "README.md", "videosys", "eval", "examples", "tests", "docs"}
TOOLS = {".ci", ".gitignore", ".pre-commit-config.yaml", "Makefile", "constraints.txt", "pyproject.toml"}
TOOLS |= {"LICENSE", "MANIFEST.in", "mkdocs.yml"}
FORGE = {".github", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md"}


def test_the_top_level_has_nothing_else():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is not a git checkout")
    assert {line.split("/")[0].strip('"') for line in listed.stdout.splitlines()} == PROJECT | TOOLS | FORGE


def test_the_source_distribution_is_told_of_every_top_level_name():
    manifest = (ROOT / "MANIFEST.in").read_text("utf-8")
    named = {*re.findall(r"\S+", manifest)}
    assert named >= (PROJECT | TOOLS | FORGE)


def test_constraints_pin_only_other_packages():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    names = [re.split(r"[=<>! ]", line)[0] for line in lines]
    assert "videosys" not in names
    assert len(names) == len(set(names))
