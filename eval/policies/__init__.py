"""Compares all caches of a tiny checkpoint at equal work: `python -m eval.policies`."""
