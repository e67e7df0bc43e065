"""Evaluation of models: baselines, scores of generated text, and lm-evaluation-harness."""
