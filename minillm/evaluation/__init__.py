"""How good a model is: losses, baselines, scores of what it writes, and the lm-evaluation-harness."""
