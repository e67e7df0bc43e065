"""What a model returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """Result of one forward pass; which heads are present depends on the model, never on the arguments."""

    logits: Tensor
    """(B, T, V), or (B, P, V) where `predict_at` chose P positions."""
    hidden: Tensor
    """(B, T, D) final hidden states, after the last norm."""
    pair_logits: Tensor | None = None
    """(B, 2) next-sentence scores of a BERT model that has this head."""
