"""The average of the weights over the last part of training (Polyak and Juditsky 1992).

A checkpoint's model.safetensors holds the average, so evaluation, sampling and export use it. The weights that training
continues with are in optimizer.safetensors.
"""

# pyright: reportPrivateImportUsage=false
# torch's _foreach functions are not public

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

WEIGHT = "weight"
"""Last part of the name of a weight among the optimizer's tensors."""


class WeightAverage:
    """Averages weights; after step t, the share of step s is about proportional to (s / t) ** power.

    An exponential moving average covers a fixed number of steps; this one covers a fixed fraction of the steps so far,
    so the same setting suits short and long runs (Karras et al. 2024, section 3.1).
    """

    def __init__(self, params: Mapping[Tensor, str], span: float) -> None:
        """`params` are the trained weights with their names; `span` is `optim.average`, and 0 turns averaging off.

        The mean age of the weights in the average is `span` * t, which makes the power 1 / `span` - 2.
        """
        self.names, self.span = params, span
        self.params = list(params)
        self.others = [p.detach().clone() for p in self.params] if span else []
        """The averages; inside `swapped`, the weights that training continues with."""
        self._inside = False

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Include the weights after `step`, which counts from 1."""
        if self.span:
            torch._foreach_lerp_(self.others, self.params, 1 - (1 - 1 / step) ** (1 / self.span - 1))

    def state_dict(self) -> dict[str, Tensor]:
        """The weights that training continues with, by `parameter name/weight`; empty without averaging."""
        weights = self.others if self._inside else self.params
        return {f"{self.names[p]}/{WEIGHT}": w for p, w in zip(self.params, weights, strict=True)} if self.span else {}

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Restore the weights that training continues with, and return the other tensors.

        The model already has the weights of the checkpoint's other file, which are the averages if there are any.
        ValueError if weights are missing.
        """
        if self.span:
            torch._foreach_copy_(self.others, self.params)
        own = {name: tensor for name, tensor in tensors.items() if name.rpartition("/")[2] == WEIGHT}
        missing = sorted({f"{name}/{WEIGHT}" for name in self.names.values()} - own.keys()) if own else []
        if missing:
            raise ValueError(f"the checkpoint lacks {len(missing)} weights that training needs, such as {missing[0]}")
        for p, name in self.names.items() if own else ():
            p.copy_(own[f"{name}/{WEIGHT}"])
        return {name: tensor for name, tensor in tensors.items() if name not in own}

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within this context, the model has the averaged weights. Contexts may be nested."""
        if self._inside or not self.span:
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
