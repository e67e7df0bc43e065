"""Prefix language modeling: read the beginning of a text as a whole, predict the rest (Raffel et al. 2020, 3.2.1).

Where the beginning ends is drawn uniformly for each row. One stack sees it in both directions (`PrefixLM`); an
encoder-decoder reads it with the encoder (`EncoderPrefixLM`), EOS after it, and writes the rest and EOS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from minillm.data.config import DataConfig
from minillm.data.loader import Windows
from minillm.objectives.base import Batch, CrossEntropyObjective, RowRNG, Setup, TokenLossConfig
from minillm.objectives.layout import IGNORE_INDEX, Pair, encoder_decoder_batch, pad


@dataclass(frozen=True, kw_only=True)
class PrefixConfig(TokenLossConfig):
    """Read the beginning of a text as a whole and predict the rest (Raffel et al. 2020, section 3.2.1)."""

    name: str = "prefix_lm"


@dataclass(frozen=True)
class PrefixLM(CrossEntropyObjective):
    """For a decoder: tokens, how many of them are prefix, and the rest as labels."""

    prefix_prompts: ClassVar[bool] = True

    def examples(self, tokens: Any, data: DataConfig, length: int, *, training: bool) -> Windows:
        return Windows(tokens, length)

    def collate(self, examples: Sequence[np.ndarray], rng: RowRNG) -> Batch:
        """Rows of up to T + 1 ids to tokens (B, T), prefix_length (B,) from 1 to T, and labels (B, T).

        The last token of the prefix predicts the first after it; those before it predict nothing. No real token sees
        the padding, which stands at the end, beyond every prefix.
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
    """For an encoder-decoder: the prefix and EOS on one side, the rest and EOS on the other."""

    eos_id: int = 0

    def examples(self, tokens: Any, data: DataConfig, length: int, *, training: bool) -> Windows:
        return Windows(tokens, length)

    def collate(self, examples: Sequence[np.ndarray], rng: RowRNG) -> Batch:
        """Rows of N + 1 ids, the first of which stands before the window and is left out.

        Neither side gets more than N tokens and neither is without text, unless N is 1: then the encoder reads EOS.
        """
        pairs = []
        for i, row in enumerate(examples):
            text = np.asarray(row[1:], np.int64)
            cut = int(rng(i).integers(min(1, len(text) - 1), max(1, len(text))))
            pairs.append(Pair(np.append(text[:cut], self.eos_id), np.append(text[cut:], self.eos_id)))
        return encoder_decoder_batch(pairs, self.pad_id)


def build(config: PrefixConfig, setup: Setup) -> PrefixLM:
    """The objective of a GPT."""
    return PrefixLM(setup.tokenizer.pad_id, config.label_smoothing, config.z_loss)


def build_encoder_decoder(config: PrefixConfig, setup: Setup) -> EncoderPrefixLM:
    """The objective of a T5."""
    tokenizer = setup.tokenizer
    return EncoderPrefixLM(tokenizer.pad_id, config.label_smoothing, config.z_loss, tokenizer.eos_id)
