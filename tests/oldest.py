"""A plugin for pytest that skips tests of what an older diffusers lacks, or cannot import with an older
transformers. `.ci/oldest` uses it.
"""

from __future__ import annotations

import re
from collections.abc import Generator

import diffusers
import pytest

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
        if missing := MISSING.search(str(error)):
            pytest.skip(f"diffusers {diffusers.__version__}: {missing[0]}")
        raise
