"""Chapter 3: activation functions and their derivatives, logistic regression, and gradients that vanish."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from figures import run, save

SIGMOIDS = {"sigmoid": torch.sigmoid, "tanh": torch.tanh}
ACTIVATIONS = {**SIGMOIDS, "ReLU": torch.relu, "GELU": nn.functional.gelu}
DEPTH, WIDTH = 12, 64


def derivative(activation: Any, z: torch.Tensor) -> torch.Tensor:
    """The slope of an activation at each z, by automatic differentiation."""
    z = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(activation(z).sum(), z)
    return slope


def softmax(logits: np.ndarray) -> np.ndarray:
    """exp(z_i) / sum exp(z_j); the largest logit is subtracted first, so that exp does not overflow."""
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def students(number: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Invented marks from 0 to 100 and whether the student was admitted: likely above 60, but never certain."""
    rng = np.random.default_rng(0)
    marks = rng.uniform(20, 100, number)
    return marks, (rng.random(number) < 1 / (1 + np.exp(-(marks - 60) / 6))).astype(float)


def logistic_regression(marks: np.ndarray, admitted: np.ndarray, steps: int = 2000) -> tuple[float, float]:
    """w and b of p = sigmoid(w z + b), z the standardized mark, by gradient descent on the cross-entropy."""
    z, w, b = (marks - marks.mean()) / marks.std(), 0.0, 0.0
    for _ in range(steps):
        error = 1 / (1 + np.exp(-(w * z + b))) - admitted  # the gradient of the cross-entropy with respect to wz + b
        w, b = w - 0.5 * float(np.mean(error * z)), b - 0.5 * float(np.mean(error))
    return w, b


def gradient_by_layer(activation: Any, scale: float) -> list[float]:
    """Norm of the gradient that reaches the weights of each of DEPTH layers, the first layer first."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, WIDTH, generator=generator)
    weights = [
        (torch.randn(WIDTH, WIDTH, generator=generator) * scale / WIDTH**0.5).requires_grad_() for _ in range(DEPTH)
    ]
    for weight in weights:
        x = activation(x @ weight)
    x.square().mean().backward()
    return [float(weight.grad.norm()) for weight in weights if weight.grad is not None]


def lesson(folder: Path) -> dict[str, Any]:
    z = torch.linspace(-5, 5, 201)
    slopes = {name: derivative(activation, z) for name, activation in ACTIVATIONS.items()}
    for name, slope in slopes.items():
        print(f"{name}: steepest slope {slope.max():.2f}, slope at -5 {abs(float(slope[0])):.4f}")
    probabilities = softmax(np.array([2.0, 1.0, 0.0]))
    print("softmax of 2, 1, 0:", " ".join(f"{p:.3f}" for p in probabilities))

    marks, admitted = students()
    w, b = logistic_regression(marks, admitted)
    boundary = marks.mean() - b / w * marks.std()
    right = np.mean((marks > boundary) == (admitted == 1))
    print(f"even chance at {boundary:.0f} marks; {right:.0%} of the students are on the right side")

    norms = {
        "sigmoid": gradient_by_layer(torch.sigmoid, 1.0),
        "tanh": gradient_by_layer(torch.tanh, 1.0),
        "ReLU, variance 2 / inputs": gradient_by_layer(torch.relu, 2**0.5),
    }
    for name, values in norms.items():
        print(f"{name}: the first layer's gradient is 10^{np.log10(values[0] / values[-1]):.0f} times the last one's")
    draw(folder, z, slopes, (marks, admitted, w, b), norms)
    return {
        "slopes": slopes,
        "probabilities": probabilities,
        "boundary": boundary,
        "accuracy": right,
        "norms": norms,
    }


def draw(folder: Path, z: torch.Tensor, slopes: dict, students: tuple, norms: dict) -> None:
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.6))
    for name, activation in ACTIVATIONS.items():
        axes[0].plot(z, activation(z), label=name)
        axes[1].plot(z, slopes[name], label=name)
    axes[0].set(title="Activations", xlabel="z", ylim=(-1.2, 3))
    axes[1].set(title="Their derivatives", xlabel="z")
    marks, admitted, w, b = students
    order = np.sort(marks)
    axes[2].plot(marks, admitted, "k.", alpha=0.3)
    axes[2].plot(order, 1 / (1 + np.exp(-(w * (order - marks.mean()) / marks.std() + b))), "r")
    axes[2].set(title="Marks to probability", xlabel="mark", ylabel="admitted")
    for name, values in norms.items():
        axes[3].semilogy(range(1, DEPTH + 1), values, ".-", label=name)
    axes[3].set(title="Gradient by layer", xlabel="layer", ylabel="norm")
    for axis in (axes[0], axes[1], axes[3]):
        axis.legend(fontsize=8)
    save(figure, folder, "activations")


if __name__ == "__main__":
    run(lesson)
