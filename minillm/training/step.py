"""One optimizer step. Its gradient does not depend on how the global batch is split into micro-batches and ranks.

The loss of a step is sum / count for each label set. The count includes all micro-batches of all ranks and is known
before the first forward pass. A mean of micro-batch means would give targets in small micro-batches more weight.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from minillm.distributed.parallelize import without_sync
from minillm.distributed.runtime import Runtime
from minillm.objectives.base import Batch, Objective
from minillm.training.optim import Optimizer
from minillm.training.precision import Compute


@dataclass(frozen=True)
class StepResult:
    """The result of one step."""

    loss: float
    """Nats per target over the global batch, before the update."""
    grad_norm: float
    """Global norm before clipping."""
    applied: bool
    """False if loss or gradient was not finite; then no weight has changed."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Averages of `Score.figures` over the global batch."""


class StepFunction:
    """Computes and applies one step."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: Optimizer,
        *,
        compute: Compute,
        runtime: Runtime,
        clip: float,
        seed: int,
    ) -> None:
        """`model` is the plain module or its data-parallel wrapper."""
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self.compute, self.runtime = compute, runtime
        self.max_norm = clip or math.inf
        self.seed = seed
        self.scaler = compute.scaler()
        # On a GPU, eager code reads and writes the logits, the largest tensor of a step, several times.
        fused = compute.compile and compute.device.type == "cuda"
        self.fused_loss = torch.compile(objective.loss) if fused else None
        self.parameters = list(optimizer.names)
        self.figures: dict[str, Tensor] = {}

    def __call__(self, step: int, batches: Sequence[Batch], *, counts: dict[str, float], lr_scale: float) -> StepResult:
        """Take a step: `gradient`, then `update`."""
        return self.update(self.gradient(step, batches, counts=counts), lr_scale=lr_scale)

    def gradient(self, step: int, batches: Sequence[Batch], *, counts: dict[str, float]) -> Tensor:
        """Compute the gradients of this rank's micro-batches; returns this rank's part of the loss. Can be repeated.

        `counts` are the targets of each label set over all micro-batches of all ranks. The dropout of a micro-batch
        depends on seed, step, its number and the rank.
        """
        self.optimizer.zero_grad()
        self.figures = {}
        total = torch.zeros((), device=self.compute.device)
        for i, batch in enumerate(batches):
            torch.manual_seed(self._dropout_seed(step, i))
            batch = batch.to(self.compute.device)
            with without_sync(self.model, self.runtime) if i + 1 < len(batches) else nullcontext():
                with self.compute.autocast():
                    output = self.model(**batch.inputs)
                scores = (self.fused_loss or self.objective.loss)(output, batch.labels, training=True)
                loss = torch.stack([score.loss / max(1.0, counts[name]) for name, score in scores.items()]).sum()
                # the data-parallel wrapper averages over ranks, and the counts are already global
                self.scaler.scale(loss * self.runtime.world_size).backward()
            total += loss.detach()
            for name, pair in ((name, pair) for score in scores.values() for name, pair in score.figures.items()):
                self.figures[name] = self.figures.get(name, 0) + pair.detach().double()
        return total

    def update(self, total: Tensor, *, lr_scale: float) -> StepResult:
        """Clip and apply the gradients if they and the loss are finite; `total` is the result of `gradient`."""
        names = sorted(self.figures)
        loss, *sums = self.runtime.sum([total.item(), *(x for name in names for x in self.figures[name].tolist())])
        for optimizer in self.optimizer.optimizers:
            self.scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.max_norm).item()
        applied = math.isfinite(loss) and math.isfinite(norm)
        if applied:
            self.optimizer.step(lr_scale)
        if self.scaler.is_enabled():
            self.scaler.update()
        averages = (total / max(1.0, count) for total, count in zip(sums[::2], sums[1::2], strict=True))
        return StepResult(loss, norm, applied, dict(zip(names, averages, strict=True)))

    def _dropout_seed(self, step: int, micro: int) -> int:
        key = [self.seed, step, micro, self.runtime.rank]
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
