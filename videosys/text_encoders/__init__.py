"""Text encoders, which turn prompts into embeddings. The encoder is imported on first use."""
