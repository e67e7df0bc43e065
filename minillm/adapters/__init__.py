"""Adapters: a few trained parameters beside a model whose own weights stay frozen."""
