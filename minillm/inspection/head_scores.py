"""What attention heads do, measured on random tokens that are repeated once (Olsson et al. 2022).

In such a row nothing but the repetition can be predicted. A previous-token head attends to the token before; an
induction head attends to the token after the earlier copy of the present one, which is the token that comes next.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from minillm.inspection.recorder import record_attention, stacks_of


class HeadScore(NamedTuple):
    """Mean attention weight of one head, over all queries for which the key exists."""

    layer: int
    head: int
    previous: float
    """Weight on the previous token."""
    induction: float
    """Weight on the token after the earlier copy of the current token."""
    first: float
    """Weight on the first token, where many heads rest if they have nothing to do (Xiao et al. 2023)."""


def score_heads(
    model: Any, ids: Tensor, *, first_id: int, length: int | None = None, rows: int = 16, seed: int = 0
) -> list[HeadScore]:
    """Score the heads of a decoder on `rows` rows: `first_id`, `length` random tokens, and the same tokens again.

    Args:
        model: a model with one causal stack, on any device.
        ids: (N,) the token ids to draw from.
        length: number of random tokens; None: as many as fit, at most 50.

    ValueError if the model is not a decoder or reads too few tokens.
    """
    stacks = list(stacks_of(model).values())
    if len(stacks) != 1 or not stacks[0].causal:
        raise ValueError("heads are scored on rows of tokens that a decoder reads, so the model must be a gpt")
    half = min(50, (model.config.max_seq_len - 1) // 2) if length is None else length
    if half < 2:
        raise ValueError(f"the model reads {model.config.max_seq_len} tokens; at least 5 are needed")
    generator = torch.Generator().manual_seed(seed)
    drawn = ids[torch.randint(len(ids), (rows, half), generator=generator)]  # (rows, half)
    tokens = torch.cat((torch.full((rows, 1), first_id), drawn, drawn), 1)
    maps = record_attention(model, tokens.to(next(model.parameters()).device))
    return [
        HeadScore(found.layer, head, *_score(found.weights[:, head], half))
        for found in maps
        for head in range(found.weights.size(1))
    ]


def _score(weights: Tensor, half: int) -> tuple[float, float, float]:
    """Previous, induction and first of a head's weights (rows, T, T)."""
    previous = weights.diagonal(-1, 1, 2)  # (rows, T - 1)
    # query 1 + half + i is the second copy of key 1 + i; the key after it is 2 + i
    induction = weights.diagonal(1 - half, 1, 2)[:, 2:]  # (rows, half)
    return previous.mean().item(), induction.mean().item(), weights[:, 1:, 0].mean().item()
