import math

import pytest
import torch

from minillm.nn.config import ModelConfig
from minillm.nn.feedforward import ACTIVATIONS, FeedForward
from minillm.nn.kernels.relu2 import plain_relu2_, relu2_

FORMULAS = {
    "relu": lambda x: max(x, 0.0),
    "relu2": lambda x: max(x, 0.0) ** 2,
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
}


def test_every_activation_has_a_formula():
    assert ACTIVATIONS.keys() == FORMULAS.keys()


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("gated", [False, True])
@torch.no_grad()
def test_feedforward_equals_a_loop_over_hidden_units(name, gated):
    torch.manual_seed(0)
    module = FeedForward(ModelConfig(d_model=4, d_ff=6, num_heads=1, activation=name, gated=gated))
    x = torch.randn(1, 3, 4) * 2
    expected = torch.zeros_like(x)
    for t in range(3):
        y = module.down.bias.clone()
        for f in range(6):
            up = float(module.up.weight[f] @ x[0, t] + module.up.bias[f])
            if module.gate is None:
                hidden = FORMULAS[name](up)
            else:
                hidden = FORMULAS[name](float(module.gate.weight[f] @ x[0, t] + module.gate.bias[f])) * up
            y += hidden * module.down.weight[:, f]
        expected[0, t] = y
    assert torch.allclose(module(x), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_squared_relu_equals_its_plain_form(dtype):
    torch.manual_seed(0)
    x, g = (torch.randn(3, 5, 7).to(dtype) for _ in range(2))
    x[0, 0], x[0, 1] = 0.0, -0.0
    results = []
    for activation in (relu2_, plain_relu2_):
        leaf = x.clone().requires_grad_()
        y = activation(leaf * 1)  # a copy, because it is overwritten
        y.backward(g)
        assert leaf.grad is not None
        results.append((y, leaf.grad))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert (results[0][1] != 0).sum() == (x > 0).sum()
    assert torch.equal(relu2_(x.clone()), x.relu() ** 2)


def test_dropout_applies_to_hidden_units_in_training_only():
    module, x = FeedForward(ModelConfig(d_model=4, num_heads=1, dropout=0.5)), torch.randn(2, 3, 4)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))
    dry = FeedForward(ModelConfig(d_model=4, num_heads=1, dropout=0.5, ff_dropout=0.0))
    assert torch.equal(dry(x), dry(x))


def test_shapes_hold_on_the_meta_device():
    with torch.device("meta"):
        module = FeedForward(ModelConfig(d_model=8, d_ff=20, num_heads=1, gated=True, bias=False))
        assert module(torch.empty(2, 3, 8)).shape == (2, 3, 8)
        assert sum(p.numel() for p in module.parameters()) == 3 * 8 * 20
