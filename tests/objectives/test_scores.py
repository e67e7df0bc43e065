"""Figures of predictions against scikit-learn and SciPy."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from minillm.objectives.scores import f1, macro_f1, matthews, pearson, spearman

DRAWS = np.random.default_rng(0)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_figures_of_classes_equal_scikit_learns(num_classes: int):
    targets, predictions = DRAWS.integers(0, num_classes, (2, 60))
    assert macro_f1(targets, predictions, num_classes + 1) == pytest.approx(
        metrics.f1_score(targets, predictions, average="macro")
    ), "a class that occurs nowhere does not count"
    expected = metrics.matthews_corrcoef(targets, predictions)
    assert matthews(targets, predictions, num_classes) == pytest.approx(expected)
    assert matthews(targets, 0 * targets, num_classes) == 0.0


def test_correlations_equal_scipys_with_ties():
    a = DRAWS.integers(0, 9, 50).astype(float)
    b = a + DRAWS.integers(-4, 4, 50)
    assert pearson(a, b) == pytest.approx(stats.pearsonr(a, b)[0])
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b)[0])
    assert pearson(a, 0 * a) == 0.0


def test_f1_without_anything_correct_is_zero():
    assert f1(0, 0, 0) == 0.0 and f1(2, 4, 4) == 0.5
