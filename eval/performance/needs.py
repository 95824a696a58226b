"""Benchmarks of decoding, and of a step's memory, which is measured in a separate process."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from eval.performance.models import Setting, facts, versions
from eval.performance.plan import DTYPES, Plan, Row, name_of
from eval.performance.timing import Run, alternate, synchronize
from videosys import Blueprint, Parallel, blueprint

MIB = 2**20
Video = tuple[int, int, int]  # frames, rows and columns of pixels
SMALL = (5, 64, 64)


def autoencoders() -> dict[str, Blueprint]:
    """Blueprints by name: all published versions, and the further decoders of models.json."""
    plans = {}
    for config in versions():
        plans[config.model_name] = blueprint(config)
        for label, changes in facts(config).get("decoders", {}).items():
            plans[f"{config.model_name}, {label}"] = blueprint(replace(config, **changes))
    return plans


def decoding(plan: Plan) -> Iterator[Row]:
    """Time the decoding of 5 frames of 64 x 64, with published shapes and random weights."""
    for name, published in autoencoders().items():
        runs: dict[str, Run] = {
            key: decoder(published, SMALL, dtype, plan.device) for key, dtype in DTYPES.items()
        }
        samples = alternate(runs, max(plan.rounds // 2, 1))
        for key, sample in samples.items():
            seconds, megapixels = sample.seconds, math.prod(SMALL) / 1e6
            yield {"autoencoder": name, "dtype": key, "decode_s": seconds, "s_per_mpx": seconds / megapixels}


def decoder(plan: Blueprint, video: Video, dtype: torch.dtype, device: torch.device) -> Run:
    """A callable that decodes a video from random latents."""
    torch.manual_seed(0)
    vae: Any = plan.parts.vae.build(Parallel()).to(device, dtype).eval().requires_grad_(False)
    latents = torch.randn(1, plan.latent_channels, *vae.latent_size(*video), device=device)
    return lambda: vae.decode(latents, video[0])


def memory(plan: Plan) -> Iterator[Row]:
    """Peak memory of a step beyond weights and inputs."""
    for model in plan.models:
        for dtype in DTYPES.values():
            yield {"model": model, "dtype": name_of(dtype), "step_mib": peak_of(model, name_of(dtype))}


def peak_of(model: str, dtype: str) -> float:
    """Peak memory in MiB, measured in a separate process."""
    command = [sys.executable, "-m", "eval.performance.needs", model, dtype]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"measuring {model} in {dtype} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(model: str, dtype: str) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    subject = Setting.small(model, DTYPES[dtype], device).subject()
    with torch.no_grad():
        print(peak(subject.step, device) / MIB)


def peak(run: Run, device: torch.device) -> int:
    """Peak bytes that a call allocates in addition to those already allocated."""
    return peak_on_gpu(run) if device.type == "cuda" else peak_on_cpu(run)


def peak_on_gpu(run: Run) -> int:
    run()  # libraries allocate their permanent memory
    synchronize()
    torch.cuda.reset_peak_memory_stats()  # creating the weights may have needed more
    before = torch.cuda.memory_allocated()
    run()
    synchronize()
    return torch.cuda.max_memory_allocated() - before


def peak_on_cpu(run: Run) -> int:
    """Uses torch's allocator, because the peak of the process includes the code of kernels."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]"]
    changes.sort(key=lambda event: event["ts"])
    return max(itertools.accumulate(event["args"]["Bytes"] for event in changes))


if __name__ == "__main__":
    main(*sys.argv[1:])
