"""Which tokenizer a run uses, as data. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """How text becomes ids."""

    kind: Literal["byte", "char", "bpe", "gpt2", "cl100k_base", "o200k_base", "imported"] = "bpe"
    """bpe is trained on the run's own text; byte and char need no training; imported comes with imported weights; the
    rest are OpenAI's published tables."""
    vocab_size: int = 4096
    """Number of ids that `bpe` may use, special tokens included; the other kinds have a size of their own."""
    train_bytes: int = 100_000_000
    """`bpe` learns its merges from the first so many bytes of the text (some 20 s of work)."""

    def __post_init__(self) -> None:
        """Raise ValueError with the key where a count is not one; `bpe` itself says how many ids it needs."""
        for key in ("vocab_size", "train_bytes"):
            if getattr(self, key) < 1:
                raise ValueError(f"tokenizer.{key} is {getattr(self, key)}; it must be at least 1")
