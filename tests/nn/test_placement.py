import pytest
import torch

from minillm.nn.cache import KVCache
from minillm.nn.placement import count_positions, place

TOKENS = torch.zeros(2, 5, dtype=torch.long)
LEFT = torch.tensor([[False, False, True, True, True], [True] * 5])


def test_plain_tokens_count_on_from_the_cache():
    cache = KVCache(1, 9)
    cache.length = 3
    placement = place(TOKENS, cache=cache)
    assert placement.positions.tolist() == [3, 4, 5, 6, 7]
    assert placement.key_positions.tolist() == list(range(8))


def test_positions_count_real_tokens_wherever_the_padding_is():
    assert place(TOKENS, key_valid=LEFT).positions[:, 2:].tolist() == [[0, 1, 2], [2, 3, 4]]
    right = torch.tensor([[True, True, True, False, False], [True] * 5])
    assert place(TOKENS, key_valid=right).positions[:, :3].tolist() == [[0, 1, 2]] * 2


def test_positions_start_again_with_each_document():
    segments = torch.tensor([[4, 4, 0, 0, 0], [1, 2, 2, 1, 1]])
    assert place(TOKENS, segments=segments).positions.tolist() == [[0, 1, 0, 1, 2], [0, 0, 1, 0, 1]]
    counted = count_positions(torch.tensor([[False, True, False, True, True]]), torch.tensor([[0, 0, 0, 0, 7]]))
    assert counted[0, [1, 3, 4]].tolist() == [0, 1, 0]


def test_the_cache_remembers_padding_and_documents_for_later_passes():
    cache = KVCache(1, 9)
    place(TOKENS, key_valid=LEFT, segments=torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]), cache=cache)
    cache.length = 5
    placement = place(TOKENS[:, :2], cache=cache)
    assert placement.positions.tolist() == [[3, 4], [2, 3]]
    assert placement.key_valid is not None and placement.key_valid.tolist()[0] == [False, False] + [True] * 5
    assert placement.segments is not None and placement.segments.tolist()[1] == [0, 0, 0, 1, 1, 1, 1]


def test_given_positions_are_taken_and_continued():
    cache = KVCache(1, 9)
    given = torch.tensor([[5, 6], [0, 4]])
    placement = place(TOKENS[:, :2], positions=given, cache=cache)
    assert placement.positions.tolist() == given.tolist()
    cache.length = 2
    later = place(TOKENS[:, :1], cache=cache)
    assert later.positions.tolist() == [[7], [5]]
    assert later.key_positions.tolist() == [[5, 6, 7], [0, 4, 5]]


def test_positions_given_late_leave_the_earlier_ones_counted():
    cache = KVCache(1, 9)
    place(TOKENS[:, :3], cache=cache)
    cache.length = 3
    placement = place(TOKENS[:, :2], positions=torch.tensor([7, 8]), cache=cache)
    assert placement.key_positions.tolist() == [[0, 1, 2, 7, 8]] * 2


@pytest.mark.parametrize("name", ["positions", "key_valid", "segments"])
def test_a_shape_that_does_not_fit_is_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"{name} has shape \(2, 4\), the tokens have \(2, 5\)"):
        place(TOKENS, **{name: torch.zeros(2, 4, dtype=torch.long)})  # type: ignore[arg-type]
