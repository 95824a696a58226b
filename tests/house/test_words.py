"""Pages, docstrings, messages and comments are written in plain technical English, without these idioms."""

from __future__ import annotations

import re

import pytest

from tests.house.source import ROOT, named, python_files

FOLDERS = ("videosys", "eval", "examples")
PAGES = [
    *(path for pattern in ("*.md", "docs/**/*.md", ".github/**/*.md") for path in sorted(ROOT.glob(pattern))),
    *sorted((ROOT / "examples").rglob("*.yaml")),
    *(ROOT / name for name in ("Makefile", "setup.py", ".ci/run", ".ci/oldest", ".ci/wheel")),
]
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
    r"\bbeside (?:it|its|them|the|that|those|a|an|one|each|every|as)\b": "next to, or together with",
    r"\bnearer (?:to|than)\b": "closer to",
    r"\banew\b": "again",
    r"\blearnt from\b|\bprompts? to learn from\b|\blearning prompts?\b": "calibrated on, calibration prompts",
    r"\b(?:is|are|was|were) told\b": "gets, or is passed",
    r"\bwithout a word\b": "silently",
    r"\bhangs? together\b": "are connected",
    r"\bdoes without\b": "does not need",
    r"\bgoes over to\b": "switches to",
    r"\bmend(?:s|ed|ing)?\b": "fixes, or repairs",
    r"\bchanges of the config\b": "overrides of the config",
    r"\bmistakes? of (?:the|a) user\b|\buser's mistakes?\b": "a user error",
    r"\bsays (?:so|otherwise|nothing)\b": "sets another value, or specifies",
    r"\bthat (?:is|are) there\b": "existing",
    r"\bnormed (?:and|by|in|where)\b": "normalized",
    r"\bleft out of the\b|\bleaves? (?:it|them|these|those) out\b": "omitted, or skipped",
    r"\bare known to it\b|\bunknown to it\b": "in, or outside of, its vocabulary",
    r"\bwords? it knows\b": "its vocabulary",
    r"\btaken off\b": "removed",
    r"\bthe shape of none\b": "a shape that differs from all",
    r"\breused steps?\b": "a skipped step; branches are reused",
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
        "a JSON file beside it",
        "comes nearer to the full run",
        "prompts to learn from",
        "the loop is told",
        "ruff mends it",
        "changes of the config",
        "a mistake of the user",
        "unless its file says otherwise",
        "the words it knows",
        "known prefixes are taken off",
        "a reused step",
    ],
)
def test_idioms_are_caught(text):
    assert len(idioms(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "x.json is not a file",
        "it is no longer used",
        "there is no padding",
        "it is no better than True",
        "calibration: beside",
        "branches reused in a step",
        "recommended",
    ],
)
def test_plain_texts_pass(text):
    assert idioms(text) == []
