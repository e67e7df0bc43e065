"""Chapter 1: y = w x + b by gradient descent, then a price from three inputs."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from figures import run, save

# Twelve adults (invented): height in cm, weight in kg.
HEIGHT = np.array([150, 155, 158, 162, 165, 168, 170, 174, 178, 181, 185, 190], dtype=float)
WEIGHT = np.array([51, 54, 53, 60, 61, 63, 69, 70, 74, 75, 82, 85], dtype=float)
# Eight houses (invented): area in m^2, distance to the center in km, age in years; price in thousands.
HOUSES = np.array(
    [[50, 2, 30], [70, 5, 10], [80, 1, 50], [100, 8, 5], [120, 3, 20], [65, 10, 2], [90, 6, 40], [140, 12, 15]],
    dtype=float,
)
PRICES = np.array([210, 255, 300, 320, 430, 195, 280, 400], dtype=float)


def mean_squared_error(w: float, b: float, x: np.ndarray, y: np.ndarray) -> float:
    return float(np.mean((w * x + b - y) ** 2))


def gradient(w: float, b: float, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    error = w * x + b - y
    return float(np.mean(2 * error * x)), float(np.mean(2 * error))


def fit(x: np.ndarray, y: np.ndarray, rate: float, steps: int) -> list[tuple[float, float, float]]:
    """The path of (w, b, loss)."""
    w, b = 0.0, 0.0
    path = [(w, b, mean_squared_error(w, b, x, y))]
    for _ in range(steps):
        dw, db = gradient(w, b, x, y)
        w, b = w - rate * dw, b - rate * db
        path.append((w, b, mean_squared_error(w, b, x, y)))
    return path


def standardize(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(0)) / x.std(0)


def fit_plane(x: np.ndarray, y: np.ndarray, rate: float, steps: int) -> tuple[np.ndarray, float]:
    """Weights (D) and bias of y = x w + b, for inputs x (N, D)."""
    w, b = np.zeros(x.shape[1]), 0.0
    for _ in range(steps):
        error = x @ w + b - y
        w, b = w - rate * 2 * x.T @ error / len(y), b - rate * 2 * error.mean()
    return w, float(b)


def lesson(folder: Path) -> dict[str, Any]:
    x, y = standardize(HEIGHT), WEIGHT
    path = fit(x, y, rate=0.1, steps=50)
    w, b, loss = path[-1]
    print(f"after 50 steps: w = {w:.2f}, b = {b:.2f}, loss = {loss:.2f}")
    best = np.polyfit(x, y, 1)
    print(f"least squares:  w = {best[0]:.2f}, b = {best[1]:.2f}")
    per_cm = w / HEIGHT.std()
    print(f"a person of 172 cm: {per_cm * (172 - HEIGHT.mean()) + b:.1f} kg")

    rates = {rate: [loss for _, _, loss in fit(x, y, rate, 50)] for rate in (0.005, 0.1, 1.05)}
    for rate, losses in rates.items():
        print(f"learning rate {rate}: loss {losses[0]:,.0f} at the start, {losses[-1]:,.0f} after 50 steps")

    prices = standardize(PRICES[:, None])[:, 0]
    weights, _ = fit_plane(standardize(HOUSES), prices, rate=0.1, steps=500)
    for name, weight in zip(("area", "distance", "age"), weights, strict=True):
        print(f"price, {name}: {weight:+.2f}")

    draw(folder, x, y, path, rates)
    return {"path": path, "best": best, "rates": rates, "weights": weights}


def draw(folder: Path, x: np.ndarray, y: np.ndarray, path: list, rates: dict) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(13, 4))
    axes[0].scatter(HEIGHT, y, color="black")
    for step in (0, 2, 5, 50):
        w, b, _ = path[step]
        axes[0].plot(HEIGHT, w * x + b, label=f"step {step}")
    axes[0].set(xlabel="height (cm)", ylabel="weight (kg)", title="The line during training")
    axes[0].legend()

    ws, bs = np.meshgrid(np.linspace(-15, 35, 60), np.linspace(-10, 110, 60))
    losses = np.mean((ws[..., None] * x + bs[..., None] - y) ** 2, -1)
    axes[1].contour(ws, bs, losses, levels=np.geomspace(5, 8000, 14), cmap="viridis")
    axes[1].plot([p[0] for p in path], [p[1] for p in path], "r.-", label="gradient descent")
    axes[1].set(xlabel="w", ylabel="b", title="The loss surface and the path down")
    axes[1].legend()

    for rate, curve in rates.items():
        axes[2].plot(np.minimum(curve, 1e6), label=f"rate {rate}")
    axes[2].set(yscale="log", xlabel="step", ylabel="mean squared error", title="Too small, right, too large")
    axes[2].legend()
    save(figure, folder, "a_line")


if __name__ == "__main__":
    run(lesson)
