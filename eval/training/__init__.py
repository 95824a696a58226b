"""Trains and scores the tiny checkpoints: `python -m eval.training.train`."""
