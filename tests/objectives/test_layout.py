import numpy as np
import pytest

from minillm.objectives.layout import pad


@pytest.mark.parametrize(
    ("longest", "round_below", "columns"), [(5, 0, 5), (5, 64, 8), (8, 64, 8), (9, 64, 16), (57, 60, 57), (60, 60, 60)]
)
def test_rows_are_padded_to_multiples_of_8_within_the_limit(longest, round_below, columns):
    padded, valid = pad([np.arange(longest), np.arange(3)], 7, round_below=round_below)
    assert padded.shape == valid.shape == (2, columns)
    assert padded[0].tolist() == [*range(longest), *[7] * (columns - longest)]
    assert padded[1].tolist() == [0, 1, 2, *[7] * (columns - 3)]
    assert valid.sum(1).tolist() == [longest, 3]
