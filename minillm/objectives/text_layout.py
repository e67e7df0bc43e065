"""How a model that predicts labels, tags or answers reads its texts (Devlin et al. 2019, figure 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from minillm.tokenizers.base import Tokenizer


class Texts(Protocol):
    """One or two tokenized texts."""

    @property
    def first(self) -> np.ndarray: ...

    @property
    def second(self) -> np.ndarray:
        """Empty if there is only one text."""
        ...

    @property
    def where(self) -> str:
        """Names the texts in an error message."""
        ...


@dataclass(frozen=True, kw_only=True)
class TextLayout:
    """The special tokens around and between two texts."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    max_len: int
    """Maximum tokens in a sequence. If it is longer, the end of the longer text is truncated."""
    second_type: int = 1
    """Token type of B; that of A is 0."""

    @classmethod
    def of_encoder(cls, tokenizer: Tokenizer, max_len: int) -> TextLayout:
        """As an encoder with this tokenizer reads texts and pairs: `[CLS] A [SEP] B [SEP]`, or as it was published."""
        frame = tokenizer.framing(pair=True)
        before, between, after = (tuple(i for i, _ in part) for part in frame[:3])
        return cls(before=before, between=between, after=after, max_len=max_len, second_type=frame.types[-1])

    @classmethod
    def of_decoder(cls, tokenizer: Tokenizer, max_len: int) -> TextLayout:
        """As a decoder reads them: `A SEP B`, ending with a token of a text.

        Only a token that the published tokenizer puts before every text, such as Llama's, comes before it, so that
        other libraries, which tokenize texts in this way, predict the same.
        """
        return cls(before=tokenizer.prefix_ids, between=(tokenizer.sep_id,), after=(), max_len=max_len)

    def row(self, example: Texts) -> tuple[np.ndarray, np.ndarray]:
        """(T,) ids and token types, 0 for A and 1 for B, of one sequence."""
        first, second = self.cut(example)
        middle = [self.between, second] if len(second) else []
        tokens = np.concatenate([self.before, first, *middle, self.after]).astype(np.int64)
        if not len(tokens):
            raise ValueError(f"{example.where} has no token: give a text")
        of_first = len(self.before) + len(first) + max(len(self.between), len(self.after))
        return tokens, (np.arange(len(tokens)) >= of_first) * np.int64(self.second_type)

    def room(self, example: Texts) -> int:
        """Maximum tokens of both texts together."""
        special = len(self.before) + len(self.after) + (len(self.between) if len(example.second) else 0)
        return max(0, self.max_len - special)

    def cut(self, example: Texts) -> tuple[np.ndarray, np.ndarray]:
        """Both texts, the longer one truncated so that they fit."""
        room = self.room(example)
        second = min(len(example.second), max(room - len(example.first), room - room // 2))
        return example.first[: room - second], example.second[:second]
