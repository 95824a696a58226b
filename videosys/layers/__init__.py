"""Layers of the transformers, independent of models, caches and process groups."""
