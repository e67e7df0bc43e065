"""Looks into trained models and runs: attention weights, what heads do, and pages that show both."""
