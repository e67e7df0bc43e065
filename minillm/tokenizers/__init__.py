"""Byte, character, trained BPE and stock encodings behind one Tokenizer."""
