"""Classes of images and of rows of numbers: scaling, augmentation, labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minillm.data.config import DataConfig
from minillm.data.datasets.arrays import FeatureRows
from minillm.objectives.features import FeatureObjective, moved

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 1, 6, 6), np.uint8)
ROWS = FeatureRows(IMAGES, ["a", "b", "a", "b"], [f"image {i}" for i in range(4)])


def rng(i: int) -> np.random.Generator:
    return np.random.default_rng([7, i])


def test_a_batch_holds_scaled_pixels_and_label_numbers():
    batch = FeatureObjective(0, labels=("a", "b")).collate(ROWS.rows, rng)
    assert torch.allclose(batch.inputs["features"], torch.from_numpy(IMAGES) / 127.5 - 1, atol=1e-6)
    assert batch.labels["class"].tolist() == [0, 1, 0, 1] and batch.counts == {"class": 4}


def test_only_training_images_are_moved_and_always_in_the_same_way():
    objective = FeatureObjective(0, labels=("a", "b"), shift=2, turn=30.0)
    train, held = (objective.examples(ROWS, DataConfig(), 1, training=training) for training in (True, False))
    once, again, still = (objective.collate(rows.rows, rng).inputs["features"] for rows in (train, train, held))
    assert torch.equal(once, again) and not torch.allclose(once, still)
    assert torch.allclose(still, torch.from_numpy(IMAGES) / 127.5 - 1, atol=1e-6)


def test_a_shift_moves_whole_pixels():
    image = torch.zeros(1, 1, 7, 7)
    image[0, 0, 3, 3] = 1.0
    places = set()
    for seed in range(60):
        out = moved(image, [np.random.default_rng(seed)], 1, 0.0)[0, 0]
        assert out.max().item() == pytest.approx(1, abs=1e-5) and out.sum().item() == pytest.approx(1, abs=1e-4)
        places.add(divmod(int(out.argmax()), 7))
    assert places == {(y, x) for y in (2, 3, 4) for x in (2, 3, 4)}


def test_a_turn_keeps_the_center_and_turns_both_ways():
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 4, 4:] = 1.0  # a ray to the right
    heights = []
    for seed in range(40):
        out = moved(image, [np.random.default_rng(seed)], 0, 45.0)[0, 0]
        assert out[4, 4] > 0.9
        rows = out[:, 6:8].sum(1)
        heights.append(float((rows * torch.arange(9)).sum() / rows.sum()) - 4)
    assert min(heights) < -1 and max(heights) > 1


def test_an_unknown_label_is_named():
    with pytest.raises(ValueError, match="image 1 has the label 'b', which the training data lacks"):
        FeatureObjective(0, labels=("a", "c")).examples(ROWS, DataConfig(), 1, training=False)
