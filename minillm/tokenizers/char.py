"""One id for each character of the user's text, in code point order (char-rnn, Karpathy 2015)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from minillm.tokenizers.base import SPECIAL_TOKENS, Tokenizer, utf8

_ABSENT = np.iinfo(np.uint32).max


class CharTokenizer(Tokenizer):
    """The characters of one text; any other character is an error."""

    def __init__(self, characters: str, special_tokens: Sequence[str] = SPECIAL_TOKENS):
        self.characters = "".join(sorted(set(characters)))
        if not self.characters:
            raise ValueError("a character tokenizer needs a text with at least one character")
        utf8(self.characters)
        table = [character.encode("utf-8") for character in self.characters]
        super().__init__("char", table, special_tokens=special_tokens)
        points = _code_points(self.characters)
        self._id_of_point = np.full(int(points[-1]) + 1, _ABSENT, np.uint32)
        self._id_of_point[points] = np.arange(len(points), dtype=np.uint32)

    @classmethod
    def train(cls, documents: Iterable[str]) -> CharTokenizer:
        seen = set[str]()
        for document in documents:
            seen.update(document)
        return cls("".join(seen))

    def encode(self, text: str) -> NDArray[np.uint32]:
        try:
            points = _code_points(text)
        except UnicodeEncodeError:
            utf8(text)
            raise
        ids = self._id_of_point.take(points, mode="clip")
        absent = (ids == _ABSENT) | (points >= len(self._id_of_point))
        if absent.any():
            at = int(absent.argmax())
            raise ValueError(
                f"character {text[at]!r} (U+{ord(text[at]):04X}) at index {at} is not among the {self.num_ordinary} "
                "characters of this vocabulary; tokenizer.kind byte or bpe accepts any text"
            )
        return ids

    def to_dict(self) -> dict[str, object]:
        return {**super().to_dict(), "characters": self.characters}


def _code_points(text: str) -> NDArray[np.uint32]:
    """(len(text),) code point of each character."""
    return np.frombuffer(text.encode("utf-32-le"), np.dtype("<u4"))
