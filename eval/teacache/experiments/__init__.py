"""Generates videos with every method for the same prompts and seeds."""
