"""Samplers: ours, in the words of diffusers' schedulers, so that one denoise loop serves every model."""
