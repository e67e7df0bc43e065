"""Text to text: read an input, write its target (Raffel et al. 2020, section 2.4). Only the target has a loss.

A row is one array of ids, `input SEP target EOS`. No text is encoded as SEP, so it separates the two unambiguously.
"""

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
    """Maximum tokens of each side. A longer input is truncated before its EOS, a longer target loses its EOS too."""

    def examples(self, tokens: TaskTokens, data: DataConfig, length: int, *, training: bool) -> TaskRows:
        """For training, tasks mixed according to `data.mixing`; otherwise each example once."""
        return Mixture(tokens, data.mixing, data.mixing_temperature) if training else TaskRows(tokens)

    def halves(self, row: np.ndarray) -> Pair:
        """The input, and the target with its EOS, not truncated."""
        at = int((row == self.sep_id).argmax())
        return Pair(row[:at].astype(np.int64), row[at + 1 :].astype(np.int64))

    def split(self, row: np.ndarray) -> Pair:
        """Input with EOS and target with EOS, truncated to `max_len`."""
        source, target = self.halves(row)
        return Pair(np.append(source[: self.max_len - 1], self.eos_id), target[: self.max_len])

    def collate(self, examples: Sequence[np.ndarray], rng: RowRNG) -> Batch:
        return encoder_decoder_batch([self.split(row) for row in examples], self.pad_id)

    def prompt(self, example: np.ndarray, decode: Decode) -> str:
        """The input of the example."""
        return decode(self.halves(example).source.tolist())

    def describe_cuts(self, tokens: TaskTokens) -> list[str]:
        """The number of truncated inputs and targets."""
        inputs, targets = tokens.lengths(self.sep_id)
        longer = {"inputs": inputs >= self.max_len, "targets": targets > self.max_len}
        return [
            f"{cut.sum():,} of {len(cut):,} {what} are longer than {self.max_len} tokens and are truncated"
            for what, cut in longer.items()
            if cut.any()
        ]


def build(config: Seq2SeqConfig, setup: Setup) -> Seq2Seq:
    """The objective for T5."""
    ids = setup.tokenizer
    return Seq2Seq(ids.pad_id, config.label_smoothing, config.z_loss, ids.eos_id, ids.sep_id, setup.seq_len)
