"""Chapter 2: a neuron decides between yes and no by a weighted sum and a threshold; why one cannot compute XOR."""

from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from figures import run, save

MARKS = {"Chinese": 115, "mathematics": 130, "English": 125, "physics": 98, "chemistry": 92, "biology": 95}
WEIGHTS = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
THRESHOLD = 660.0
INPUTS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=float)
GATES = {"AND": np.array([0, 0, 0, 1]), "OR": np.array([0, 1, 1, 1]), "XOR": np.array([0, 1, 1, 0])}


def step(z: np.ndarray | float) -> Any:
    """1 where z is at least 0, else 0."""
    return np.where(np.asarray(z) >= 0, 1, 0)


def neuron(x: np.ndarray, w: np.ndarray, b: float) -> Any:
    """step(w . x + b) for inputs x (..., D) and weights w (D)."""
    return step(x @ w + b)


def perceptron(x: np.ndarray, y: np.ndarray, rounds: int = 100) -> tuple[np.ndarray, float, list[float]]:
    """Rosenblatt's rule (1958): after each mistake, move the line toward the example. Returns w, b, accuracies."""
    w, b, accuracies = np.zeros(2), 0.0, []
    for _ in range(rounds):
        for inputs, wanted in zip(x, y, strict=True):
            error = wanted - neuron(inputs, w, b)
            w, b = w + error * inputs, b + error
        accuracies.append(float(np.mean(neuron(x, w, b) == y)))
    return w, float(b), accuracies


def best_line(y: np.ndarray) -> float:
    """The highest accuracy of any of 68,921 neurons on the four inputs."""
    grid = np.linspace(-2, 2, 41)
    return max(float(np.mean(neuron(INPUTS, np.array([v, w]), b) == y)) for v, w, b in product(grid, grid, grid))


def two_layers(x: np.ndarray) -> np.ndarray:
    """XOR = (OR) and not (AND): two hidden neurons and one on top of them."""
    either, both = neuron(x, np.array([1.0, 1.0]), -0.5), neuron(x, np.array([1.0, 1.0]), -1.5)
    return neuron(np.stack((either, both), -1), np.array([1.0, -1.0]), -0.5)


def lesson(folder: Path) -> dict[str, Any]:
    marks = np.array(list(MARKS.values()), dtype=float)
    total = float(marks @ WEIGHTS)
    admitted = int(neuron(marks, WEIGHTS, -THRESHOLD))
    print(f"sum of six marks: {total:.0f}; the neuron says {admitted}")
    lower = int(neuron(marks, WEIGHTS, -650.0))
    print(f"with bias -650: {lower}")
    science = np.array([0.8, 1.3, 0.8, 1.1, 1.1, 1.1])
    print(
        f"weights of a school of science: {marks @ science:.0f}; the neuron says {neuron(marks, science, -THRESHOLD)}"
    )

    results = {name: perceptron(INPUTS, y) for name, y in GATES.items()}
    for name, (_, _, accuracies) in results.items():
        print(f"{name}: accuracy of a trained neuron {max(accuracies):.0%}")
    limit = best_line(GATES["XOR"])
    print(f"XOR: best of 68,921 neurons {limit:.0%}, two layers {np.mean(two_layers(INPUTS) == GATES['XOR']):.0%}")
    draw(folder, results)
    return {
        "total": total,
        "decisions": (admitted, lower, int(neuron(marks, science, -THRESHOLD))),
        "gates": {name: accuracies for name, (_, _, accuracies) in results.items()},
        "best_line": limit,
        "two_layers": two_layers(INPUTS),
    }


def draw(folder: Path, results: dict[str, Any]) -> None:
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.4))
    area = np.stack(np.meshgrid(np.linspace(-0.4, 1.4, 90), np.linspace(-0.4, 1.4, 90)), -1)
    pictures = {name: neuron(area, w, b) for name, (w, b, _) in results.items()}
    pictures["XOR with two layers"] = two_layers(area)
    for axis, (name, says) in zip(axes, pictures.items(), strict=True):
        axis.contourf(area[..., 0], area[..., 1], says, levels=[-0.5, 0.5, 1.5], colors=["#dddddd", "#9ecae1"])
        wanted = GATES[name.split()[0]]
        for value, marker in ((0, "o"), (1, "*")):
            axis.plot(*INPUTS[wanted == value].T, marker, color="black", markersize=12, linestyle="")
        axis.set(title=name, xlabel="$x_1$", ylabel="$x_2$", xticks=[0, 1], yticks=[0, 1])
    save(figure, folder, "a_neuron")


if __name__ == "__main__":
    run(lesson)
