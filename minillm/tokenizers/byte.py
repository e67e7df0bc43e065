"""One id for each of the 256 byte values (ByT5, Xue et al. 2022). Unlike in ByT5, special tokens come after them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from minillm.tokenizers.base import SPECIAL_TOKENS, Tokenizer, utf8


class ByteTokenizer(Tokenizer):
    """The UTF-8 bytes of a text are its ids."""

    def __init__(self, special_tokens: Sequence[str] = SPECIAL_TOKENS):
        super().__init__("byte", [bytes([value]) for value in range(256)], special_tokens=special_tokens)

    def encode(self, text: str) -> NDArray[np.uint32]:
        return np.frombuffer(utf8(text), np.uint8).astype(np.uint32)
