"""A headless Chromium on the page of a service in this process, and a stand-in for the service's worker."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import uvicorn

from videosys.cache.base import StepRecord
from videosys.generation.request import VideoOutput
from videosys.serve.app import Service, build_app
from videosys.serve.files import write_files
from videosys.serve.requests import changed
from videosys.serve.store import Job

SIZES = {1280: 900, 390: 844}  # widths and heights of a window
PATIENCE = 60_000.0  # ms on a busy machine
NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def started() -> Iterator[Any]:
    """A browser; skips where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install 'videosys[test]'"
    )
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    playwright.expect.set_options(timeout=PATIENCE)
    with playwright.sync_playwright() as tools:
        # Its sandbox does not work for root and in most containers; the page is our own.
        browser = tools.chromium.launch(executable_path=program, args=["--no-sandbox"], timeout=3 * PATIENCE)
        yield browser
        browser.close()


@contextmanager
def listening(service: Service, port: int = 0) -> Iterator[str]:
    """The address of a service, which answers in a thread."""
    settings = uvicorn.Config(build_app(service), port=port, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    host, taken = server.servers[0].sockets[0].getsockname()[:2]
    try:
        yield f"http://{host}:{taken}"
    finally:
        server.should_exit = True
        thread.join()


@dataclass
class Visit:
    """A page that was opened. problems: what the console and failed scripts said."""

    page: Any
    problems: list[str] = field(default_factory=list)

    def value(self, script: str) -> Any:
        return self.page.evaluate(script)

    @property
    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return self.value("document.documentElement.scrollWidth - window.innerWidth")


@contextmanager
def visit(browser: Any, address: str, width: int = 1280, scheme: str = "light") -> Iterator[Visit]:
    """The page at an address in a window of its own."""
    window = {"width": width, "height": SIZES[width]}
    with browser.new_context(viewport=window, color_scheme=scheme) as context:
        opened = Visit(context.new_page())
        opened.page.set_default_timeout(PATIENCE)
        opened.page.on("pageerror", lambda error: opened.problems.append(str(error)))
        opened.page.on(
            "console", lambda line: opened.problems.append(line.text) if line.type == "error" else None
        )
        opened.page.goto(address)
        yield opened


def claim(service: Service) -> Job:
    """The next job, as a worker takes it."""
    deadline = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < deadline:
        job = service.store.claim("stand-in")
        if job is not None:
            return job
        time.sleep(0.05)
    raise AssertionError("no job was accepted")


def finish(service: Service, job: Job) -> None:
    """Writes a real video of a moving bar, with a plot of distances unless every step was computed."""
    config = changed(service.checker.config, job.changes)
    width, height = (int(side) for side in job.size.split("x"))
    frames = torch.zeros(job.frames, height, width, 3, dtype=torch.uint8)
    for number in range(job.frames):
        frames[number, :, number % width] = 255
    is_plain = job.changes.get("cache", {}).get("name") == "none"
    steps = [step_record(number, config.steps, is_plain) for number in range(config.steps)]
    output = VideoOutput([frames], [job.prompt], [job.seed], [steps], job.fps)
    assert service.store.finish(job, computed=write_files(service.folder, job, output, config))


def step_record(step: int, count: int, is_plain: bool) -> StepRecord:
    """Of a cache that reuses every second step."""
    if is_plain or step in (0, count - 1):
        return StepRecord(step, 1000.0, None, None, None, True)
    return StepRecord(step, 1000.0 - step, 0.5 / step, 0.1, 0.1, step % 2 == 1)
