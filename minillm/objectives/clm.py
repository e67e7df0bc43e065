"""Causal language modeling: predict every next token (Radford et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minillm.data.config import DataConfig
from minillm.data.loader import Windows
from minillm.objectives.base import Batch, CrossEntropyObjective, RowRNG, Setup, TokenLossConfig
from minillm.objectives.layout import IGNORE_INDEX, pad


@dataclass(frozen=True, kw_only=True)
class CausalConfig(TokenLossConfig):
    """Predict every next token (Radford et al. 2018)."""

    name: str = "clm"


@dataclass(frozen=True)
class CausalLM(CrossEntropyObjective):
    """Inputs are a row without its last token, labels the row without its first.

    With `separator` documents in one row do not see each other: a document begins with the EOS before it, which stands
    for its start, and ends with its own EOS as a target. The loss is that of separate rows.
    """

    separator: int | None = None
    """The EOS id, for packed documents that do not see each other; None: a row is read as one text."""

    covers_text: ClassVar[bool] = True

    def examples(self, tokens: Any, data: DataConfig, length: int, *, training: bool) -> Windows:
        return Windows(tokens, length)

    def collate(self, examples: Sequence[np.ndarray], rng: RowRNG) -> Batch:
        """Rows of up to T + 1 ids to tokens (B, T) and labels (B, T).

        Padding stands at the end, where a causal model's real positions never see it, so no key mask is needed.
        """
        rows, valid = pad(examples, self.pad_id)
        inputs = {"tokens": rows[:, :-1]}
        if self.separator is not None:
            inputs["document_ids"] = (rows[:, :-1] == self.separator).long().cumsum(1)
        labels = rows[:, 1:].masked_fill(~valid[:, 1:], IGNORE_INDEX)
        count = int(valid[:, 1:].sum())
        return Batch(inputs, {"lm": labels}, {"lm": count}, count)


def build(config: CausalConfig, setup: Setup) -> CausalLM:
    """The objective of a GPT."""
    tokenizer = setup.tokenizer
    separator = tokenizer.eos_id if setup.data.packing == "documents" else None
    return CausalLM(tokenizer.pad_id, config.label_smoothing, config.z_loss, separator)
