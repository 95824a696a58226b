"""Variables of a torchrun that is gone, and ranks that ask for different things: said early, and in full."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from videosys import OpenSoraConfig, TeaCacheConfig
from videosys.engine import torchrun
from videosys.engine.messages import value_codec
from videosys.engine.torchrun import ADVICE, VARIABLES, check_same_request, describe, meeting

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def left_over(monkeypatch):
    for name, value in zip(VARIABLES, ("1", "2", "127.0.0.1", "1"), strict=True):
        monkeypatch.setenv(name, value)


def test_what_is_waited_for_is_said(monkeypatch, left_over, caplog):
    monkeypatch.setattr(torchrun, "PATIENCE", 0.05)
    with meeting():
        deadline = time.monotonic() + 20
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.01)
    assert caplog.messages == [f"rank 1 of 2 has waited 0.05 s for the others at 127.0.0.1:1; {ADVICE}"]
    assert "unset RANK WORLD_SIZE MASTER_ADDR MASTER_PORT" in ADVICE


def test_who_meets_at_once_hears_nothing(monkeypatch, left_over, caplog):
    monkeypatch.setattr(torchrun, "PATIENCE", 0.05)
    with meeting():
        pass
    time.sleep(0.2)
    assert caplog.messages == []


@pytest.mark.parametrize(
    "error", [RuntimeError("timed\nout"), torch.distributed.DistNetworkError("no route")]
)
def test_ranks_that_do_not_meet_are_one_error(left_over, error):
    with pytest.raises(ValueError, match=r"^rank 1 of 2 cannot connect to the others at .*; if no torchrun"):
        with meeting():
            raise error


@pytest.mark.parametrize(
    ("name", "value"),
    [("WORLD_SIZE", "two"), ("RANK", "-1"), ("RANK", "²"), ("MASTER_PORT", ""), ("RANK", "2")],
)
def test_variables_that_cannot_be_are_named(monkeypatch, left_over, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"^{name}={value} in the environment .*unset RANK"):
        torchrun.world_size()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("rank", ["0", "1", "x"])
def test_the_sample_script_ends_with_one_line(tmp_path, rank):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    values = dict(zip(VARIABLES, (rank, "2", "127.0.0.1", port), strict=True))
    script = ROOT / "examples" / "opensora" / "sample.py"
    config = ROOT / "examples" / "opensora" / "tiny.yaml"
    command = [
        sys.executable,
        str(script),
        "--config",
        str(config),
        "parallel.timeout=1",
        f"output={tmp_path}",
    ]
    environment = {**os.environ, **values, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "unset RANK WORLD_SIZE" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def described(prompt: str = "a", **fields: object) -> dict[str, str]:
    return describe([prompt], OpenSoraConfig(**fields), {}, value_codec())


def test_the_values_of_all_ranks_are_printed():
    requests = [described(), described("b", num_frames=34), described("a", num_frames=51)]
    with pytest.raises(ValueError) as caught:
        check_same_request(requests)
    first = f"num_frames is 34 and {OpenSoraConfig().num_frames!r}".replace("'", '"')
    assert str(caught.value).startswith(f"rank 1: request differs from rank 0: {first}")
    assert 'prompt is ["b"] and ["a"]' in str(caught.value)
    assert 'prompt (rank 0: ["a"], rank 1: ["b"], rank 2: ["a"])' in str(caught.value)
    assert ", rank 1: 34, rank 2: 51)" in str(caught.value)


def test_values_are_readable_and_differ_where_they_do():
    one, other = (described(cache=TeaCacheConfig(threshold, (1.0,)))["cache"] for threshold in (0.1, 0.2))
    assert '"threshold": 0.1' in one
    assert '"threshold": 0.2' in other
    long = [described("x" * 1000 + end)["prompt"] for end in "ab"]
    assert len(set(long)) == 2
    assert all(len(text) < 300 for text in long)
    codec = value_codec()
    frames = [
        describe(["a"], OpenSoraConfig(), {"x": torch.full((2,), value)}, codec)["x"] for value in (1, 2)
    ]
    assert len(set(frames)) == 2
    check_same_request([described(), described()])
