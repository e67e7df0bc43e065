"""Figures of predictions: F1, Matthews' correlation, and the correlations of numbers."""

import numpy as np


def f1(correct: float, predicted: float, wanted: float) -> float:
    """Harmonic mean of precision and recall, from numbers of items; 0 if there is nothing correct."""
    return 2 * correct / (predicted + wanted) if correct else 0.0


def macro_f1(targets: np.ndarray, predictions: np.ndarray, num_classes: int) -> float:
    """Mean F1 of the classes that occur among targets or predictions; both (N,) integers.

    The prediction `num_classes` means that there is none.
    """
    table = confusion(targets, predictions, num_classes + 1)
    occurs = (table.sum(0) + table.sum(1))[:num_classes] > 0
    scores = [f1(table[c, c], table[:, c].sum(), table[c].sum()) for c in np.flatnonzero(occurs)]
    return float(np.mean(scores))


def matthews(targets: np.ndarray, predictions: np.ndarray, num_classes: int) -> float:
    """Matthews' correlation for any number of classes (Gorodkin 2004), 0 if targets or predictions do not vary."""
    table = confusion(targets, predictions, num_classes).astype(np.float64)
    total, wanted, predicted = table.sum(), table.sum(1), table.sum(0)
    scale = np.sqrt((total**2 - predicted @ predicted) * (total**2 - wanted @ wanted))
    return float((np.trace(table) * total - wanted @ predicted) / scale) if scale else 0.0


def confusion(targets: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """(C, C) number of examples by target (row) and prediction (column)."""
    table = np.bincount(targets * num_classes + predictions, minlength=num_classes**2)
    return table.reshape(num_classes, num_classes)


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Linear correlation of two series (N,); 0 if one of them does not vary."""
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale else 0.0


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of the ranks of two series (N,); equal values share their mean rank (Spearman 1904)."""
    return pearson(ranks(a), ranks(b))


def ranks(values: np.ndarray) -> np.ndarray:
    """(N,) the rank of each value, from 0; equal values get their mean rank."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts + 1) / 2)[group]
