import math

import pytest
import torch

from minillm.nn.config import ModelConfig
from minillm.nn.embedding import LearnedPosition, SinusoidalPosition, absolute_position
from minillm.nn.position import AlibiPosition, RotaryPosition, T5RelativeBias, apply_rotary, relative_position


@pytest.mark.parametrize("d_model", [6, 7])
def test_sinusoids_follow_the_papers_formula(d_model):
    table = SinusoidalPosition(d_model)(torch.arange(300))
    for position in (0, 1, 17, 299):
        for i in range(d_model):
            angle = position / 10000 ** (2 * (i // 2) / d_model)
            expected = math.sin(angle) if i % 2 == 0 else math.cos(angle)
            assert table[position, i].item() == pytest.approx(expected, abs=2e-5)


def test_learned_positions_are_rows_of_the_table():
    position = LearnedPosition(9, 4)
    assert torch.equal(position(torch.tensor([3, 8])), position.table.weight[[3, 8]])


def test_rotary_scores_depend_on_distance_only_and_rotation_preserves_norms():
    torch.manual_seed(0)
    position, q, k = RotaryPosition(8, theta=30.0), torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def turned(head: torch.Tensor, at: int) -> torch.Tensor:
        angles = position.angles(torch.tensor([at]), torch.float32)
        return apply_rotary(head, angles)

    near, far = (turned(q, a) * turned(k, b) for a, b in ((5, 2), (105, 102)))
    assert near.sum().item() == pytest.approx(far.sum().item(), abs=1e-4)
    assert turned(q, 77).norm().item() == pytest.approx(q.norm().item(), rel=1e-5)
    assert torch.equal(turned(q, 0), q)


def test_rotary_angles_are_computed_in_fp32_for_any_dtype_of_the_heads():
    position = RotaryPosition(4)
    low = position.angles(torch.tensor([256, 257]), torch.bfloat16)
    assert low.cos.dtype == torch.bfloat16
    assert low.cos[0, 1, 0].item() == pytest.approx(math.cos(257), abs=4e-3)
    assert position.to(torch.bfloat16).angles(torch.tensor([1001]), torch.float32).sin[0, 0, -2].item() == (
        pytest.approx(math.sin(1001), abs=1e-4)
    )


def test_alibi_decreases_by_the_slope_per_token_of_distance():
    position = AlibiPosition(4)
    bias = position.bias(torch.tensor([2, 6]), torch.arange(8))
    assert bias.shape == (1, 4, 2, 8)
    for h, slope in enumerate((2**-2, 2**-4, 2**-6, 2**-8)):
        for t, q in enumerate((2, 6)):
            assert bias[0, h, t].tolist() == [-slope * abs(k - q) for k in range(8)]


def test_bucket_bias_has_one_value_for_each_head_and_distance():
    position = T5RelativeBias(3, bidirectional=True)
    bias = position.bias(torch.tensor([[4, 5]]), torch.arange(9)[None])
    assert bias.shape == (1, 3, 2, 9)
    for t, q in enumerate((4, 5)):
        for k in range(9):
            row = position.bucket(torch.tensor(k - q))
            assert torch.equal(bias[0, :, t, k], position.table.weight[row])


def test_causal_buckets_ignore_future_distances():
    position = T5RelativeBias(1, bidirectional=False)
    assert position.bucket(torch.tensor([0, 1, 50])).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("scheme", "absolute", "relative"),
    [
        ("learned", "LearnedPosition", "RelativePosition"),
        ("sinusoidal", "SinusoidalPosition", "RelativePosition"),
        ("rotary", "NoneType", "RotaryPosition"),
        ("t5", "NoneType", "T5RelativeBias"),
        ("alibi", "NoneType", "AlibiPosition"),
        ("none", "NoneType", "RelativePosition"),
    ],
)
def test_each_scheme_is_either_absolute_or_relative(scheme, absolute, relative):
    config = ModelConfig(position=scheme)
    assert type(absolute_position(config)).__name__ == absolute
    assert type(relative_position(config, bidirectional=False)).__name__ == relative


def test_bias_shapes_hold_on_the_meta_device():
    with torch.device("meta"):
        positions = torch.arange(5)
        for module in (AlibiPosition(2), T5RelativeBias(2, bidirectional=True)):
            assert module.bias(positions, positions).shape == (1, 2, 5, 5)
        assert SinusoidalPosition(6)(positions).shape == LearnedPosition(9, 6)(positions).shape == (5, 6)
        assert RotaryPosition(6).angles(positions, torch.bfloat16).cos.shape == (1, 5, 6)
