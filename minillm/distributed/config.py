"""Settings of distributed training. Does not import torch."""

from dataclasses import dataclass
from typing import Literal

from minillm.settings import check, setting


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Data parallelism over the processes that torchrun starts."""

    backend: Literal["auto", "gloo", "nccl"] = setting("auto")
    """Communication library; auto: nccl on CUDA, gloo elsewhere."""
    timeout: int = setting(600, at_least=1)
    """Seconds that a rank waits for the others before it fails."""

    def __post_init__(self) -> None:
        check("parallel", self)
