"""What generation asks of any model, and what stands around one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor

from minillm.nn.config import ModelConfig


class Network(Protocol):
    """What is asked of any model here."""

    @property
    def config(self) -> ModelConfig:
        """Its shape."""
        ...

    @property
    def training(self) -> bool:
        """Whether dropout is on."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Switch dropout on or off."""
        ...

    def parameters(self) -> Iterator[Tensor]:
        """At least one; it tells the device."""
        ...


class Around:
    """Stands around a model and is a Network itself; what it reads otherwise, a subclass says."""

    model: Network

    @property
    def config(self) -> ModelConfig:
        """The model's."""
        return self.model.config

    @property
    def training(self) -> bool:
        """Whether the model's dropout is on."""
        return self.model.training

    def train(self, mode: bool = True) -> Any:
        """Switch the model's dropout on or off."""
        return self.model.train(mode)

    def parameters(self) -> Iterator[Tensor]:
        """The model's."""
        return self.model.parameters()


@contextmanager
def evaluating(model: Network) -> Iterator[None]:
    """Dropout off, and back as it was."""
    training = model.training
    model.train(False)
    try:
        yield
    finally:
        model.train(training)
