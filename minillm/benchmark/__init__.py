"""Measures this program beside its peers, each in its own process, taking turns (`minillm bench`)."""
