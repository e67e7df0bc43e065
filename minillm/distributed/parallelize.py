"""Spread a model over ranks, from outside. The model learns nothing of this.

The order is: `build_model` on the meta device, `parallelize`, `materialize`, then the optimizer. A model that is
sharded before it has memory never needs the memory of one device. There is one mesh axis so far, "data", which shards
nothing; FSDP, tensor and pipeline axes belong in `parallelize`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from minillm.distributed.config import ParallelConfig
from minillm.distributed.runtime import Runtime
from minillm.nn.block import Block


def build_mesh(runtime: Runtime) -> DeviceMesh | None:
    """The ranks as a mesh of one axis, "data"; None for a single process."""
    if runtime.world_size == 1:
        return None
    return init_device_mesh(runtime.device.type, (runtime.world_size,), mesh_dim_names=("data",))


def parallelize(model: nn.Module, mesh: DeviceMesh | None, config: ParallelConfig, *, compile: bool) -> None:
    """Prepare a model that lies on the meta device for this rank, in place.

    With data parallelism alone each rank holds the whole model; blocks are compiled here, also in place, so that the
    names in checkpoints stay the plain module's.
    """
    assert mesh is None or mesh.mesh_dim_names == ("data",), f"no axis but data yet, backend {config.backend}"
    if compile:
        for module in model.modules():
            if isinstance(module, Block):
                module.compile()


def materialize(model: nn.Module, device: torch.device, fill: Callable[[], None]) -> None:
    """Give a model on the meta device its memory, this rank's share of it, and let `fill` write every weight.

    Filling runs on the CPU, where random numbers are the same for every device, and is copied to `device`.
    """
    model.to_empty(device="cpu")
    fill()
    model.to(device)


def replicate(model: nn.Module, runtime: Runtime) -> nn.Module:
    """The module to call in training: `model` itself, or its data-parallel wrapper, which averages gradients."""
    if runtime.world_size == 1:
        return model
    ids = [runtime.device.index] if runtime.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)


def without_sync(model: nn.Module) -> AbstractContextManager[None]:
    """Context in which a backward pass keeps its gradients to this rank: all but the last accumulation step."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as one device would hold them; collective, since a sharded one is gathered from all ranks."""
    return {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in tensors.items()}
