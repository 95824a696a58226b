"""Packages that are imported on first use, by several threads at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.house.source import ROOT

START = """
import sys
from concurrent.futures import ThreadPoolExecutor
from videosys import VideoSysEngine, tiny
from videosys.schedulers import build

assert not {"diffusers", "transformers"} & {*sys.modules}
"""
ENGINES = """
def use(name):
    VideoSysEngine(tiny.config(name), quiet=True).close()

with ThreadPoolExecutor(8) as pool:
    print(len([*pool.map(use, tiny.bundled() * 2)]))
"""
SAMPLERS = """
makes = [build.ddim, build.pndm, build.euler_ancestral] * 4
with ThreadPoolExecutor(len(makes)) as pool:
    print(len([*pool.map(lambda make: make(20), makes)]))
"""


@pytest.mark.parametrize(("script", "count"), [(ENGINES, "8"), (SAMPLERS, "12")], ids=["engines", "samplers"])
def test_the_first_use_may_be_in_threads(script, count):
    done = subprocess.run(
        [sys.executable, "-c", START + script], capture_output=True, text=True, cwd=ROOT, timeout=100
    )
    assert done.stdout.strip() == count, done.stderr[-500:]
