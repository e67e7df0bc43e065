"""Prefix language modeling: attend to a prefix in both directions, predict the rest (Raffel et al. 2020, 3.2.1).

The length of the prefix is drawn uniformly for each row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from minillm.objectives.base import Batch, CrossEntropyObjective, RowRNG, Setup, TokenLossConfig
from minillm.objectives.layout import IGNORE_INDEX, Pair, encoder_decoder_batch, pad


@dataclass(frozen=True, kw_only=True)
class PrefixConfig(TokenLossConfig):
    """Attend to a prefix in both directions and predict the rest (Raffel et al. 2020, section 3.2.1)."""

    name: str = "prefix_lm"


@dataclass(frozen=True)
class PrefixLM(CrossEntropyObjective):
    """For a decoder, which gets the length of the prefix."""

    prefix_prompts: ClassVar[bool] = True

    def collate(self, examples: Sequence[np.ndarray], rng: RowRNG) -> Batch:
        """Rows of up to T + 1 ids -> tokens (B, T), prefix_length (B,) from 1 to T, and labels (B, T).

        The last token of the prefix predicts the next one; those before it predict nothing. Padding is at the end,
        where no real token attends to it.
        """
        rows, valid = pad(examples, self.pad_id)
        prefix = torch.tensor([int(rng(i).integers(1, len(row))) for i, row in enumerate(examples)])  # (B)
        at = torch.arange(1, rows.size(1))
        labels = rows[:, 1:].masked_fill(~valid[:, 1:] | (at < prefix[:, None]), IGNORE_INDEX)
        count = int((labels != IGNORE_INDEX).sum())
        inputs = {"tokens": rows[:, :-1], "prefix_length": prefix}
        return Batch(inputs, {"lm": labels}, {"lm": count}, int(valid[:, 1:].sum()))


@dataclass(frozen=True)
class EncoderPrefixLM(CrossEntropyObjective):
    """For an encoder-decoder: the encoder reads the prefix and EOS, the decoder predicts the rest and EOS."""

    eos_id: int = 0

    def collate(self, examples: Sequence[np.ndarray], rng: RowRNG) -> Batch:
        """Rows of N + 1 ids; the first one precedes the window and is skipped.

        Both sides have text and at most N tokens. If N is 1, the encoder reads EOS alone.
        """
        pairs = []
        for i, row in enumerate(examples):
            text = np.asarray(row[1:], np.int64)
            cut = int(rng(i).integers(min(1, len(text) - 1), max(1, len(text))))
            pairs.append(Pair(np.append(text[:cut], self.eos_id), np.append(text[cut:], self.eos_id)))
        return encoder_decoder_batch(pairs, self.pad_id)


def build(config: PrefixConfig, setup: Setup) -> PrefixLM:
    """The objective for GPT."""
    return PrefixLM(setup.tokenizer.pad_id, config.label_smoothing, config.z_loss)


def build_encoder_decoder(config: PrefixConfig, setup: Setup) -> EncoderPrefixLM:
    """The objective for T5."""
    tokenizer = setup.tokenizer
    return EncoderPrefixLM(tokenizer.pad_id, config.label_smoothing, config.z_loss, tokenizer.eos_id)
