"""Hypothesis without its time limit per example, which a busy machine breaks at random."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
