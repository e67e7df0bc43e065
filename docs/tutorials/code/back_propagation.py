"""Chapter 5: back-propagation, first one number at a time, then with matrices."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from figures import run, save


class Value:
    """A number that remembers how it was computed, so that the chain rule can be applied backward."""

    def __init__(self, data: float, parents: tuple["Value", ...] = (), slopes: tuple[float, ...] = ()) -> None:
        self.data, self.grad = data, 0.0
        self.parents, self.slopes = parents, slopes  # slopes: d(self) / d(parent)

    def __add__(self, other: "Value | float") -> "Value":
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other: "Value | float") -> "Value":
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def __pow__(self, exponent: float) -> "Value":
        return Value(self.data**exponent, (self,), (exponent * self.data ** (exponent - 1),))

    def tanh(self) -> "Value":
        y = math.tanh(self.data)
        return Value(y, (self,), (1 - y * y,))

    def exp(self) -> "Value":
        y = math.exp(self.data)
        return Value(y, (self,), (y,))

    def log(self) -> "Value":
        return Value(math.log(self.data), (self,), (1 / self.data,))

    def __neg__(self) -> "Value":
        return self * -1.0

    def __sub__(self, other: "Value | float") -> "Value":
        return self + (-other if isinstance(other, Value) else Value(-other))

    def __truediv__(self, other: "Value") -> "Value":
        return self * other**-1.0

    __radd__, __rmul__ = __add__, __mul__

    def backward(self) -> None:
        """Add d(self) / d(v) to the `grad` of every value v that self was computed from."""
        order: list[Value] = []
        seen: set[int] = set()

        def visit(value: Value) -> None:
            if id(value) not in seen:
                seen.add(id(value))
                for parent in value.parents:
                    visit(parent)
                order.append(value)

        visit(self)
        self.grad = 1.0
        for value in reversed(order):  # each value after everything that uses it
            for parent, slope in zip(value.parents, value.slopes, strict=True):
                parent.grad += slope * value.grad


def network(numbers: list[Any], tanh: Callable[[Any], Any]) -> Any:
    """Squared error of a network with two inputs, two tanh neurons and one output; nine weights."""
    a, b, c, d, e, f, v, w, u = numbers
    first, second = tanh(a * 0.5 + b * -1.0 + c), tanh(d * 0.5 + e * -1.0 + f)
    return (v * first + w * second + u - 0.7) ** 2.0


def gradients(weights: list[float]) -> dict[str, list[float]]:
    """The gradient of `network`, by our engine, by torch and by finite differences."""
    ours = [Value(weight) for weight in weights]
    network(ours, Value.tanh).backward()
    theirs = [torch.tensor(weight, dtype=torch.float64, requires_grad=True) for weight in weights]
    network(theirs, torch.tanh).backward()
    step, numeric = 1e-6, []
    for i in range(len(weights)):
        shifted = [[w + sign * step * (i == j) for j, w in enumerate(weights)] for sign in (1, -1)]
        up, down = (network(numbers, math.tanh) for numbers in shifted)
        numeric.append((up - down) / (2 * step))
    by_torch = [float(t.grad) for t in theirs if t.grad is not None]
    return {"ours": [value.grad for value in ours], "torch": by_torch, "differences": numeric}


def layer_gradients(x: np.ndarray, w1: np.ndarray, w2: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same in matrix form: gradients of mean((tanh(x w1) w2 - y)^2) with respect to w1 (D, H) and w2 (H, 1)."""
    hidden = np.tanh(x @ w1)  # (N, H)
    error = 2 * (hidden @ w2 - y) / y.size  # (N, 1) dL / d(output)
    grad_w2 = hidden.T @ error  # (H, 1)
    grad_hidden = error @ w2.T  # (N, H)
    grad_w1 = x.T @ (grad_hidden * (1 - hidden**2))  # (D, H)
    return grad_w1, grad_w2


def matrix_difference() -> float:
    """The largest difference between `layer_gradients` and torch."""
    rng = np.random.default_rng(0)
    x, w1, w2, y = (rng.normal(size=shape) for shape in ((20, 3), (3, 5), (5, 1), (20, 1)))
    t1, t2 = (torch.tensor(w, requires_grad=True) for w in (w1, w2))
    (torch.tanh(torch.tensor(x) @ t1) @ t2 - torch.tensor(y)).square().mean().backward()
    pairs = zip(layer_gradients(x, w1, w2, y), (t1.grad, t2.grad), strict=True)
    return max(float(np.abs(ours - theirs.numpy()).max()) for ours, theirs in pairs if theirs is not None)


def train_xor(steps: int = 400) -> tuple[list[float], list[int]]:
    """Losses and final answers of a network of our own values that learns XOR."""
    rng = np.random.default_rng(1)
    weights = [Value(float(number)) for number in rng.normal(size=9)]
    cases = [((0.0, 0.0), 0.0), ((0.0, 1.0), 1.0), ((1.0, 0.0), 1.0), ((1.0, 1.0), 0.0)]

    def output(inputs: tuple[float, float]) -> Value:
        a, b, c, d, e, f, v, w, u = weights
        x, y = inputs
        return v * (a * x + b * y + c).tanh() + w * (d * x + e * y + f).tanh() + u

    losses = []
    for _ in range(steps):
        loss = Value(0.0)
        for inputs, wanted in cases:
            loss = loss + (output(inputs) - wanted) ** 2.0
        for weight in weights:
            weight.grad = 0.0
        loss.backward()
        for weight in weights:
            weight.data -= 0.1 * weight.grad
        losses.append(loss.data)
    return losses, [int(output(inputs).data > 0.5) for inputs, _ in cases]


def lesson(folder: Path) -> dict[str, Any]:
    x = Value(2.0)
    y = x * x * 3.0 + x
    y.backward()
    print(f"y = 3 x^2 + x at x = 2: y = {y.data:.0f}, dy/dx = {x.grad:.0f}")
    found = gradients([0.3, -0.2, 0.1, 0.7, 0.4, -0.5, 0.9, -1.1, 0.2])
    worst = {
        name: max(abs(a - b) for a, b in zip(found["ours"], found[name], strict=True))
        for name in ("torch", "differences")
    }
    print(f"nine gradients equal torch's to 1e-12: {worst['torch'] < 1e-12}")
    print(f"nine gradients equal finite differences to 1e-7: {worst['differences'] < 1e-7}")
    matrix = matrix_difference()
    print(f"the matrix form equals torch to 1e-12: {matrix < 1e-12}")
    losses, answers = train_xor()
    print(f"XOR of 00, 01, 10, 11 after training with our own engine: {answers}")
    figure, axis = plt.subplots(figsize=(5, 3.2))
    axis.semilogy(losses)
    axis.set(xlabel="step", ylabel="squared error", title="XOR learned by 80 lines of back-propagation")
    save(figure, folder, "back_propagation")
    return {"dy_dx": x.grad, "worst": worst, "matrix": matrix, "losses": losses, "answers": answers}


if __name__ == "__main__":
    run(lesson)
