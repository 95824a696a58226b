"""Samplers with the interface of diffusers' schedulers, so that all models share one denoising loop."""

from videosys.schedulers.build import Sampler, ddim, euler_ancestral, pndm
from videosys.schedulers.rflow import RFlowScheduler

__all__ = ["RFlowScheduler", "Sampler", "ddim", "euler_ancestral", "pndm"]
