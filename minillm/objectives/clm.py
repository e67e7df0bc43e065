"""Causal language modelling: predict every next token (Radford et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from minillm.nn.output import Output
from minillm.objectives.base import IGNORE_INDEX, Batch, RowRNG, cross_entropy_sum, num_correct


@dataclass(frozen=True)
class CausalLM:
    """Inputs are a row without its last token, labels the row without its first."""

    pad_id: int
    """Fills the end of rows shorter than the longest; never a target, since the mask is made from lengths."""
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    heads: tuple[str, ...] = ("lm",)
    label_sets: tuple[str, ...] = ("lm",)
    covers_text: bool = True
    guessable: str | None = None

    def collate(self, examples: Sequence[np.ndarray], rng: RowRNG) -> Batch:
        """Rows of up to T + 1 ids to tokens (B, T) and labels (B, T).

        Padding stands at the end, where a causal model's real positions never see it, so no key mask is needed.
        """
        longest = max(len(row) for row in examples)
        rows = np.full((len(examples), longest), self.pad_id, dtype=np.int64)
        labels = np.full((len(examples), longest - 1), IGNORE_INDEX, dtype=np.int64)
        count = 0
        for i, row in enumerate(examples):
            rows[i, : len(row)] = row
            labels[i, : len(row) - 1] = row[1:]
            count += len(row) - 1
        tokens = torch.from_numpy(rows[:, :-1])
        return Batch({"tokens": tokens}, {"lm": torch.from_numpy(labels)}, {"lm": count})

    def loss(self, output: Output, labels: dict[str, Tensor], *, training: bool) -> dict[str, Tensor]:
        """Sum of -log p(next token), in nats."""
        smoothing, z_loss = (self.label_smoothing, self.z_loss) if training else (0.0, 0.0)
        return {"lm": cross_entropy_sum(output.logits["lm"], labels["lm"], label_smoothing=smoothing, z_loss=z_loss)}

    def correct(self, output: Output, labels: dict[str, Tensor]) -> dict[str, Tensor]:
        """Next tokens that are the model's first choice."""
        return {"lm": num_correct(output.logits["lm"], labels["lm"])}
