"""Videos of every method, for the same prompts and seeds."""
