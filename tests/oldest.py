"""A plugin for pytest that skips tests of what an older diffusers lacks, or cannot import with an older
transformers. `.ci/oldest` uses it.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Generator
from importlib.metadata import version
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "videosys"
MISSING = re.compile(r"module diffusers has no attribute \w+|cannot import name '\w+' from 'transformers'")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, None, None]:
    yield from skipping()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    yield from skipping()


def skipping() -> Generator[None, None, None]:
    try:
        return (yield)
    except (AttributeError, RuntimeError) as error:
        missing = MISSING.search(str(error))
        if missing is None or is_ours(error):
            raise
        pytest.skip(
            f"{missing[0]} (diffusers {version('diffusers')}, transformers {version('transformers')})"
        )


def is_ours(error: Exception) -> bool:
    """Whether the package itself uses what is missing."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(Path(frame.filename).is_relative_to(PACKAGE) for frame in frames)
