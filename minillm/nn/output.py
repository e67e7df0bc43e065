"""What a model returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """Result of one forward pass; which heads there are depends on the model, never on the arguments."""

    hidden: Tensor
    """(B, T, D) final hidden states, after the last norm."""
    logits: dict[str, Tensor]
    """By head: "lm" (B, T, V), or (B, P, V) where `predict_at` chose P positions; "pair" (B, 2); "class" (B, C)."""
