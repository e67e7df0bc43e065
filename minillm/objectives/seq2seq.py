"""Text to text: read an input, write its target (Raffel et al. 2020, section 2.4). No loss falls on the input.

A row is one array of ids, `input SEP target EOS`. No text produces SEP, so that it can stand in neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minillm.data.config import DataConfig
from minillm.data.datasets.tasks import Mixture, TaskRows, TaskTokens
from minillm.objectives.base import Batch, CrossEntropyObjective, Decode, RowRNG, Setup, TokenLossConfig
from minillm.objectives.layout import Pair, encoder_decoder_batch


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig(TokenLossConfig):
    """Text to text: read an input, write its target (Raffel et al. 2020)."""

    name: str = "seq2seq"


@dataclass(frozen=True)
class Seq2Seq(CrossEntropyObjective):
    """Rows of text-to-text tasks, for an encoder-decoder."""

    eos_id: int = 0
    sep_id: int = 0
    max_len: int = 0
    """Tokens that each side may have. A longer input loses its end before EOS; a longer target its end with EOS."""

    def examples(self, tokens: TaskTokens, data: DataConfig, length: int, *, training: bool) -> TaskRows:
        """In training, tasks come as often as `data.mixing` says; otherwise each example once."""
        return Mixture(tokens, data.mixing, data.mixing_temperature) if training else TaskRows(tokens)

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

    def prompt(self, example: np.ndarray, decode: Decode) -> str:
        """An input."""
        return decode(self.halves(example).source.tolist())

    def describe_cuts(self, tokens: TaskTokens) -> list[str]:
        """Examples that are longer than what is read and written of them."""
        inputs, targets = tokens.lengths(self.sep_id)
        longer = {"inputs": inputs >= self.max_len, "targets": targets > self.max_len}
        return [
            f"{cut.sum():,} of {len(cut):,} {what} are longer than {self.max_len} tokens and lose their ends"
            for what, cut in longer.items()
            if cut.any()
        ]


def build(config: Seq2SeqConfig, setup: Setup) -> Seq2Seq:
    """The objective of a T5."""
    ids = setup.tokenizer
    return Seq2Seq(ids.pad_id, config.label_smoothing, config.z_loss, ids.eos_id, ids.sep_id, setup.seq_len)
