from typing import Any

import pytest
import torch

from minillm.nn.config import ModelConfig
from minillm.nn.embedding import InputEmbedding, LearnedPosition
from minillm.nn.heads import LMHead

TOKENS = torch.tensor([[1, 4, 4], [0, 2, 3]])
POSITIONS = torch.arange(3)


def config(**changes: Any) -> ModelConfig:
    return ModelConfig(**{"vocab_size": 5, "d_model": 8, "num_heads": 1, "max_seq_len": 7, **changes})


@torch.no_grad()
def test_token_segment_and_position_embeddings_are_summed_then_normalized():
    embed = InputEmbedding(config(num_token_types=2, input_norm=True))
    token_types = torch.tensor([[0, 1, 1], [0, 0, 1]])
    x = embed(TOKENS, POSITIONS, token_types)
    assert embed.token_types is not None and isinstance(embed.position, LearnedPosition) and embed.norm is not None
    for b in range(2):
        for t in range(3):
            total = (
                embed.tokens.weight[TOKENS[b, t]]
                + embed.token_types.weight[token_types[b, t]]
                + embed.position.table.weight[t]
            )
            assert torch.allclose(x[b, t], embed.norm(total), atol=1e-6)
    assert torch.equal(embed(TOKENS, POSITIONS), embed(TOKENS, POSITIONS, torch.zeros_like(TOKENS)))


def test_token_types_without_a_table_raise():
    with pytest.raises(ValueError, match=r"model\.num_token_types is 0"):
        InputEmbedding(config())(TOKENS, POSITIONS, torch.zeros_like(TOKENS))


def test_dropout_applies_in_training_only():
    embed = InputEmbedding(config(dropout=0.5))
    assert not torch.equal(embed(TOKENS, POSITIONS), embed(TOKENS, POSITIONS))
    embed.eval()
    assert torch.equal(embed(TOKENS, POSITIONS), embed(TOKENS, POSITIONS))


@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rotary"])
def test_the_residual_stream_has_the_compute_dtype(position):
    embed = InputEmbedding(config(position=position))
    with torch.autocast("cpu", torch.bfloat16):
        assert embed(TOKENS, POSITIONS).dtype == torch.bfloat16
    assert embed(TOKENS, POSITIONS).dtype == torch.float32
    assert embed.bfloat16()(TOKENS, POSITIONS).dtype == torch.bfloat16


@torch.no_grad()
def test_the_head_scales_hidden_states_and_softcaps_logits():
    head, hidden = LMHead(config(head_scale=0.25, logit_softcap=3.0)), torch.randn(2, 3, 8) * 50
    expected = 3 * torch.tanh((hidden * 0.25) @ head.proj.weight.T / 3)
    assert torch.allclose(head(hidden), expected, atol=1e-5)
    assert head(hidden).abs().max() <= 3


@torch.no_grad()
def test_token_embeddings_are_scaled_before_positions_are_added():
    embed = InputEmbedding(config(embed_scale=3.0))
    assert embed.position is not None
    expected = 3 * embed.tokens.weight[TOKENS] + embed.position(POSITIONS)
    assert torch.allclose(embed(TOKENS, POSITIONS), expected, atol=1e-6)


@torch.no_grad()
def test_berts_head_transforms_hidden_states_and_has_a_bias():
    head, hidden = LMHead(config(activation="relu"), transform=True), torch.randn(2, 3, 8)
    assert head.dense is not None and head.norm is not None
    head.proj.bias.copy_(torch.arange(5))
    expected = head.norm(head.dense(hidden).relu()) @ head.proj.weight.T + torch.arange(5)
    assert torch.allclose(head(hidden), expected, atol=1e-5)


def test_the_head_computes_logits_at_the_chosen_positions_of_each_row():
    head, hidden, at = LMHead(config()), torch.randn(2, 4, 8), torch.tensor([[3, 0], [1, 1]])
    chosen, everywhere = head(hidden, at), head(hidden)
    assert all(torch.allclose(chosen[b, p], everywhere[b, at[b, p]]) for b in range(2) for p in range(2))


def test_shapes_hold_on_the_meta_device():
    with torch.device("meta"):
        x = InputEmbedding(config())(torch.zeros(2, 3, dtype=torch.long), torch.arange(3))
        assert x.shape == (2, 3, 8) and LMHead(config())(x).shape == (2, 3, 5)
