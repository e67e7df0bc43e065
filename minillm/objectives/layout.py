"""Batches for an encoder-decoder: the decoder's input is the target shifted right by one token.

It begins with a start token, which is the padding token in T5 (Raffel et al. 2020).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minillm.objectives.base import IGNORE_INDEX, Batch


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


def pad(rows: Sequence[np.ndarray], fill: int, *, round_below: int = 0) -> tuple[Tensor, Tensor]:
    """Rows as one int64 (B, T), T at least 1, padded with `fill` at the end; and (B, T) bool, False for padding.

    T is rounded up to a multiple of 8 unless that exceeds `round_below`. On CPUs, torch keeps a compiled matrix product
    for each shape; if each batch had another length, they would take half a gigabyte.
    """
    lengths = np.array([len(row) for row in rows])
    longest = max(1, lengths.max())
    rounded = -(-longest // 8) * 8
    valid = np.arange(rounded if rounded <= round_below else longest) < lengths[:, None]  # (B, T)
    padded = np.full(valid.shape, fill, np.int64)
    padded[valid] = np.concatenate(rows)
    return torch.from_numpy(padded), torch.from_numpy(valid)


def by_length(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices of examples in batches of `size`, examples of similar lengths together."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return (order[first : first + size] for first in range(0, len(order), size))
