"""Benchmarks the speed and memory of the transformers and autoencoders: `make bench`."""
