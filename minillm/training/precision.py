"""Device, precision and compilation of a run.

Weights, gradients and optimizer state are fp32; autocast runs matrix products in bf16 or fp16 (Micikevicius et al.
2018). fp16 needs loss scaling.
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
    """Where and in which precision a run computes."""

    device: torch.device
    dtype: torch.dtype
    compile: bool

    def on(self, device: torch.device) -> Compute:
        """The same on another device, such as that of a rank."""
        return replace(self, device=device)

    def autocast(self) -> AbstractContextManager[object]:
        """Context for a forward pass."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaling, enabled only for fp16."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    @property
    def precision(self) -> str:
        """The dtype as a value of train.precision."""
        return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]

    def describe(self) -> str:
        """Such as `cpu (2 threads), bf16 autocast, eager`."""
        if self.device.type == "cpu":
            where = f"cpu ({torch.get_num_threads()} threads)"
        elif self.device.type == "cuda":
            where = f"cuda ({torch.cuda.get_device_name(self.device)})"
        else:
            where = self.device.type
        names = {torch.float32: "fp32", torch.bfloat16: "bf16 autocast", torch.float16: "fp16 autocast, scaled loss"}
        return f"{where}, {names[self.dtype]}, {'compiled' if self.compile else 'eager'}"


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; auto: the first available of cuda, mps and cpu. ValueError if there is none."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device, is_available in available.items() if is_available)
    if not available[name]:
        raise ValueError(f"train.device is {name}, but this machine has none; use train.device auto or cpu")
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of that name; auto: bf16 if the device is fast at it, else fp16 on a GPU, else fp32.

    ValueError if the device cannot train in it.
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
    """Whether this CPU multiplies bf16 matrices much faster than fp32 matrices, measured in 20 to 200 ms.

    CPU features do not tell: with AMX units bf16 is four times as fast as fp32, with AVX-512 BF16 alone it can be half
    as fast. Other processes slow some rounds down, so the fastest of each dtype are compared, and more rounds follow
    until bf16 is faster. A resumed run does not measure: the choice is in its config.
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
    """Whether to compile. auto: on CUDA only; on a CPU compilation takes 20 s and gains 10 % at most.

    ValueError for `on` without a C++ compiler, which torch.compile needs on a CPU.
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
    """`model` if its weights have the compute dtype, else a copy in that dtype.

    Decoding reads every weight for every token, so half the bytes nearly double the speed.
    """
    if all(p.dtype == compute.dtype for p in model.parameters()):
        return model
    return copy.deepcopy(model).to(compute.dtype)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed; on a CPU only torch's message tells."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
