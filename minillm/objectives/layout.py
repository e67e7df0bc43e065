"""How a source and a target lie in a batch: for an encoder-decoder on two sides, the decoder's input one step late.

The decoder of T5 reads its target shifted right by one and begins with a start token, for which T5 takes the padding
token (Raffel et al. 2020). The model itself predicts what follows whatever it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minillm.objectives.base import IGNORE_INDEX, Batch


class Pair(NamedTuple):
    """What an encoder reads and what the decoder shall write, both ids."""

    source: np.ndarray
    target: np.ndarray


def encoder_decoder_batch(pairs: Sequence[Pair], pad_id: int) -> Batch:
    """Pairs of any lengths to encoder_tokens (B, S), decoder_tokens (B, T) and labels (B, T).

    Padding stands at the end. Of the encoder's a mask tells, which is left out where no row has any; the decoder's
    comes after all real tokens, where a causal model never sees it, and carries no loss. Every token of a target is
    predicted, its EOS too.
    """
    encoder_tokens, valid = pad([pair.source for pair in pairs], pad_id)
    labels, _ = pad([pair.target for pair in pairs], IGNORE_INDEX)
    inputs = {"encoder_tokens": encoder_tokens, "decoder_tokens": shift_right(labels, pad_id)}
    if not valid.all():
        inputs["encoder_valid"] = valid
    count = sum(len(pair.target) for pair in pairs)
    return Batch(inputs, {"lm": labels}, {"lm": count}, count + sum(len(pair.source) for pair in pairs))


def shift_right(labels: Tensor, start_id: int) -> Tensor:
    """(B, T) targets to what a decoder reads to predict them: the start token, then all but the last of them."""
    shifted = labels.roll(1, dims=1)
    shifted[:, 0] = start_id
    return shifted.masked_fill(shifted == IGNORE_INDEX, start_id)


def pad(rows: Sequence[np.ndarray], fill: int) -> tuple[Tensor, Tensor]:
    """Rows as one int64 (B, T), `fill` after the end of each, and (B, T) bool that is True where a row's ids are."""
    lengths = np.array([len(row) for row in rows])
    valid = np.arange(lengths.max()) < lengths[:, None]  # (B, T)
    padded = np.full(valid.shape, fill, np.int64)
    padded[valid] = np.concatenate(rows)
    return torch.from_numpy(padded), torch.from_numpy(valid)
