"""Samplers in the words of diffusers' schedulers, so that one denoise loop serves every model."""

from videosys.schedulers.build import Sampler, ddim, euler_ancestral, pndm
from videosys.schedulers.rflow import RFlowScheduler

__all__ = ["RFlowScheduler", "Sampler", "ddim", "euler_ancestral", "pndm"]
