"""How fast the transformers are and what they need: `make bench`."""
