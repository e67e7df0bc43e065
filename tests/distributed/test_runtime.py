"""A world of one takes the same path without a process group."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn

from minillm.distributed.config import ParallelConfig
from minillm.distributed.parallelize import replicate, without_sync
from minillm.distributed.runtime import Runtime, start


def test_without_torchrun_there_is_one_process_and_no_group(monkeypatch: pytest.MonkeyPatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    runtime = start(ParallelConfig(), torch.device("cpu"))
    assert (runtime.rank, runtime.world_size, runtime.is_main) == (0, 1, True)
    assert not dist.is_initialized()
    runtime.barrier()
    runtime.close()


def test_alone_nothing_is_sent():
    runtime = Runtime()
    assert runtime.sum([1.5, 2]) == [1.5, 2] and runtime.broadcast("x") == "x"
    model = nn.Linear(2, 2)
    assert replicate(model, runtime) is model
    with without_sync(model, runtime):
        pass


def test_the_last_rank_does_not_write():
    assert [Runtime(rank=rank, world_size=2).is_main for rank in (0, 1)] == [True, False]
