"""Autoencoders, and the memory of a step, which has a process of its own so that its peak is its own."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from eval.performance.cases import DTYPES, Row, name_of
from eval.performance.models import BUILDERS, Setting
from eval.performance.timing import Run, alternate
from videosys import (
    CausalVAE,
    CausalVAEConfig,
    LatteVAE,
    LatteVAEConfig,
    OpenSoraVAE,
    OpenSoraVAEConfig,
)

MIB = 2**20
FRAMES, SIDE = 5, 8  # latent rows and columns; pixels are eight times as many


def plan_vae(version: str) -> nn.Module:
    """The autoencoder of Open-Sora-Plan, in the published layout of its version."""
    plain, joint = ("",) * 4, "Spatial2xTime2x3D"
    is_v110 = version == "v110"
    down, up = ("Downsample", f"{joint}Downsample"), ("SpatialUpsample2x", f"{joint}Upsample")
    later_down, later_up = (down[0], up[0]) if is_v110 else (down[1], up[1])
    times = ("TimeDownsampleRes2x",) * 2, ("TimeUpsampleRes2x",) * 2
    config = CausalVAEConfig(
        encoder_spatial_downsample=(down[0], later_down, later_down, ""),
        encoder_temporal_downsample=("", *times[0], "") if is_v110 else plain,
        encoder_resnet_blocks=("ResnetBlock2D", "ResnetBlock2D", "ResnetBlock3D", "ResnetBlock3D"),
        decoder_spatial_upsample=("", up[0], later_up, later_up),
        decoder_temporal_upsample=("", "", *times[1]) if is_v110 else plain,
        decoder_resnet_blocks=("ResnetBlock3D",) * 4,
    )
    return CausalVAE(config)


AUTOENCODERS: MappingProxyType[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "Open-Sora v1.2": lambda: OpenSoraVAE(OpenSoraVAEConfig()),
        "Latte, frame by frame": lambda: LatteVAE(LatteVAEConfig()),
        "Latte, temporal": lambda: LatteVAE(LatteVAEConfig(_class_name="AutoencoderKLTemporalDecoder")),
        "Open-Sora-Plan v1.1.0": lambda: plan_vae("v110"),
        "Open-Sora-Plan v1.2.0": lambda: plan_vae("v120"),
    }
)


def decoding(device: torch.device, rounds: int, compile: bool) -> Iterator[Row]:
    """Seconds to decode 5 frames of 64 x 64, published shapes and random weights."""
    for name, build in AUTOENCODERS.items():
        runs: dict[str, Run] = {key: decoder(build, dtype, device) for key, dtype in DTYPES.items()}
        samples = alternate(runs, max(rounds // 2, 1))
        for key, sample in samples.items():
            megapixels = FRAMES * (8 * SIDE) ** 2 / 1e6
            seconds = sample.seconds
            yield {"autoencoder": name, "dtype": key, "decode_s": seconds, "s_per_mpx": seconds / megapixels}


def decoder(build: Callable[[], nn.Module], dtype: torch.dtype, device: torch.device) -> Run:
    torch.manual_seed(0)
    vae: Any = build().to(device, dtype).eval().requires_grad_(False)
    latents = torch.randn(1, 4, *vae.latent_size(FRAMES, 8 * SIDE, 8 * SIDE), device=device)
    return lambda: vae.decode(latents, FRAMES)


def memory(device: torch.device, rounds: int, compile: bool) -> Iterator[Row]:
    """Peak memory of a step beyond weights and inputs."""
    for model in BUILDERS:
        for dtype in DTYPES.values():
            yield {"model": model, "dtype": name_of(dtype), "step_mib": peak_of(model, name_of(dtype))}


def peak_of(model: str, dtype: str) -> float:
    """MiB, measured in another process."""
    command = [sys.executable, "-m", "eval.performance.needs", model, dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(model: str, dtype: str) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    subject = Setting(model, DTYPES[dtype], device).subject()
    with torch.no_grad():
        peak = peak_on_gpu(subject.step) if device.type == "cuda" else peak_on_cpu(subject.step)
    print(peak / MIB)


def peak_on_gpu(run: Run) -> int:
    before = torch.cuda.memory_allocated()
    run()
    return torch.cuda.max_memory_allocated() - before


def peak_on_cpu(run: Run) -> int:
    """By what torch's allocator says: the process's own peak has the code of kernels in it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    return max(itertools.accumulate(event.nbytes() for event in events if event.name() == "[memory]"))


if __name__ == "__main__":
    main(*sys.argv[1:])
