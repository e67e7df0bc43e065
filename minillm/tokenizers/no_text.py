"""The tokenizer of runs that read images or numbers: it has no ids, so that every run folder has the same files."""

import numpy as np
from numpy.typing import NDArray

from minillm.tokenizers.base import Tokenizer


class NoTokenizer(Tokenizer):
    """A vocabulary without ids."""

    def __init__(self) -> None:
        super().__init__("none", [], special_tokens=())

    def encode(self, text: str) -> NDArray[np.uint32]:
        if text:
            raise ValueError("this run reads no text; give it the kind of data that it was trained on")
        return np.zeros(0, np.uint32)

    def describe(self) -> str:
        return "no tokenizer"
