"""Causal language modeling: predict every next token (Radford et al. 2018)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from minillm.objectives.base import Batch, CrossEntropyObjective, RowRNG, Setup, TokenLossConfig
from minillm.objectives.layout import IGNORE_INDEX, pad


@dataclass(frozen=True, kw_only=True)
class CausalConfig(TokenLossConfig):
    """Predict every next token (Radford et al. 2018)."""

    name: str = "clm"


@dataclass(frozen=True)
class CausalLM(CrossEntropyObjective):
    """The inputs are a row without its last token; the labels are the row without its first token."""

    separator: int | None = None
    """The EOS id, if the documents of a row do not attend to each other; None: a row is one text.

    Each document begins with the preceding EOS and ends with its own EOS as a target. The loss equals that of separate
    rows.
    """

    covers_text: ClassVar[bool] = True

    def collate(self, examples: Sequence[np.ndarray], rng: RowRNG) -> Batch:
        """Rows of up to T + 1 ids -> tokens (B, T) and labels (B, T).

        Padding is at the end, where no real token attends to it, so no key mask is needed.
        """
        rows, valid = pad(examples, self.pad_id)
        inputs = {"tokens": rows[:, :-1]}
        if self.separator is not None:
            inputs["document_ids"] = (rows[:, :-1] == self.separator).long().cumsum(1)
        labels = rows[:, 1:].masked_fill(~valid[:, 1:], IGNORE_INDEX)
        count = int(valid[:, 1:].sum())
        return Batch(inputs, {"lm": labels}, {"lm": count}, count)


def build(config: CausalConfig, setup: Setup) -> CausalLM:
    """The objective for GPT."""
    tokenizer = setup.tokenizer
    separator = tokenizer.eos_id if setup.data.packing == "documents" else None
    return CausalLM(tokenizer.pad_id, config.label_smoothing, config.z_loss, separator)
