"""How a run is spread over processes, as data. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """Data parallelism over the processes that torchrun starts."""

    backend: Literal["auto", "gloo", "nccl"] = "auto"
    """Communication library; auto: nccl on CUDA, gloo elsewhere."""
    timeout: int = 600
    """Seconds that a rank waits for the others before it gives up."""

    def __post_init__(self) -> None:
        """Raise ValueError with the key and its range where a value lies outside it."""
        if self.backend not in ("auto", "gloo", "nccl"):
            raise ValueError(f"parallel.backend is {self.backend!r}; it must be one of auto, gloo, nccl")
        if self.timeout < 1:
            raise ValueError(f"parallel.timeout is {self.timeout}; it must be at least 1 second")
