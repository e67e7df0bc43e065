"""Text to text: read an input, write its target (Raffel et al. 2020, section 2.4). No loss falls on the input.

A row is one array of ids, `input SEP target EOS`. No text produces SEP, so that it can stand in neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minillm.objectives.base import Batch, RowRNG
from minillm.objectives.layout import Pair, encoder_decoder_batch
from minillm.objectives.written import WrittenTokens


@dataclass(frozen=True, kw_only=True)
class Seq2Seq(WrittenTokens):
    """Rows of text-to-text tasks, for an encoder-decoder."""

    eos_id: int
    sep_id: int
    max_len: int
    """Tokens that each side may have. A longer input loses its end before EOS; a longer target its end with EOS."""

    def split(self, row: np.ndarray) -> Pair:
        """What the encoder reads, EOS last, and what the decoder writes, EOS last unless the target is cut."""
        at = int((row == self.sep_id).argmax())
        source = np.append(row[: min(at, self.max_len - 1)], self.eos_id)
        return Pair(source.astype(np.int64), row[at + 1 : at + 1 + self.max_len].astype(np.int64))

    def collate(self, examples: Sequence[np.ndarray], rng: RowRNG) -> Batch:
        """Rows `input SEP target EOS` to a batch for an encoder-decoder."""
        return encoder_decoder_batch([self.split(row) for row in examples], self.pad_id)
