"""The encoder, its attention and its checkpoints."""
