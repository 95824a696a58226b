"""Who makes the videos: decided from the config and from what torchrun says, before anything starts."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from videosys import LatteConfig, OpenSoraConfig, ParallelConfig, VideoSysEngine, config_to_dict, load_config
from videosys.engine.build import rank_device
from videosys.engine.pool import Pool
from videosys.engine.torchrun import VARIABLES, is_main_process, world_size

PARTS = {"transformer": "bundled:opensora/transformer", "vae": "bundled:opensora/vae"}
PARTS |= {"text_encoder": "bundled:opensora", "device": "cpu"}


@pytest.fixture
def torchrun(monkeypatch):
    """Says that this is a rank of some that torchrun started."""

    def say(rank, world):
        for name, value in zip(VARIABLES, (rank, world, "127.0.0.1", 29500), strict=True):
            monkeypatch.setenv(name, str(value))

    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return say


def test_num_gpus_is_short_for_the_section():
    config = OpenSoraConfig(num_gpus=4)
    assert config == OpenSoraConfig(parallel=ParallelConfig(num_gpus=4))
    assert load_config(LatteConfig, overrides=["num_gpus=2"]).parallel == ParallelConfig(num_gpus=2)
    assert load_config(LatteConfig, overrides=["parallel.num_gpus=4", "parallel.sp=2"]).parallel.sp == 2
    short = load_config(LatteConfig, overrides=["num_gpus=8", "parallel.sp=2"]).parallel
    assert short == ParallelConfig(num_gpus=8, sp=2)
    with pytest.raises(ValueError, match="sp 3 do not multiply to num_gpus 8"):
        load_config(LatteConfig, overrides=["num_gpus=8", "parallel.sp=3"])
    assert dataclasses.replace(config, parallel=ParallelConfig()).parallel.num_gpus == 1
    assert config_to_dict(config)["parallel"]["num_gpus"] == 4
    with pytest.raises(ValueError, match=r"num_gpus is 3, but parallel.num_gpus is 2"):
        OpenSoraConfig(num_gpus=3, parallel=ParallelConfig(num_gpus=2))
    with pytest.raises(ValueError, match="num_gpus is 0"):
        OpenSoraConfig(num_gpus=0)
    with pytest.raises(ValueError, match="num_gpus must be a whole number"):
        OpenSoraConfig(num_gpus="two")


def test_several_processes_start_with_the_first_request_only(torchrun):
    with VideoSysEngine(OpenSoraConfig(num_gpus=2, **PARTS), quiet=True) as engine:
        assert isinstance(engine.runner, Pool)
        assert engine.runner._processes is None
        assert engine.runner.config.parallel.is_resolved
        for prompt, request, message in (
            ("", {}, "blank"),
            ("a", {"num_gpus": 1}, "unknown request 'num_gpus'"),
        ):
            with pytest.raises(ValueError, match=message):
                engine.stream(prompt, **request)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transformer": "no/such"}, "no/such"),
        ({"guidance_scale": 1.0, "parallel": ParallelConfig(2, cfg=2)}, "guidance_scale is 1"),
        ({"device": "cpu", "num_gpus": 2048, "height": 32, "width": 32}, "parallel.sp is 1024"),
        ({"num_gpus": 1, "parallel": ParallelConfig(dp=2)}, "do not multiply to num_gpus 1"),
        ({"device": "cuda:0"}, "device is 'cuda:0'; for 2 processes it must be auto, cuda or cpu"),
        ({"device": "cuda"}, r"parallel.num_gpus is 2: 2 processes run here, but this machine has 1 CUDA"),
    ],
)
def test_worlds_that_cannot_be_are_refused_at_once(torchrun, monkeypatch, changes, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=message):
        VideoSysEngine(OpenSoraConfig(**{"num_gpus": 2, **PARTS, **changes}))


def test_each_rank_has_a_device_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device, expected in (("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu")):
        config = OpenSoraConfig(num_gpus=2, device=device)
        names = [f"cuda:{rank}" for rank in range(2)] if expected == "cuda" else ["cpu", "cpu"]
        assert [str(rank_device(config, rank, 2)) for rank in range(2)] == names


def test_torchrun_is_what_sets_all_of_its_variables(torchrun, monkeypatch):
    assert (world_size(), is_main_process()) == (1, True)
    torchrun(0, 2)
    assert (world_size(), is_main_process()) == (2, True)
    torchrun(1, 2)
    assert (world_size(), is_main_process()) == (2, False)
    monkeypatch.delenv("MASTER_PORT")
    assert (world_size(), is_main_process()) == (1, True)
    torchrun(0, 1)
    with VideoSysEngine(OpenSoraConfig(**PARTS), quiet=True) as engine:
        assert type(engine.runner).__name__ == "SingleProcessRunner"


def test_torchrun_with_another_number_of_processes_is_refused(torchrun):
    torchrun(1, 2)
    with pytest.raises(ValueError, match=r"parallel.num_gpus is 4, but torchrun started 2 processes"):
        VideoSysEngine(OpenSoraConfig(num_gpus=4, **PARTS))


def test_only_the_first_process_saves(torchrun, tmp_path):
    engine = VideoSysEngine(OpenSoraConfig(**PARTS), quiet=True)
    video = torch.zeros(1, 16, 16, 3, dtype=torch.uint8)
    torchrun(1, 2)
    assert engine.save_video(video, tmp_path / "a.png") == tmp_path / "a.png"
    assert not list(tmp_path.iterdir())
    torchrun(0, 2)
    engine.save_video(video, tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()
