import pytest
import torch

from minillm.nn.cache import KVCache
from minillm.nn.token_layout import count_positions, layout_of

TOKENS = torch.zeros(2, 5, dtype=torch.long)
LEFT = torch.tensor([[False, False, True, True, True], [True] * 5])


def test_positions_continue_from_the_cache():
    cache = KVCache(1, 9)
    cache.length = 3
    layout = layout_of(TOKENS, cache=cache)
    assert layout.positions.tolist() == [3, 4, 5, 6, 7]
    assert layout.key_positions.tolist() == list(range(8))


def test_positions_count_real_tokens_with_padding_on_either_side():
    assert layout_of(TOKENS, key_valid=LEFT).positions[:, 2:].tolist() == [[0, 1, 2], [2, 3, 4]]
    right = torch.tensor([[True, True, True, False, False], [True] * 5])
    assert layout_of(TOKENS, key_valid=right).positions[:, :3].tolist() == [[0, 1, 2]] * 2


def test_positions_restart_in_each_document():
    document_ids = torch.tensor([[4, 4, 0, 0, 0], [1, 2, 2, 1, 1]])
    assert layout_of(TOKENS, document_ids=document_ids).positions.tolist() == [[0, 1, 0, 1, 2], [0, 0, 1, 0, 1]]
    counted = count_positions(torch.tensor([[False, True, False, True, True]]), torch.tensor([[0, 0, 0, 0, 7]]))
    assert counted[0, [1, 3, 4]].tolist() == [0, 1, 0]


def test_the_cache_stores_padding_and_documents_for_later_passes():
    cache = KVCache(1, 9)
    layout_of(TOKENS, key_valid=LEFT, document_ids=torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]), cache=cache)
    cache.length = 5
    layout = layout_of(TOKENS[:, :2], cache=cache)
    assert layout.positions.tolist() == [[3, 4], [2, 3]]
    assert layout.key_valid is not None and layout.key_valid.tolist()[0] == [False, False] + [True] * 5
    assert layout.document_ids is not None and layout.document_ids.tolist()[1] == [0, 0, 0, 1, 1, 1, 1]


def test_given_positions_are_used_and_continued():
    cache = KVCache(1, 9)
    given = torch.tensor([[5, 6], [0, 4]])
    layout = layout_of(TOKENS[:, :2], positions=given, cache=cache)
    assert layout.positions.tolist() == given.tolist()
    cache.length = 2
    later = layout_of(TOKENS[:, :1], cache=cache)
    assert later.positions.tolist() == [[7], [5]]
    assert later.key_positions.tolist() == [[5, 6, 7], [0, 4, 5]]


def test_positions_given_in_a_later_pass_keep_the_earlier_ones():
    cache = KVCache(1, 9)
    layout_of(TOKENS[:, :3], cache=cache)
    cache.length = 3
    layout = layout_of(TOKENS[:, :2], positions=torch.tensor([7, 8]), cache=cache)
    assert layout.key_positions.tolist() == [[0, 1, 2, 7, 8]] * 2


@pytest.mark.parametrize("name", ["positions", "key_valid", "document_ids"])
def test_a_wrong_shape_raises_naming_the_argument(name):
    with pytest.raises(ValueError, match=rf"{name} has shape \(2, 4\), the tokens have \(2, 5\)"):
        layout_of(TOKENS, **{name: torch.zeros(2, 4, dtype=torch.long)})  # type: ignore[arg-type]
