"""Pages, docstrings, messages and comments are written in plain technical English, without these idioms."""

from __future__ import annotations

import re

import pytest

from tests.house.source import ROOT, named, python_files

FOLDERS = ("videosys", "eval", "examples")
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
# Pattern -> what to write instead.
IDIOMS = {
    r"(?<![Tt]here )\b(?:is|are|was) no (?!longer\b|more\b|better\b|other\b)[a-z]+": "is not a ...",
    r"\bshall\b": "should, must or will",
    r"\bwhatever\b": "any, or for every",
    r"\bso many\b": "this many, or a number of",
    r"\bof itself\b|\beach for itself\b": "separately",
    r"\ba mistake of the user's\b": "a user error",
    r"\bwhere there (?:is|are) none\b": "if there is none, or None",
    r"\bwhole or not at all\b": "atomically, or complete or absent",
    r"\bhow like\b": "how similar",
    r"\bat rest\b": "outside of the exchange",
    r"\bof one's own\b": "custom, or your own",
    r"\bas they lie\b": "without a copy, or unchanged",
    r"\bcannot be had\b": "is not available",
    r"\bis at work\b": "is running",
    r"\bis given, and so is\b": "cannot be combined with",
    r"\bgoes on (?:from|where)\b": "continues, or resumes",
    r"\bon purpose\b": "deliberately",
    r"\bin vain\b": "without a result",
    r"\bwhat stands between\b": "what is in between",
}


def idioms(text: str) -> list[str]:
    """The idioms in a text, each with its line."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, instead in IDIOMS.items():
            found += [
                f"line {number}: {match[0]!r}; write: {instead}" for match in re.finditer(pattern, line)
            ]
    return found


@pytest.mark.parametrize("path", [*python_files(*FOLDERS), *PAGES], ids=named)
def test_texts_are_plain(path):
    assert idioms(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "x.json is no file",
        "what the video shall show",
        "whatever fails",
        "after so many steps",
        "None where there is none",
        "a file is whole or not at all",
        "how like they are",
        "tokens are at rest cut by S",
        "cache.every is given, and so is a goal",
    ],
)
def test_idioms_are_caught(text):
    assert len(idioms(text)) == 1


@pytest.mark.parametrize(
    "text",
    ["x.json is not a file", "it is no longer used", "there is no padding", "it is no better than True"],
)
def test_plain_texts_pass(text):
    assert idioms(text) == []
