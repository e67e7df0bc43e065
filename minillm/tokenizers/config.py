"""Settings of a run's tokenizer."""

from dataclasses import dataclass
from typing import Literal

from minillm.settings import Only, check, setting

_BPE: Only = {"kind": ("bpe",)}


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """How text is converted to token ids."""

    kind: Literal["byte", "char", "bpe", "gpt2", "cl100k_base", "o200k_base", "imported"] = setting("bpe")
    """bpe is trained on the run's text; byte and char need no training; imported is only for imported weights; the
    others are OpenAI's published vocabularies."""
    vocab_size: int = setting(4096, at_least=1, only=_BPE)
    """Vocabulary size of bpe, including special tokens; the other kinds have a fixed size."""
    train_bytes: int = setting(100_000_000, at_least=1, only=_BPE)
    """bpe learns its merges from the first bytes of the text, up to this number (about 20 seconds)."""

    def __post_init__(self) -> None:
        check("tokenizer", self)
