"""Ranks and their collective operations. A single process is a world of size 1 and runs the same code."""

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

# Imported before a process group exists, because its default arguments would keep the group alive. If a thread of the
# group outlives `Runtime.close`, the process aborts at exit.
import torch.distributed.nn.functional  # noqa: F401

from minillm.distributed.config import ParallelConfig

T = TypeVar("T")


@dataclass(frozen=True)
class Runtime:
    """The rank of this process."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sum each value over ranks, in fp64 so that token counts are exact."""
        if self.world_size == 1:
            return list(values)
        # gloo reduces fp64 on the CPU; NCCL needs the values on the GPU
        where = self.device if self.device.type == "cuda" else torch.device("cpu")
        tensor = torch.tensor(values, dtype=torch.float64, device=where)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def gather(self, items: list[T]) -> list[T]:
        """The items of all ranks, in the order of the ranks; every rank gets all of them."""
        if self.world_size == 1:
            return items
        boxes: list[list[T] | None] = [None] * self.world_size
        dist.all_gather_object(boxes, items)
        return [item for box in boxes if box is not None for item in box]

    def broadcast(self, value: T) -> T:
        """The value of the first rank."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, device=self.device if self.device.type == "cuda" else None)
        return box[0]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            dist.barrier()

    def close(self) -> None:
        """Leave the process group and end its threads."""
        if self.world_size > 1 and dist.is_initialized():
            gc.collect()  # the data-parallel wrapper, which is in a reference cycle, also holds the group
            dist.destroy_process_group()


def start(config: ParallelConfig, device: torch.device) -> Runtime:
    """Join the processes that torchrun started, if its environment variables are set."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return Runtime(device=device)
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    if device.type == "cuda":
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    backend = config.backend
    if backend == "auto":
        backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=config.timeout))
    return Runtime(rank, local_rank, world_size, device)
