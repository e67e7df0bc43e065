"""Reinforcement learning: what completions are worth, and training batches that the model samples itself."""
