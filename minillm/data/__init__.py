"""Text sources, tokenized corpora on disk, and the loader."""
