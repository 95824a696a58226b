"""Videos by several processes, the engine's own and torchrun's, are those of one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from tests.ambient import together
from videosys import OpenSoraConfig, ParallelConfig, VideoSysEngine, load_config, read_video

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "opensora" / "sample.py"
TINY = SCRIPT.with_name("tiny.yaml")
SMALL = ["num_frames=17", "num_inference_steps=6", "seed=3", "device=cpu", "cache.threshold=0.15"]
PROMPTS = ["a large red circle moves rightward on a white background", "a small green cross spins"]

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def config():
    return load_config(OpenSoraConfig, TINY, SMALL)


@pytest.fixture(scope="module")
def alone(config):
    with VideoSysEngine(config, quiet=True) as engine:
        return engine.generate(PROMPTS)


def assert_alike(video, expected):
    """Equal but for a few values that another order of additions rounds to the next byte."""
    difference = (video.int() - expected.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.001


def lines(text, pattern):
    """The lines that hold a pattern; a bar is one line, though it is written many times."""
    return [line for line in text.split("\n") if re.search(pattern, line)]


def test_an_engine_of_two_processes_makes_the_same_videos(config, alone, capfd):
    parallel = ParallelConfig(num_gpus=2, sp=2)
    with together("16 bits"), VideoSysEngine(replace(config, parallel=parallel, offload="stage")) as engine:
        stream = engine.stream(PROMPTS)
        first = next(stream)
        output = first.joined(next(stream))
        assert not any(part.is_loaded for part in (engine.pipeline.transformer, engine.pipeline.vae))
        with pytest.raises(ValueError, match="not of the form"):
            engine.generate("|0|a|x|b")
        again = engine.generate(PROMPTS[0], seed=None, num_inference_steps=1, num_frames=1)
    assert (output.prompts, output.seeds, output.fps) == (alone.prompts, alone.seeds, alone.fps)
    for video, expected in zip(output.video, alone.video, strict=True):
        assert_alike(video, expected)
    decisions = [[step.computed for step in steps] for steps in output.steps_per_video]
    assert decisions == [[step.computed for step in steps] for steps in alone.steps_per_video]
    assert again.seeds != output.seeds
    out, err = capfd.readouterr()
    assert out == ""
    # One rank shows bars: 2 videos, then one again, whose parts were cleared from memory in between.
    assert len(lines(err, "denoise.* 6/6")) == 2
    assert len(lines(err, "load STDiT3")) == 3


def torchrun(program, *arguments, folder):
    """A program in two processes, as a user starts them; no other run can have the same port."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [*command, str(program), *arguments],
        cwd=folder,
        env={**os.environ, **settings, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        timeout=500,
    )


@pytest.mark.slow
def test_the_sample_script_runs_under_torchrun(alone, tmp_path):
    prompts = [f"prompt={prompt}" for prompt in PROMPTS]
    arguments = ["--config", str(TINY), *SMALL, *prompts, f"output={tmp_path}", "lossless=true"]
    done = torchrun(SCRIPT, *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    saved = done.stdout.decode().splitlines()
    assert len(saved) == 2
    for line, expected in zip(saved, alone.video, strict=True):
        assert_alike(read_video(line.split()[0])[0], expected)
    assert len(list(tmp_path.iterdir())) == 4  # two videos, and a JSON file beside each
    side = json.loads(Path(saved[0].split()[0] + ".json").read_text())
    assert (side["prompt"], side["seed"]) == (PROMPTS[0], 3)
    assert len(lines(done.stderr.decode(), "denoise.* 6/6")) == 2


PROGRAM = """
    import json, os, sys, zlib
    import torch
    from dataclasses import dataclass, replace
    from videosys import OpenSoraConfig, ParallelConfig, TeaCacheConfig, VideoSysEngine, load_config

    @dataclass(frozen=True)
    class Unknown(TeaCacheConfig):
        pass

    config = load_config(OpenSoraConfig, sys.argv[1], sys.argv[2:])
    config = replace(config, parallel=ParallelConfig(dp=2), num_inference_steps=1, seed=None)
    rank = int(os.environ["RANK"])
    if rank == 1:
        torch.set_default_dtype(torch.float16)
        torch.set_default_device("meta")
    report = {"rank": rank}
    with VideoSysEngine(config, quiet=True) as engine:
        requests = {"prompt": {}, "num_frames": {"num_frames": 17 + rank}, "cache": {"cache": Unknown(0.1)}}
        for name, request in requests.items():
            try:
                engine.generate(f"prompt {rank if name == 'prompt' else 0}", **request)
            except ValueError as error:
                report[name] = str(error)
        output = engine.generate(["a", "b", "c"])
        again = engine.generate(["a", "b"], seed=5)
        report["again"] = [zlib.crc32(video.numpy().tobytes()) for video in again.video]
        report["videos"] = [zlib.crc32(video.numpy().tobytes()) for video in output.video]
        report["prompts"], report["seeds"] = output.prompts, output.seeds
        engine.save_video(output.video[0], f"{rank}.gif")
    os.write(1, (json.dumps(report) + "\\n").encode())  # in one piece: the ranks share the pipe
"""


def test_all_ranks_of_torchrun_must_ask_for_the_same_and_get_the_same(config, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    done = torchrun(program, str(TINY), *SMALL, folder=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    one, other = sorted(map(json.loads, done.stdout.splitlines()), key=lambda report: report.pop("rank"))
    assert one == other
    assert one["prompt"].startswith("rank 1: request differs from rank 0: prompt is ")
    assert one["num_frames"].endswith("num_frames is 18 and 17")
    assert one["cache"].startswith("cache: a __main__:Unknown cannot be sent to another process; register")
    assert one["prompts"] == ["a", "b", "c"]
    assert len(set(one["seeds"])) == 1  # drawn once, by the first
    assert len(set(one["videos"])) == 3
    assert [path.name for path in tmp_path.glob("*.gif")] == ["0.gif"]
    with VideoSysEngine(replace(config, num_inference_steps=1), quiet=True) as engine:
        alone = engine.generate(["a", "b"], seed=5)  # each rank made one, whatever was set in its program
    assert one["again"] == [zlib.crc32(video.numpy().tobytes()) for video in alone.video]
