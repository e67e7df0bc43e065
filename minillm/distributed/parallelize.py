"""Distributes a model over ranks.

The order is `build_model` on the meta device, `parallelize`, `materialize`, optimizer, so that a sharded model never
has to fit on one device. The only mesh axis so far is "data", which shards nothing; FSDP, tensor and pipeline axes
belong in `parallelize`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from minillm.distributed.config import ParallelConfig
from minillm.distributed.runtime import Runtime
from minillm.nn.block import Block


def build_mesh(runtime: Runtime) -> DeviceMesh | None:
    """A mesh of all ranks with one axis, "data"; None for a single process."""
    if runtime.world_size == 1:
        return None
    return init_device_mesh(runtime.device.type, (runtime.world_size,), mesh_dim_names=("data",))


def parallelize(model: nn.Module, mesh: DeviceMesh | None, config: ParallelConfig, *, compile: bool) -> None:
    """Prepare a model on the meta device for this rank, in place.

    Each rank holds the whole model so far. Blocks are compiled in place, so parameters keep their names.
    """
    assert mesh is None or mesh.mesh_dim_names == ("data",), f"no axis but data yet, backend {config.backend}"
    if compile:
        for module in model.modules():
            if isinstance(module, Block):
                module.compile()


def materialize(model: nn.Module, device: torch.device, fill: Callable[[], None]) -> None:
    """Allocate a model that is on the meta device, call `fill` to initialize it on the CPU, and move it to `device`.

    Random numbers on the CPU are the same for every device.
    """
    model.to_empty(device="cpu")
    fill()
    model.to(device)


def replicate(model: nn.Module, runtime: Runtime) -> nn.Module:
    """The module for training: `model`, or with several ranks its data-parallel wrapper, which averages gradients."""
    if runtime.world_size == 1:
        return model
    ids = [runtime.device.index] if runtime.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)


def without_sync(model: Any, runtime: Runtime) -> AbstractContextManager[None]:
    """Context in which backward passes do not synchronize gradients, for all but the last accumulation step. `model` is
    the result of `replicate`.
    """
    return model.no_sync() if runtime.world_size > 1 else nullcontext()


def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gather sharded tensors from all ranks. Collective."""
    return {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in tensors.items()}
