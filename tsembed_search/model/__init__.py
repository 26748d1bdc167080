"""Models: backbones, the embedder that drives them, and what they say about themselves."""
