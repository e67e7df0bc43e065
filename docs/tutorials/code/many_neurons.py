"""Chapter 4: layers are matrices; without activations they collapse into one; one hidden layer fits any curve."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn

from figures import run, save

WIDTHS = (2, 4, 16, 64)


def curve(x: Tensor) -> Tensor:
    """A curve that no line comes near."""
    return torch.sin(3 * x) + 0.5 * torch.cos(7 * x)


def two_layers_and_one() -> float:
    """The largest difference between two linear layers and the single layer that equals them."""
    generator = torch.Generator().manual_seed(0)
    first, second, x = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((5, 8), (8, 3), (100, 5))
    )
    b1, b2 = (torch.randn(size, generator=generator, dtype=torch.float64) for size in (8, 3))
    deep = (x @ first + b1) @ second + b2
    one = x @ (first @ second) + (b1 @ second + b2)
    return float((deep - one).abs().max())


def hidden_layer(x: Tensor, width: int) -> Tensor:
    """(N, width + 1) ReLU(v x + c) of `width` random neurons, and a constant."""
    generator = torch.Generator().manual_seed(1)
    kinks = torch.linspace(-2.0, 2.0, width + 1)[:-1]
    signs = torch.where(torch.rand(width, generator=generator) < 0.5, -1.0, 1.0)
    hidden = torch.relu(signs * (x[:, None] - kinks))
    return torch.cat((hidden, torch.ones(len(x), 1)), 1)


def fit_hidden(width: int) -> tuple[Tensor, Tensor, float]:
    """x, the network's curve, and its mean squared error, with the best output weights (least squares)."""
    x = torch.linspace(-2, 2, 400)
    hidden = hidden_layer(x, width).double()
    weights = torch.linalg.lstsq(hidden, curve(x).double()[:, None], driver="gelsd").solution
    y = (hidden @ weights)[:, 0].float()
    return x, y, float((y - curve(x)).square().mean())


def fit_without_activation(width: int = 64) -> float:
    """The error of a wide network without activations, trained in full: no better than a line."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, width), nn.Linear(width, width), nn.Linear(width, 1))
    x = torch.linspace(-2, 2, 400)[:, None]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loss = torch.zeros(())
    for _ in range(300):
        loss = (model(x) - curve(x)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def lesson(folder: Path) -> dict[str, Any]:
    x = np.array([1.0, 2.0])
    layer, bias = np.array([[1.0, 0.0, -1.0], [0.5, 2.0, 1.0]]), np.array([0.0, 1.0, -2.0])
    print("three neurons at once:", np.maximum(0, x @ layer + bias))
    difference = two_layers_and_one()
    print(f"two linear layers and their product differ by less than 1e-6: {difference < 1e-6}")

    line = (
        float(np.polyfit(np.linspace(-2, 2, 400), curve(torch.linspace(-2, 2, 400)).numpy(), 1, full=True)[1][0]) / 400
    )
    flat = fit_without_activation()
    print(f"best line: error {line:.3f}; three layers of width 64 without activation: {flat:.3f}")
    fits = {width: fit_hidden(width) for width in WIDTHS}
    for width, (_, _, error) in fits.items():
        print(f"one hidden layer of {width:2} neurons: error {error:.4f}")
    draw(folder, fits)
    return {
        "difference": difference,
        "line": line,
        "flat": flat,
        "errors": {width: error for width, (_, _, error) in fits.items()},
    }


def draw(folder: Path, fits: dict[int, tuple[Tensor, Tensor, float]]) -> None:
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.2), sharey=True)
    for axis, (width, (x, y, error)) in zip(axes, fits.items(), strict=True):
        axis.plot(x, curve(x), "lightgray", linewidth=5, label="wanted")
        axis.plot(x, y, "tab:red", label="network")
        axis.set(title=f"{width} hidden neurons, error {error:.3f}", xlabel="x")
    axes[0].legend()
    save(figure, folder, "many_neurons")


if __name__ == "__main__":
    run(lesson)
