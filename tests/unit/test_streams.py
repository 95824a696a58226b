"""What is printed never ends a run, and Ctrl-C is one line at any moment."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys

import pytest

from videosys import exit_status
from videosys.utils.interrupts import leave_at_interrupt, noticed_interrupt, raise_interrupt
from videosys.utils.progress import progress
from videosys.utils.streams import Steady, steady_streams

PROGRAM = """
import sys
from videosys.utils.command import exit_status
from videosys.utils.logging import configure_logging
from videosys.utils.progress import progress

def run():
    configure_logging().warning("Vid\\xe9os %s", "\\udce9")
    for _ in progress(range(3), "b\\xe9b\\xe9"):
        print("Vid\\xe9os", "\\udce9", "x" * 10_000, flush=True)
        print("Vid\\xe9os", file=sys.stderr)
    open(sys.argv[1], "w").close()
    return 5

sys.exit(exit_status(run, ""))
"""


def closed_reader() -> int:
    """The end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.fixture(autouse=True)
def hears_ctrl_c():
    """A program in the background has it ignored, and so would its children."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def run_program(path, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", PROGRAM, str(path)], timeout=100, **options)


@pytest.mark.parametrize("streams", [("stdout",), ("stderr",), ("stdout", "stderr")])
def test_a_run_goes_on_where_nobody_reads_what_it_prints(tmp_path, streams):
    pipes = {name: closed_reader() for name in streams}
    done = run_program(tmp_path / "end", **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **pipes})
    assert done.returncode == 5
    assert (tmp_path / "end").exists()
    assert b"Traceback" not in (done.stderr or b"")


def test_a_run_goes_on_with_an_encoding_that_lacks_letters(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = run_program(tmp_path / "end", capture_output=True, env=environment)
    assert (done.returncode, (tmp_path / "end").exists()) == (5, True)
    assert done.stdout.startswith(b"Vid\\xe9os \\udce9 ")
    assert b"Vid\\xe9os" in done.stderr


@pytest.mark.parametrize("closed", [[1], [2], [0, 1, 2]])
def test_a_run_goes_on_without_streams(tmp_path, closed):
    done = run_program(tmp_path / "end", preexec_fn=lambda: [os.close(number) for number in closed])
    assert (done.returncode, (tmp_path / "end").exists()) == (5, True)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_run_goes_on_where_its_log_is_full(tmp_path):
    with open("/dev/full", "wb") as full:
        done = run_program(tmp_path / "end", stdout=full, stderr=full)
    assert (done.returncode, (tmp_path / "end").exists()) == (5, True)


class Broken(io.StringIO):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(28, "full"), ValueError("I/O on closed file")])
def test_streams_that_fail_swallow_the_text(monkeypatch, error):
    monkeypatch.setattr(sys, "stdout", Broken(error))
    monkeypatch.setattr(sys, "stderr", None)
    with steady_streams():
        print("text")
        print("text", file=sys.stderr)
        assert list(progress([1, 2], "bar")) == [1, 2]
    assert Steady(Steady(sys.stdout)) == Steady(sys.stdout) == sys.stdout


def made_of_an_interrupt() -> Exception:
    try:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise RuntimeError("the file is damaged") from error
    except RuntimeError as error:
        return error


def test_what_was_interrupted_is_not_damaged():
    with pytest.raises(KeyboardInterrupt):
        raise_interrupt(made_of_an_interrupt())
    raise_interrupt(ValueError("damaged"))


def test_an_error_after_ctrl_c_is_an_interrupt(capsys):
    def run():
        with contextlib.suppress(KeyboardInterrupt):  # a library takes it for an error of its own
            signal.raise_signal(signal.SIGINT)
        raise ValueError("the checkpoint is damaged")

    assert exit_status(run, "stopped") == 130
    assert capsys.readouterr().err == "stopped\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_who_ignores_ctrl_c_still_does():
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        leave_at_interrupt()
        with noticed_interrupt() as event:
            signal.raise_signal(signal.SIGINT)
        assert not event.is_set()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


HELD = """
import os, signal, sys
class Held:  # Ctrl-C in the middle of the imports
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Held())
import runpy
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
run = runpy.run_path if sys.argv[0].endswith(".py") else runpy.run_module
run(sys.argv[0], run_name="__main__")
"""
PROGRAMS = [
    "examples/opensora/sample.py",
    "examples/opensora/image_to_video.py",
    "eval/teacache/experiments/latte.py",
    "eval/teacache/report.py",
    "eval.policies",
    "eval.performance",
    "videosys.calibration",
    "videosys.estimate",
]


@pytest.mark.parametrize("name", PROGRAMS)
def test_ctrl_c_in_the_first_second_is_one_line(name):
    done = subprocess.run([sys.executable, "-c", HELD, name], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr, done.stdout) == (130, "interrupted\n", "")
