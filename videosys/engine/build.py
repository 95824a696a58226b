"""Builds the pipeline of a config on this process's device."""

from __future__ import annotations

import dataclasses

import torch

from videosys.generation.config import PipelineConfig
from videosys.generation.pipeline import Pipeline
from videosys.models import family_of
from videosys.parallel import Parallel
from videosys.utils.devices import AUTO, CPU, resolve_device
from videosys.utils.seed import draw_seed


def rank_device(config: PipelineConfig, rank: int, num_ranks: int) -> torch.device:
    """The device of process `rank` of the `num_ranks` processes on this computer.

    ValueError if the computer has too few devices, or if the config names a single one.
    """
    device = resolve_device(config.device)
    if device.type == "mps" and num_ranks > 1 and config.device == AUTO:
        device = CPU  # there is only one mps device
    if device.type == "cpu" or (device.type == "mps" and num_ranks == 1):
        return device
    if (device.index is not None or device.type == "mps") and num_ranks > 1:
        raise ValueError(
            f"device is {config.device!r}; for {num_ranks} processes it must be auto, cuda or cpu"
        )
    if num_ranks > torch.cuda.device_count():
        raise ValueError(
            f"parallel.num_gpus is {config.parallel.num_gpus}: {num_ranks} processes run here, "
            f"but this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return torch.device("cuda", rank)


def seeded(config: PipelineConfig) -> PipelineConfig:
    """The config, with a random seed if it has none."""
    return config if config.seed is not None else dataclasses.replace(config, seed=draw_seed())


def build_pipeline(config: PipelineConfig, quiet: bool, device: torch.device) -> Pipeline:
    """This process's pipeline; its process group must exist."""
    config = dataclasses.replace(config, device=str(device))
    parallel = Parallel.from_config(config.parallel, device)
    return family_of(config).build(config, quiet, parallel)
