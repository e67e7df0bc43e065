"""Faster forms of equations that `nn` and `objectives` define in plain torch. Each file names its equation and test."""
