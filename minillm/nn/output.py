"""The result of a model's forward pass."""

from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """Hidden states and the logits of all heads of the model."""

    hidden: Tensor
    """(B, T, D) hidden states after the final norm."""
    logits: dict[str, Tensor]
    """By head: "lm" (B, T, V), or (B, P, V) if `predict_at` selects P positions; "pair" (B, 2); "class" (B, C);
    "tag" (B, T, C); "span" (B, T, 2); "value" (B, T, 1)."""
