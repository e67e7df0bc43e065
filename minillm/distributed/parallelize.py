"""Spread a finished single-device model over ranks, from outside. The model learns of none of this."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from minillm.distributed.runtime import Runtime
from minillm.nn.block import Block


def parallelize(model: nn.Module, runtime: Runtime) -> nn.Module:
    """The module to call in training: `model` itself, or its data-parallel wrapper, which averages gradients."""
    if runtime.world_size == 1:
        return model
    ids = [runtime.device.index] if runtime.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)


def compile_blocks(model: nn.Module) -> None:
    """Compile every block in place, so that names in checkpoints stay the plain module's."""
    for module in model.modules():
        if isinstance(module, Block):
            module.compile()


def without_sync(model: nn.Module) -> AbstractContextManager[None]:
    """Context in which a backward pass keeps its gradients to this rank: all but the last accumulation step."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()
