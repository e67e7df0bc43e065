"""A multilayer perceptron (Rumelhart et al. 1986): without hidden layers, linear or logistic regression."""

from dataclasses import replace
from itertools import pairwise
from math import prod

import torch.nn.functional as F
from torch import Tensor, nn

from minillm.models.base import Model
from minillm.nn.config import ModelConfig
from minillm.nn.feedforward import ACTIVATIONS
from minillm.nn.heads import build_heads
from minillm.nn.output import Output


class MLP(Model):
    """flatten -> drop(act(W x + b)) for each hidden layer -> heads, which are linear."""

    writes, class_from = "nothing", "first"
    embedding = staticmethod(lambda config: nn.Flatten())

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        sizes = (prod(config.input_shape), *config.hidden_sizes)
        layers = (nn.Linear(a, b, bias=config.bias) for a, b in pairwise(sizes))
        self.layers = nn.ModuleDict({str(i): layer for i, layer in enumerate(layers)})
        self.activation, self.dropout, self.width = ACTIVATIONS[config.activation], config.dropout, sizes[-1]
        self.add_heads()

    def add_heads(self) -> None:
        """Heads of the width of the last layer."""
        shape = replace(self.config, d_model=self.width, num_heads=1, dropout=0.0)
        self.heads = build_heads(shape, transform=False, class_from=self.class_from)

    def forward(self, features: Tensor) -> Output:
        """Predict from `features` (B, *input_shape), any numbers of that shape."""
        x = self.embed(features)  # (B, F)
        for layer in self.layers.values():
            x = self.activation(layer(x))
            if self.training and self.dropout:
                x = F.dropout(x, self.dropout)
        return self.predict(x[:, None])  # one vector for each row
