"""What a source holds, at a glance, before anything is trained on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from minillm.data.cache import cache_folder
from minillm.data.config import DataConfig
from minillm.data.corpus import TokenizerBuilder
from minillm.data.text import read_text

if TYPE_CHECKING:
    from minillm.tokenizers.base import Tokenizer

SAMPLE_CHARACTERS = 300


@dataclass(frozen=True)
class Description:
    """The size of a source, and how it begins."""

    source: str
    fingerprint: str
    documents: int
    bytes: int
    """UTF-8 bytes of the text."""
    characters: int
    tokens: int | None
    """Tokens of the text, EOS not counted; None without a tokenizer."""
    bytes_per_token: float | None
    sample: str
    """The start of the first document."""


def describe(
    config: DataConfig, tokenizer: Tokenizer | TokenizerBuilder | None = None, *, progress: bool = False
) -> Description:
    """What `config.source` holds, and how many tokens `tokenizer` makes of it.

    Args:
        config: the source, its field and the cache folder; nothing is split.
        tokenizer: a finished one, or what makes one of all texts (and of no validation texts).
        progress: show a bar on standard error.

    Raises:
        FileNotFoundError, ValueError, OSError: as `corpus.prepare`.
    """
    text = read_text(config.source, config, cache_folder(config.cache), progress=progress)
    whole = text.whole()
    if callable(tokenizer):
        tokenizer = tokenizer(whole.texts(), ())
    tokens = None if tokenizer is None else sum(len(tokenizer.encode(part)) for part in whole.texts())
    return Description(
        source=config.source,
        fingerprint=text.fingerprint,
        documents=len(text.documents),
        bytes=whole.num_bytes,
        characters=int(text.documents["chars"].sum()),
        tokens=tokens,
        bytes_per_token=whole.num_bytes / tokens if tokens else None,
        sample=next(whole.texts())[:SAMPLE_CHARACTERS],
    )
