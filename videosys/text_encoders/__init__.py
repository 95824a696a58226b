"""Text encoders: from prompts to embeddings. The encoder itself is imported on use."""
