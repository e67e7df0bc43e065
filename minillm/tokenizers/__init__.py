"""Byte, character, BPE, published and imported tokenizers."""
