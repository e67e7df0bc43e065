"""Heads that were built by hand get the scores of what they do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from minillm.inspection import head_scores
from minillm.inspection.recorder import AttentionMap
from minillm.models.build import build_model
from minillm.nn.config import ModelConfig

HALF = 5


def to(keys: Tensor) -> Tensor:
    """(1, 1, T, T) weights of a head whose query t attends to keys[t]."""
    return torch.nn.functional.one_hot(keys, len(keys)).float()[None, None]


def test_each_kind_of_head_is_told_from_the_others(monkeypatch: pytest.MonkeyPatch):
    place = torch.arange(1 + 2 * HALF)
    previous, first = (place - 1).clamp(min=0), torch.zeros_like(place)
    induction = torch.where(place > HALF, place - HALF + 1, 0)
    maps = [AttentionMap("decoder", i, False, to(keys)) for i, keys in enumerate((previous, induction, first))]
    monkeypatch.setattr(head_scores, "record_attention", lambda *_: maps)
    model: Any = build_model(ModelConfig(vocab_size=11, d_model=8, num_heads=2, num_layers=3, max_seq_len=32))
    scores = head_scores.score_heads(model, torch.arange(9), first_id=10, length=HALF)
    assert [score.previous for score in scores] == pytest.approx([1, 0.1, 0.1])
    assert [score.induction for score in scores] == pytest.approx([0, 1, 0])
    assert scores[2].first == 1


def test_the_rows_are_one_first_token_and_the_same_random_tokens_twice(monkeypatch: pytest.MonkeyPatch):
    seen: list[Tensor] = []
    monkeypatch.setattr(head_scores, "record_attention", lambda _, tokens: seen.append(tokens) or [])
    model: Any = build_model(ModelConfig(vocab_size=11, d_model=8, num_heads=2, num_layers=1, max_seq_len=20))
    head_scores.score_heads(model, torch.arange(9), first_id=10, rows=4)
    (tokens,) = seen
    assert tokens.shape == (4, 19) and (tokens[:, 0] == 10).all()
    assert torch.equal(tokens[:, 1:10], tokens[:, 10:]) and tokens[:, 1:].max() < 9


def test_only_a_decoder_has_such_heads():
    model: Any = build_model(ModelConfig(family="bert", vocab_size=11, d_model=8, num_heads=2, num_layers=1))
    with pytest.raises(ValueError, match="must be a gpt"):
        head_scores.score_heads(model, torch.arange(9), first_id=10)
