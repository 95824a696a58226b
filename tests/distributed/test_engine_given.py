"""Latents, embeddings, output types and LoRAs with several processes: the videos of one process."""

from __future__ import annotations

import json
import textwrap
import zlib
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from tests.distributed.test_engine_ranks import assert_alike, torchrun
from tests.tiny_checkpoint import config_of
from videosys import ParallelConfig, VideoSysEngine, config_to_dict

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(600)]

PROMPT = "a red circle"
LAYER = "spatial_blocks.0.attn.qkv"


@pytest.fixture(scope="module")
def config(checkpoint):
    return config_of(checkpoint, num_frames=1, num_inference_steps=2, device="cpu")


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("lora") / "a.safetensors"
    save_file(
        {f"{LAYER}.lora_A.weight": torch.randn(4, 32), f"{LAYER}.lora_B.weight": torch.randn(96, 4)}, path
    )
    return str(path)


def requests(engine):
    """What is asked for: equal prompts and seeds with other latents, and embeddings."""
    latents = torch.cat([engine.prepare_latents(seed=seed) for seed in (1, 2, 3)])
    yield "latents", {"prompt": [PROMPT] * 3, "latents": latents}
    yield (
        "embeds",
        {**engine.encode_prompt([PROMPT, "a blue ring"], negative_prompt="a cross"), "output_type": "latent"},
    )
    yield "frames", {"prompt": PROMPT, "output_type": "np"}


@pytest.fixture(scope="module")
def alone(config, lora):
    with VideoSysEngine(config, quiet=True) as engine:
        videos = {name: engine.generate(**request).video for name, request in requests(engine)}
        engine.set_lora(lora)
        videos["lora"] = engine.generate(PROMPT).video
    return videos


@pytest.mark.parametrize("axes", [{"dp": 2}, {"sp": 2}, {"cfg": 2}], ids=str)
def test_processes_of_an_engine(config, alone, lora, axes):
    with VideoSysEngine(replace(config, parallel=ParallelConfig(num_gpus=2, **axes)), quiet=True) as engine:
        videos = {name: engine.generate(**request).video for name, request in requests(engine)}
        with pytest.raises(ValueError, match="latents has the shape"):
            engine.generate(PROMPT, latents=torch.zeros(1))
        plain = engine.generate(PROMPT).video[0]
        engine.set_lora(lora)
        videos["lora"] = engine.generate(PROMPT).video
        engine.set_lora()
        assert torch.equal(engine.generate(PROMPT).video[0], plain)
    for name, expected in alone.items():
        for video, other in zip(videos[name], expected, strict=True):
            if name in ("latents", "lora"):
                assert_alike(video, other)
            else:
                torch.testing.assert_close(torch.as_tensor(video), torch.as_tensor(other), rtol=0, atol=5e-3)
    assert not torch.equal(videos["lora"][0], plain)


PROGRAM = """
    import json, os, sys, zlib
    import torch
    from videosys import OpenSoraConfig, VideoSysEngine, load_config

    config = load_config(OpenSoraConfig, json.loads(sys.argv[1]), ["parallel.dp=2"])
    report = {"rank": int(os.environ["RANK"])}
    with VideoSysEngine(config, quiet=True) as engine:
        latents = torch.cat([engine.prepare_latents(seed=seed) for seed in (1, 2, 3)])
        output = engine.generate(["a red circle"] * 3, latents=latents)
        report["videos"] = [zlib.crc32(video.numpy().tobytes()) for video in output.video]
        try:
            engine.generate("a", latents=latents[report["rank"] :][:1])
        except ValueError as error:
            report["error"] = str(error)
        engine.set_lora(sys.argv[2])
        report["lora"] = zlib.crc32(engine.generate("a red circle").video[0].numpy().tobytes())
    os.write(1, (json.dumps(report) + "\\n").encode())  # in one piece: the ranks share the pipe
"""


def test_torchrun(config, alone, lora, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    done = torchrun(program, json.dumps(config_to_dict(config)), lora, folder=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    one, other = sorted(map(json.loads, done.stdout.splitlines()), key=lambda report: report.pop("rank"))
    assert one == other
    assert one["videos"] == [zlib.crc32(video.numpy().tobytes()) for video in alone["latents"]]
    assert one["lora"] == zlib.crc32(alone["lora"][0].numpy().tobytes())
    assert one["error"].startswith("rank 1: request differs from rank 0: latents is ")


@pytest.mark.parametrize("mistake", ["parallel.sp=3", "num_frames=zz", "--no-such-option"])
def test_a_mistake_under_torchrun_is_printed_last_and_once(tmp_path, mistake):
    from tests.distributed.test_engine_ranks import SCRIPT, TINY

    done = torchrun(SCRIPT, "--config", str(TINY), mistake, folder=tmp_path)
    assert done.returncode != 0
    lines = done.stderr.decode().strip().splitlines()
    assert [line for line in lines if "error: " in line] == [lines[-2]]
    assert mistake.rpartition(".")[2].partition("=")[0] in lines[-2]
    assert set(lines[-1]) == {"="}
