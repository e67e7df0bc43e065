"""Faster implementations of functions in `nn` and `objectives`. Each file names its definition and its test."""
