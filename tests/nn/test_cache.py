import pytest
import torch

from minillm.nn.cache import KVCache, LayerKVCache


def test_a_layer_cache_takes_its_shape_and_dtype_from_the_first_write():
    layer_cache, k, v = LayerKVCache(5), torch.randn(2, 3, 4, 6).double(), torch.randn(2, 3, 4, 6).double()
    layer_cache.write(k[:, :, :3], v[:, :, :3], 0)
    keys, values = layer_cache.write(k[:, :, 3:], v[:, :, 3:], 3)
    assert torch.equal(keys, k) and torch.equal(values, v)
    assert layer_cache.k is not None and layer_cache.k.shape == (2, 3, 5, 6) and layer_cache.k.dtype == torch.float64


def test_overflow_names_capacity_and_required_length():
    cache = KVCache(1, 4)
    cache.length = 3
    cache.require(1)
    with pytest.raises(ValueError, match="holds 4 tokens and 5 are needed"):
        cache.require(2)
    with pytest.raises(ValueError, match="max_len is 0"):
        KVCache(1, 0)


def test_new_columns_have_the_given_value_for_earlier_tokens():
    cache = KVCache(1, 6)
    cache.length = 2
    assert cache.get("key_valid") is None
    column = cache.remember("key_valid", torch.tensor([[False, True]]), before=True)
    assert column.tolist() == [[True, True, False, True]]
    cache.length = 4
    known = cache.get("key_valid")
    assert known is not None and known.tolist() == [[True, True, False, True]]


def test_reset_clears_tokens_columns_and_batch_size():
    cache = KVCache(2, 4, encoder_len=3)
    cache.self_layers[0].write(torch.ones(2, 1, 2, 4), torch.ones(2, 1, 2, 4), 0)
    cache.remember("document_ids", torch.zeros(2, 2, dtype=torch.long), before=0)
    cache.length = 2
    cache.reset()
    assert cache.length == 0 and cache.get("document_ids") is None
    keys, _ = cache.self_layers[0].write(torch.ones(5, 1, 1, 4), torch.ones(5, 1, 1, 4), 0)
    assert keys.shape == (5, 1, 1, 4)
    assert cache.cross_layers[1] is not None and cache.cross_layers[1].max_len == 3


def filled_cache() -> KVCache:
    """Two rows of three tokens with a source of two: everything in row r is r + 1."""
    cache, row = KVCache(1, 4, encoder_len=2), torch.tensor([1.0, 2.0])
    keys = row[:, None, None, None].expand(2, 1, 3, 4)
    cache.self_layers[0].write(keys, keys * 10, 0)
    assert cache.cross_layers[0] is not None
    cache.cross_layers[0].write(keys[:, :, :2], keys[:, :, :2] * 10, 0)
    cache.remember("positions", row.long()[:, None].expand(2, 3), before=0)
    cache.recall(row[:, None, None].expand(2, 2, 4), row[:, None].expand(2, 2) > 1)
    cache.length = 3
    return cache


def rows_of(cache: KVCache) -> list[list[int]]:
    """The row whose numbers each row holds: self-attention, cross-attention, columns, encoder output and validity."""
    own, cross = cache.self_layers[0], cache.cross_layers[0]
    assert cross is not None and own.k is not None and own.v is not None
    assert cache.encoder_output is not None and cache.encoder_valid is not None
    keys, values = cross.read()
    tensors = [own.k[:, 0, :3], own.v[:, 0, :3] / 10, keys[:, 0], values[:, 0] / 10]
    tensors += [cache.get("positions"), cache.encoder_output, cache.encoder_valid + 1]
    assert all((tensor == tensor.flatten(1)[:, 0].view(-1, *[1] * (tensor.ndim - 1))).all() for tensor in tensors)
    return [tensor.flatten(1)[:, 0].long().tolist() for tensor in tensors]


def test_repeat_makes_adjacent_copies_of_each_row():
    cache = filled_cache()
    cache.repeat(3)
    assert rows_of(cache) == [[1, 1, 1, 2, 2, 2]] * 7


def test_reorder_moves_tokens_but_not_the_encoder_output():
    cache = filled_cache()
    cache.reorder(torch.tensor([1, 1]))
    tokens, columns, encoder = [[2, 2]] * 2, [[2, 2]], [[1, 2]] * 2
    assert rows_of(cache) == tokens + encoder + columns + encoder


def test_the_encoder_output_is_stored_until_a_new_one_is_given():
    cache = filled_cache()
    output, valid = cache.recall(None, None)
    assert output is cache.encoder_output and valid is cache.encoder_valid and output is not None
    other = torch.zeros(1, 2, 4)
    assert cache.recall(other, None) == (other, None) == cache.recall(None, None)
    cache.reset()
    assert cache.recall(None, None) == (None, None)
