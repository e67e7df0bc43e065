import math

import pytest
import torch
from torch import nn

from minillm.nn.attention import Attention
from minillm.nn.block import Stack
from minillm.nn.config import ModelConfig
from minillm.nn.embedding import InputEmbedding
from minillm.nn.init import init_weights, standard_deviations

BIG = {"d_model": 64, "num_heads": 4, "num_layers": 8}


def filled(seed: int = 0, **changes: object) -> Stack:
    config = ModelConfig(**{**BIG, **changes})  # type: ignore[arg-type]
    stack = Stack(config, causal=True, cross=True)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.fill_(float("nan"))
    init_weights(stack, config, torch.Generator().manual_seed(seed))
    return stack


@pytest.mark.parametrize(
    ("residual_init", "expected"), [("scaled", 0.02 / math.sqrt(16)), ("plain", 0.02), ("zero", 0.0)]
)
def test_weights_have_the_standard_deviations_in_the_table(residual_init, expected):
    stack = filled(residual_init=residual_init, gated=True, position="t5", qk_norm=True)
    for name, parameter in stack.named_parameters():
        if name.endswith(("out.weight", "down.weight")):
            assert parameter.std().item() == pytest.approx(expected, rel=0.06), name
        elif "norm" in name:
            assert (parameter == (1 if name.endswith("weight") else 0)).all(), name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.2 if "table" in name else 0.06), name


@pytest.mark.parametrize(("residual_init", "factor"), [("scaled", 0.25), ("plain", 1.0), ("zero", 0.0)])
def test_fan_in_weights_have_the_standard_deviations_in_the_table(residual_init, factor):
    shape = {"gated": True, "position": "t5", "head_dim": 8, "d_ff": 100, "attention_scale": 1.0}
    stack = filled(init="fan_in", residual_init=residual_init, **shape)
    expected = {"q": (64 * 8) ** -0.5, "k": 1 / 8, "v": 1 / 8, "out": 32**-0.5 * factor, "gate": 1 / 8, "up": 1 / 8}
    expected |= {"down": 0.1 * factor, "table": 1 / 8}
    for name, parameter in stack.named_parameters():
        if "norm" not in name and name.endswith("weight"):
            part = name.split(".")[-2]
            assert parameter.std().item() == pytest.approx(expected[part], rel=0.2 if part == "table" else 0.1), name


def test_fan_in_scores_have_variance_one_for_any_attention_scale():
    stds = []
    for scale in (None, 1.0):
        config = ModelConfig(**BIG, init="fan_in", attention_scale=scale)  # type: ignore[arg-type]
        attention = Attention(config)
        stds.append(standard_deviations(attention, config)[attention.q] * attention.scale)
    assert stds[0] == pytest.approx(stds[1]) == pytest.approx((64 * 16) ** -0.5)


def test_fan_in_token_embeddings_have_standard_deviation_one_after_scaling():
    config = ModelConfig(d_model=64, vocab_size=9, num_token_types=2, init="fan_in", embed_scale=8.0)
    embed = InputEmbedding(config)
    assert list(standard_deviations(embed, config).values()) == [1 / 8, 1, 1]


def test_a_seed_gives_the_same_weights_in_any_dtype():
    first, second, other = filled(3).state_dict(), filled(3).state_dict(), filled(4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    config = ModelConfig(**BIG)  # type: ignore[arg-type]
    low = Stack(config, causal=True, cross=True).bfloat16()
    init_weights(low, config, torch.Generator().manual_seed(3))
    assert all(torch.equal(low.state_dict()[name], first[name].bfloat16()) for name in first)


def test_a_tied_weight_is_drawn_once():
    config = ModelConfig(d_model=8, num_heads=1)
    table, head = nn.Embedding(9, 8), nn.Linear(8, 9, bias=False)
    head.weight = table.weight
    init_weights(nn.ModuleList([table, head, nn.Linear(8, 8)]), config, torch.Generator().manual_seed(0))
    drawn = torch.empty(9, 8).normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
    assert torch.equal(table.weight, drawn) and head.weight is table.weight


def test_a_parameter_without_an_initial_value_fails_an_assertion():
    model = nn.Module()
    model.inner = nn.Bilinear(2, 2, 2)
    with pytest.raises(AssertionError, match="inner"):
        init_weights(model, ModelConfig())
