"""Chapter 6: a network of 784-128-64-10 neurons learns digits, trained by the package's own trainer.

Without a folder of MNIST the digits are drawn with the fonts that matplotlib carries.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import minillm
from minillm.data.sources.digits import draw_digits

from figures import run, save

STEPS = 800
SETTINGS = {"train.steps": STEPS, "train.log_every": 10, "eval.every": 200, "objective.shift": 0, "objective.turn": 0.0}


def descend(rule: str, steps: int = 60) -> list[tuple[float, float]]:
    """The path of one update rule on the valley f(x, y) = (x^2 + 25 y^2) / 2, from (-4, 1)."""
    at, velocity, squares = np.array([-4.0, 1.0]), np.zeros(2), np.zeros(2)
    path = [tuple(at)]
    for t in range(1, steps + 1):
        gradient = at * np.array([1.0, 25.0])
        if rule == "SGD":
            at = at - 0.07 * gradient
        elif rule == "momentum":
            velocity = 0.8 * velocity + gradient
            at = at - 0.03 * velocity
        else:  # Adam (Kingma and Ba 2015)
            velocity = 0.9 * velocity + 0.1 * gradient
            squares = 0.99 * squares + 0.01 * gradient**2
            at = at - 0.3 * (velocity / (1 - 0.9**t)) / (np.sqrt(squares / (1 - 0.99**t)) + 1e-8)
        path.append(tuple(at))
    return path


def train(folder: Path, source: str, dropout: float) -> tuple[Path, list[dict[str, float]]]:
    """A run, and the lines of its metrics."""
    keys = SETTINGS | {"data.source": source, "data.cache": str(folder / "cache"), "model.dropout": dropout}
    trained = minillm.train(minillm.load_config("mlp-digits", keys), folder / f"dropout-{dropout}")
    lines = (trained / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return trained, [json.loads(line) for line in lines]


def lines_gap(lines: list[dict[str, float]]) -> float:
    """The last validation loss minus the mean of the last ten training losses."""
    training = [line["loss"] for line in lines if "loss" in line][-10:]
    return [line["val_loss"] for line in lines if "val_loss" in line][-1] - float(np.mean(training))


def confusion(loaded: Any, pixels: np.ndarray, labels: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(10, 10) counts of true class (row) and predicted class, and the predictions."""
    features = loaded.objective.scaled(pixels)
    predicted = loaded.model(features.to(loaded.compute.device)).logits["class"].argmax(-1).cpu().numpy()
    matrix = np.zeros((10, 10), int)
    np.add.at(matrix, ([int(label) for label in labels], predicted), 1)
    return matrix, predicted


def lesson(folder: Path, source: str = "builtin:digits") -> dict[str, Any]:
    paths = {rule: descend(rule) for rule in ("SGD", "momentum", "Adam")}
    for rule, path in paths.items():
        print(f"{rule}: distance from the minimum after 60 steps {np.hypot(*path[-1]):.2f}")
    with tempfile.TemporaryDirectory() as temporary:
        runs = {dropout: train(Path(temporary), source, dropout) for dropout in (0.0, 0.1)}
        loaded = minillm.load_run(runs[0.0][0], device="cpu")
    pixels, labels = draw_digits(8000)
    pixels, labels = pixels[6000:], labels[6000:]  # the training data are the first 6,000
    matrix, predicted = confusion(loaded, pixels, labels)
    accuracy = float(np.trace(matrix) / matrix.sum())
    print(f"more than 90 % of 2,000 new drawings are recognized: {accuracy > 0.9}")
    gaps = {dropout: lines_gap(lines) for dropout, (_, lines) in runs.items()}
    print(f"dropout narrows the gap between validation and training loss: {gaps[0.1] < gaps[0.0]}")
    wrong = [i for i, label in enumerate(labels) if predicted[i] != int(label)]
    weights = loaded.model.layers["0"].weight.detach().numpy()  # (128, 784)
    print("each of the first layer's neurons has", weights.shape[1], "weights, one for each pixel")
    draw(folder, paths, {dropout: lines for dropout, (_, lines) in runs.items()}, matrix)
    draw_pictures(folder, pixels, [(i, labels[i], int(predicted[i])) for i in wrong], weights)
    return {"paths": paths, "accuracy": accuracy, "confusion": matrix, "weights": weights, "gaps": gaps}


def draw(folder: Path, paths: dict, curves: dict, matrix: np.ndarray) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8))
    x, y = np.meshgrid(np.linspace(-4.5, 1, 80), np.linspace(-1.2, 1.2, 80))
    axes[0].contour(x, y, (x**2 + 25 * y**2) / 2, levels=12, cmap="Greys")
    for rule, path in paths.items():
        axes[0].plot(*np.array(path[:25]).T, ".-", label=rule)
    axes[0].set(title="Three ways down a narrow valley")
    axes[0].legend()
    for dropout, lines in curves.items():
        training = [(line["step"], line["loss"]) for line in lines if "loss" in line]
        validation = [(line["step"], line["val_loss"]) for line in lines if "val_loss" in line]
        (curve,) = axes[1].plot(*np.array(training).T, label=f"dropout {dropout}, training")
        axes[1].plot(*np.array(validation).T, "o--", color=curve.get_color(), label=f"dropout {dropout}, validation")
    axes[1].set(title="Learning curves", xlabel="step", ylabel="cross-entropy", yscale="log")
    axes[1].legend(fontsize=8)
    axes[2].imshow(np.log1p(matrix), cmap="Blues")
    for i, j in np.argwhere(matrix > 0):
        axes[2].text(j, i, matrix[i, j], ha="center", va="center", fontsize=7, color="white" if i == j else "black")
    axes[2].set(title="Confusion", xlabel="predicted", ylabel="true", xticks=range(10), yticks=range(10))
    save(figure, folder, "digits")


def draw_pictures(folder: Path, pixels: np.ndarray, wrong: list, weights: np.ndarray) -> None:
    figure, axes = plt.subplots(2, 10, figsize=(13, 3.2))
    for axis, (i, label, guess) in zip(axes[0], wrong, strict=False):
        axis.imshow(pixels[i, 0], cmap="gray")
        axis.set_title(f"{label} read as {guess}", fontsize=8)
    for axis, row in zip(axes[1], weights, strict=False):
        axis.imshow(row.reshape(28, 28), cmap="RdBu")
    axes[1, 0].set_title("weights of ten neurons", fontsize=8, loc="left")
    for axis in axes.flat:
        axis.axis("off")
    save(figure, folder, "digits_seen")


if __name__ == "__main__":
    run(lambda folder: lesson(folder, *sys.argv[1:]))
