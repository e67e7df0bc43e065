import pytest
import torch
from torch import nn

from minillm.models.build import build_model
from minillm.models.presets import preset
from minillm.nn.config import ModelConfig


def test_it_is_a_chain_of_linear_layers_and_activations():
    config = ModelConfig(family="mlp", input_shape=(2, 3), hidden_sizes=(5, 4), activation="tanh", heads=("class:3",))
    model = build_model(config)
    model.init_weights(torch.Generator().manual_seed(0))
    layers = [*model.layers.values(), model.heads["class"].proj]
    chain = nn.Sequential(nn.Flatten(), layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])
    features = torch.randn(7, 2, 3)
    assert torch.allclose(model(features).logits["class"], chain(features), atol=1e-6)
    assert [layer.weight.shape for layer in layers] == [(5, 6), (4, 5), (3, 4)]


def test_without_hidden_layers_it_is_a_linear_function_with_a_bias():
    model = build_model(ModelConfig(family="mlp", input_shape=(4,), heads=("value",)))
    model.init_weights(torch.Generator().manual_seed(0))
    a, b = torch.randn(2, 3, 4)
    f = lambda x: model(x).logits["value"][:, 0, 0]  # noqa: E731
    assert torch.allclose(f(a + b), f(a) + f(b) - f(torch.zeros(3, 4)), atol=1e-6)
    assert len(list(model.parameters())) == 2


def test_dropout_acts_in_training_only():
    model = build_model(preset("mlp-digits", dropout=0.5))
    model.init_weights(torch.Generator().manual_seed(0))
    image = torch.randn(1, 1, 28, 28)
    model.eval()
    assert torch.equal(model(image).hidden, model(image).hidden)
    model.train()
    assert not torch.equal(model(image).hidden, model(image).hidden)


@pytest.mark.parametrize(
    ("shape", "wrong"),
    [
        ({"family": "mlp", "heads": ("class:2",)}, r"model\.input_shape is not set"),
        ({"family": "vit", "heads": ("class:2",), "input_shape": (1, 28, 28)}, r"divisible by model\.patch_size 16"),
        ({"family": "vit", "heads": ("class:2",), "input_shape": (28,)}, r"a vit reads channels, height and width"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(shape, wrong):
    with pytest.raises(ValueError, match=wrong):
        build_model(ModelConfig(**shape))
