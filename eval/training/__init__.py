"""How the tiny checkpoints are trained and scored: `python -m eval.training.train`."""
