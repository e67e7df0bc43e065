"""Foreign names of the same weights, as reversible tables."""
