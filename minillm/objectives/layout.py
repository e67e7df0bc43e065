"""Batches for an encoder-decoder: the decoder's input is the target shifted right by one token.

It begins with a start token, which is the padding token in T5 (Raffel et al. 2020).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from minillm.objectives.base import IGNORE_INDEX, Batch


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

    def row(self, example: Texts) -> tuple[np.ndarray, np.ndarray]:
        """(T,) ids and token types, 0 for A and 1 for B, of one sequence."""
        first, second = self.cut(example)
        middle = [self.between, second] if len(second) else []
        tokens = np.concatenate([self.before, first, *middle, self.after]).astype(np.int64)
        if not len(tokens):
            raise ValueError(f"{example.where} has no token: give a text")
        of_first = len(self.before) + len(first) + max(len(self.between), len(self.after))
        return tokens, (np.arange(len(tokens)) >= of_first).astype(np.int64)

    def room(self, example: Texts) -> int:
        """Maximum tokens of both texts together."""
        special = len(self.before) + len(self.after) + (len(self.between) if len(example.second) else 0)
        return max(0, self.max_len - special)

    def cut(self, example: Texts) -> tuple[np.ndarray, np.ndarray]:
        """Both texts, the longer one truncated so that they fit."""
        room = self.room(example)
        second = min(len(example.second), max(room - len(example.first), room - room // 2))
        return example.first[: room - second], example.second[:second]


class Pair(NamedTuple):
    """Ids for the encoder and target ids for the decoder."""

    source: np.ndarray
    target: np.ndarray


def encoder_decoder_batch(pairs: Sequence[Pair], pad_id: int) -> Batch:
    """encoder_tokens (B, S), decoder_tokens (B, T) and labels (B, T), padded at the end.

    encoder_valid (B, S) is included if any source is padded. The decoder needs no mask, because no real token attends
    to the padding after it.
    """
    encoder_tokens, valid = pad([pair.source for pair in pairs], pad_id)
    labels, _ = pad([pair.target for pair in pairs], IGNORE_INDEX)
    inputs = {"encoder_tokens": encoder_tokens, "decoder_tokens": shift_right(labels, pad_id)}
    if not valid.all():
        inputs["encoder_valid"] = valid
    count = sum(len(pair.target) for pair in pairs)
    return Batch(inputs, {"lm": labels}, {"lm": count}, count + sum(len(pair.source) for pair in pairs))


def shift_right(labels: Tensor, start_id: int) -> Tensor:
    """(B, T) labels -> (B, T) decoder input: the start token, then all labels but the last."""
    shifted = labels.roll(1, dims=1)
    shifted[:, 0] = start_id
    return shifted.masked_fill(shifted == IGNORE_INDEX, start_id)


def pad(rows: Sequence[np.ndarray], fill: int) -> tuple[Tensor, Tensor]:
    """Rows as one int64 (B, T), T at least 1, padded with `fill` at the end; and (B, T) bool, False for padding."""
    lengths = np.array([len(row) for row in rows])
    valid = np.arange(max(1, lengths.max())) < lengths[:, None]  # (B, T)
    padded = np.full(valid.shape, fill, np.int64)
    padded[valid] = np.concatenate(rows)
    return torch.from_numpy(padded), torch.from_numpy(valid)


def by_length(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices of examples in batches of `size`, examples of similar lengths together."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return (order[first : first + size] for first in range(0, len(order), size))
