"""All caches of a tiny checkpoint compared at equal work: `python -m eval.policies`."""
