"""What the parity tests share: random weights everywhere, and how far two results are apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn


def _relative(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest expected value."""
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.fixture(scope="session")
def relative() -> Callable[[Tensor, Tensor], float]:
    return _relative


@pytest.fixture(scope="session")
def randomize() -> Callable[[nn.Module], None]:
    def fill(model: nn.Module) -> None:
        """Every parameter from N(0, 0.2^2), vectors around 0.5: biases and norms too, so that a swapped one shows."""
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.ndim == 1) * 0.5)

    return fill


@pytest.fixture(scope="session")
def check_gradients() -> Callable[[nn.Module, Mapping[str, Tensor]], None]:
    def check(model: nn.Module, expected: Mapping[str, Tensor]) -> None:
        """Every parameter's gradient equals the expected one, relative to the largest of its tensor.

        Key biases shift all scores of a query alike and have no gradient but rounding: near zero on both sides.
        """
        largest = max(gradient.abs().max().item() for gradient in expected.values())
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            if expected[name].abs().max() < 1e-6 * largest:
                assert parameter.grad.abs().max() < 1e-6 * largest, name
            else:
                assert _relative(parameter.grad, expected[name]) < 1e-5, name

    return check


@pytest.fixture
def dropouts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], float]]:
    """Shape and probability of every dropout from here on, those inside the fused attention kernel included."""
    seen: list[tuple[tuple[int, ...], float]] = []
    drop, attend = nn.functional.dropout, nn.functional.scaled_dot_product_attention

    def dropout(x, p=0.5, training=True, inplace=False):
        if training and p:
            seen.append((tuple(x.shape), p))
        return drop(x, p, training, inplace)

    def attention(q, k, v, **options):
        if options.get("dropout_p"):
            seen.append(((*q.shape[:3], k.size(2)), options["dropout_p"]))
        return attend(q, k, v, **options)

    monkeypatch.setattr(nn.functional, "dropout", dropout)
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", attention)
    return seen
