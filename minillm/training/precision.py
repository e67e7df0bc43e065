"""Where and in which arithmetic a run computes, chosen once and said in one line.

Weights, gradients and optimizer state are fp32; autocast runs the matrix products in bf16 or fp16
(Micikevicius et al. 2018). fp16 needs its loss scaled, bf16 does not.
"""

from __future__ import annotations

import copy
import functools
import shutil
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.utils._triton import has_triton

from minillm.training.config import TrainConfig


@dataclass(frozen=True)
class Compute:
    """The choice."""

    device: torch.device
    dtype: torch.dtype
    compile: bool

    def on(self, device: torch.device) -> Compute:
        """The same choice on another device, such as a rank's own."""
        return replace(self, device=device)

    def autocast(self) -> AbstractContextManager[object]:
        """Context of a forward pass."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaling, switched on for fp16 alone."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    @property
    def precision(self) -> str:
        """The choice as a value of train.precision."""
        return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]

    def describe(self) -> str:
        """For the line that says what was chosen: `cpu (2 threads), bf16 autocast, eager`."""
        if self.device.type == "cpu":
            where = f"cpu ({torch.get_num_threads()} threads)"
        elif self.device.type == "cuda":
            where = f"cuda ({torch.cuda.get_device_name(self.device)})"
        else:
            where = self.device.type
        names = {torch.float32: "fp32", torch.bfloat16: "bf16 autocast", torch.float16: "fp16 autocast, scaled loss"}
        return f"{where}, {names[self.dtype]}, {'compiled' if self.compile else 'eager'}"


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; auto: the first there is of cuda, mps, cpu.

    Raises:
        ValueError: the machine has no such device.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, there in available.items() if there)
    if not available[name]:
        raise ValueError(f"train.device is {name}, but this machine has none; use train.device auto or cpu")
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of that name; auto: bf16 where the device is fast at it, else fp16 on a GPU, else fp32.

    Raises:
        ValueError: the device cannot train in it.
    """
    if name == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        return torch.bfloat16 if device.type == "cpu" and cpu_is_fast_at_bf16() else torch.float32
    if name == "fp16" and device.type != "cuda":
        raise ValueError(f"train.precision fp16 needs a CUDA GPU, not {device.type}; use bf16, fp32 or auto")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


@functools.cache
def cpu_is_fast_at_bf16() -> bool:
    """Whether this processor multiplies bf16 matrices well faster than fp32 ones, measured in 20 to 200 ms.

    What the processor says it supports does not tell: with AMX units bf16 is four times as fast as fp32, while with
    AVX-512 BF16 alone it can be half as fast. Another process slows some rounds down, so the fastest of each kind
    count, and a doubtful answer is asked again. A resumed run does not measure: the choice is in its config.
    """
    if not getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)():
        return False  # emulated

    pairs = {
        dtype: (torch.ones(1024, 512, dtype=dtype), torch.ones(512, 1024, dtype=dtype))
        for dtype in (torch.bfloat16, torch.float32)
    }
    fastest = dict.fromkeys(pairs, float("inf"))
    for number in range(30):
        for dtype, (a, b) in pairs.items():
            began = time.perf_counter()
            a @ b
            fastest[dtype] = min(fastest[dtype], time.perf_counter() - began)
        if number >= 5 and fastest[torch.bfloat16] * 1.5 < fastest[torch.float32]:
            return True
    return False


def choose_compile(name: str, device: torch.device) -> bool:
    """auto: on CUDA; on a CPU the start-up of 20 s gains 10 % at most, so there only on request.

    Raises:
        ValueError: `on` where no C++ compiler is found, without which torch.compile cannot work on a CPU.
    """
    if name == "auto":
        return device.type == "cuda" and has_triton()
    if name == "on" and device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "cl"))):
        raise ValueError("train.compile on needs a C++ compiler (g++, clang++ or cl) on the PATH; use auto or off")
    return name == "on"


def choose(config: TrainConfig) -> Compute:
    """Device, dtype and compilation of a run."""
    device = choose_device(config.device)
    return Compute(device, choose_dtype(config.precision, device), choose_compile(config.compile, device))


def for_decoding(model: nn.Module, compute: Compute) -> nn.Module:
    """`model` with its weights in the compute dtype: decoding reads every weight for every token, so half the bytes
    are nearly twice the speed. A copy where the dtype is another; `model` itself stays as it is.
    """
    if all(p.dtype == compute.dtype for p in model.parameters()):
        return model
    return copy.deepcopy(model).to(compute.dtype)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed; on a CPU torch says so by its message alone."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
