import pytest
import torch

from minillm.nn.mask import AttentionMask, choose_kernel, compute_dtype, resolve_mask

X = torch.zeros(1)


def test_the_dense_mask_is_true_where_a_query_may_attend_to_a_key():
    valid = torch.tensor([[False, True, True, True, True], [True] * 5])
    document_ids = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 1, 1, 1]])
    prefix = torch.tensor([0, 4])
    mask = AttentionMask(causal=True, key_valid=valid, prefix_length=prefix, document_ids=document_ids)
    dense = mask.dense(2, 3, 5, X.device)
    assert dense is not None and dense.shape == (2, 1, 3, 5)
    for b in range(2):
        for t in range(3):
            for s in range(5):
                q = 2 + t
                expected = (s <= q or s < prefix[b]) and valid[b, s] and document_ids[b, q] == document_ids[b, s]
                assert dense[b, 0, t, s] == expected, (b, t, s)


@pytest.mark.parametrize("causal", [True, False])
def test_a_window_excludes_keys_at_its_distance_and_beyond(causal):
    positions = torch.tensor([[0, 0, 1, 2, 3, 4], [0, 1, 2, 3, 0, 1]])
    for keys in (positions, torch.arange(6)):
        mask = AttentionMask(causal=causal, window=2, key_positions=keys)
        dense = mask.dense(1, 5, 6, X.device)
        assert dense is not None
        for b, of_row in enumerate(keys.expand(2, 6)):
            for t in range(5):
                for s in range(6):
                    near = abs(of_row[t + 1] - of_row[s]) < 2 and (s <= t + 1 or not causal)
                    assert dense[b % len(dense), 0, t, s] == near


def test_no_restriction_gives_no_mask_tensor():
    assert AttentionMask().dense(0, 3, 3, X.device) is None
    assert resolve_mask(AttentionMask(), None, start=0, num_queries=3, num_keys=9, like=X).tensor is None


def test_fused_causal_mode_is_used_only_if_queries_and_keys_are_the_same_tokens():
    def causal(start: int, queries: int):
        return resolve_mask(
            AttentionMask(causal=True), None, start=start, num_queries=queries, num_keys=start + queries, like=X
        )

    assert causal(0, 4).is_causal and causal(0, 4).tensor is None
    assert not causal(2, 4).is_causal and causal(2, 4).tensor is not None
    assert not causal(5, 1).is_causal and causal(5, 1).tensor is None


def test_the_eager_kernel_is_chosen_for_cpu_training_with_few_keys_in_bf16_or_with_a_bias():
    assert choose_kernel("cpu", torch.bfloat16, 512) == "eager"
    assert choose_kernel("cpu", torch.bfloat16, 513) == "fused"
    assert choose_kernel("cpu", torch.float32, 8) == "fused"
    assert choose_kernel("cuda", torch.bfloat16, 8) == "fused"
    assert choose_kernel("cpu", torch.float32, 512, trained_bias=True) == "eager"
    assert choose_kernel("cpu", torch.float32, 513, trained_bias=True) == "fused"
    assert choose_kernel("cuda", torch.float32, 8, trained_bias=True) == "fused"
    with torch.no_grad():
        assert choose_kernel("cpu", torch.bfloat16, 8, trained_bias=True) == "fused"


def test_compute_dtype_is_that_of_autocast_if_enabled():
    assert compute_dtype(X) == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert compute_dtype(X) == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bias_and_mask_become_one_additive_tensor_in_the_compute_dtype(dtype):
    bias = torch.randn(1, 2, 3, 3)
    mask = resolve_mask(AttentionMask(causal=True), bias, start=0, num_queries=3, num_keys=3, like=X.to(dtype))
    above = torch.ones(3, 3, dtype=torch.bool).triu(1)
    assert mask.tensor is not None and mask.tensor.dtype == dtype
    assert (mask.tensor[..., above] == float("-inf")).all()
    assert torch.equal(mask.tensor[..., ~above], bias.to(dtype)[..., ~above])
