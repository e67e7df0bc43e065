"""Relative positions against transformers' functions."""

import pytest
import torch
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.t5.modeling_t5 import T5Attention

from minillm.nn.position import AlibiPosition, T5RelativeBias


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (16, 64), (10, 37)])
def test_t5_buckets_equal_transformers(bidirectional, num_buckets, max_distance):
    distance = torch.arange(-300, 301)
    ours = T5RelativeBias(2, bidirectional=bidirectional, num_buckets=num_buckets, max_distance=max_distance)
    theirs = T5Attention._relative_position_bucket(
        distance, bidirectional=bidirectional, num_buckets=num_buckets, max_distance=max_distance
    )
    assert torch.equal(ours.bucket(distance), theirs)


@pytest.mark.parametrize("num_heads", [1, 2, 3, 6, 8, 12, 20])
def test_alibi_slopes_equal_transformers(num_heads):
    theirs = build_alibi_tensor(torch.ones(1, 2), num_heads, torch.float32)  # (H, 1, S), slope times key position
    assert torch.allclose(torch.tensor(AlibiPosition(num_heads).slopes()), theirs[:, 0, 1], rtol=1e-6, atol=0)
