"""From a prompt to the embeddings that a model reads. The encoder itself is imported where it is needed."""
