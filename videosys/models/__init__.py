"""The transformers: plain modules, pure functions of their arguments."""
