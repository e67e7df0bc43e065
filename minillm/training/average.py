"""An exponential moving average of the weights (Polyak and Juditsky 1992).

A checkpoint's model.safetensors holds the averaged weights, so evaluation, sampling and export use them; the weights
that training continues with are in optimizer.safetensors.
"""

# pyright: reportPrivateImportUsage=false
# torch's _foreach functions are not public

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

WEIGHT = "weight"
"""Name of a weight under training in the optimizer's state."""


class WeightAverage:
    """a <- decay * a + (1 - decay) * w after every step, starting with the first weights."""

    def __init__(self, params: Mapping[Tensor, str], decay: float) -> None:
        """`params` are the trained weights w with their names."""
        self.names, self.decay = params, decay
        self.params = list(params)
        self.others = [p.detach().clone() for p in self.params]
        """The averages; inside `swapped`, the weights under training."""
        self._inside = False

    @torch.no_grad()
    def start(self) -> None:
        """Start again with the weights that the model has now."""
        torch._foreach_copy_(self.others, self.params)

    def state_dict(self) -> dict[str, Tensor]:
        """The weights under training, by `parameter name/weight`."""
        weights = self.others if self._inside else self.params
        return {f"{name}/{WEIGHT}": w for name, w in zip(self.names.values(), weights, strict=True)}

    @torch.no_grad()
    def update(self) -> None:
        """Include the weights of a new step."""
        torch._foreach_lerp_(self.others, self.params, 1 - self.decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within this context, the model has the averaged weights. Contexts may be nested."""
        if self._inside:
            yield
            return
        self._swap()
        self._inside = True
        try:
            yield
        finally:
            self._inside = False
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for p, other in zip(self.params, self.others, strict=True):
            kept = p.clone()
            p.copy_(other)
            other.copy_(kept)
