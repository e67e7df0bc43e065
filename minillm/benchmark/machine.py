"""The limits of this machine: matrix products per dtype, and memory reads. Speeds are shares of these limits."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from minillm.training.precision import choose_device, cpu_is_fast_at_bf16

ROUNDS = 8


class Machine(NamedTuple):
    """Measured limits of the processor."""

    device: str
    """Name and number of threads."""
    flops: dict[str, float]
    """dtype -> floating-point operations per second of a large matrix product."""
    read: float
    """Bytes per second read from memory."""
    fast: tuple[str, ...]
    """dtypes in which this machine is fast: fp32, and bf16 if its products are faster."""


def measure_machine() -> Machine:
    """Measure the limits in about two seconds."""
    device = choose_device()
    fast = ("fp32", "bf16") if device.type != "cpu" or cpu_is_fast_at_bf16() else ("fp32",)
    size, flops = (1024 if device.type == "cpu" else 8192), {}
    for name in fast:
        a, b = (torch.randn(size, size, device=device, dtype=DTYPES[name]) for _ in range(2))
        flops[name] = 2 * size**3 / fastest(lambda a=a, b=b: a @ b)
    elements = 2**26 if device.type == "cpu" else 2**30  # 256 MB or 4 GB, more than any cache
    x = torch.ones(elements, device=device)
    read = 4 * elements / fastest(lambda: x.sum())
    return Machine(device_name(device), flops, read, fast)


def better(first: Machine, second: Machine) -> Machine:
    """The higher limits of two measurements: a busy machine only seems slower."""
    flops = {name: max(speed, second.flops[name]) for name, speed in first.flops.items()}
    return first._replace(flops=flops, read=max(first.read, second.read))


def fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of some rounds: other programs only slow a round down."""
    times = []
    for _ in range(ROUNDS):
        synchronize()
        began = time.perf_counter()
        work()
        synchronize()
        times.append(time.perf_counter() - began)
    return min(times)


def synchronize() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device_name(device: torch.device) -> str:
    """Such as `AMD EPYC, AVX-512, 2 threads`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        import platform

        return platform.processor() or platform.machine()


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
