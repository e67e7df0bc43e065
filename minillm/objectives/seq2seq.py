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

    def halves(self, row: np.ndarray) -> Pair:
        """The whole input, and the whole target with its EOS."""
        at = int((row == self.sep_id).argmax())
        return Pair(row[:at].astype(np.int64), row[at + 1 :].astype(np.int64))

    def split(self, row: np.ndarray) -> Pair:
        """What the encoder reads, EOS last, and what the decoder writes, EOS last unless the target is cut."""
        source, target = self.halves(row)
        return Pair(np.append(source[: self.max_len - 1], self.eos_id), target[: self.max_len])

    def collate(self, examples: Sequence[np.ndarray], rng: RowRNG) -> Batch:
        """Rows `input SEP target EOS` to a batch for an encoder-decoder."""
        return encoder_decoder_batch([self.split(row) for row in examples], self.pad_id)
