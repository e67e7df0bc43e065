"""Training steps of a GPT, a BERT and a T5: minillm, transformers and, for the GPT, nanoGPT's shape in plain torch.

All sides take whole steps, clipping and AdamW included, on the same batch.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from minillm.benchmark import plain_gpt, shapes
from minillm.benchmark.machine import DTYPES, Machine, synchronize
from minillm.benchmark.turns import Ready, Side
from minillm.distributed.config import ParallelConfig
from minillm.distributed.parallelize import parallelize
from minillm.distributed.runtime import Runtime
from minillm.models.profile import profile
from minillm.training.config import OptimConfig
from minillm.training.memory import kept_memory
from minillm.training.optim import Optimizer
from minillm.training.precision import Compute, choose_device
from minillm.training.step import StepFunction

HERE = "minillm.benchmark.training_sides"
PEER = {"GOMP_SPINCOUNT": "300000"}
"""What GNU's OpenMP does by itself; importing this package would make its threads wait passively."""


def sides(name: str, machine: Machine, peers: tuple[str, ...]) -> list[Side]:
    """Ours first, in the dtype that `auto` chooses; peers as users run them (fp32) and in the fastest dtype."""
    best, comparable = machine.fast[-1], shapes.SHAPES[name]().comparable
    found = [Side("minillm", best, f"{HERE}:minillm", {"name": name, "dtype": best}, "as `minillm train` runs it")]
    for dtype in dict.fromkeys(("fp32", best)):
        if comparable:
            found.append(Side("plain torch", dtype, f"{HERE}:plain", {"dtype": dtype}, "nanoGPT's shape", PEER))
        if "transformers" in peers:
            found.append(Side("transformers", dtype, f"{HERE}:transformers", {"name": name, "dtype": dtype}, "", PEER))
    return found


def limit(name: str, machine: Machine, side: Side) -> float | None:
    """Tokens per second if all arithmetic ran at the speed of a large product; None if tokens cost unequal work."""
    shape = shapes.SHAPES[name]()
    return machine.flops[side.dtype] / profile(shape.config).flops_per_token if shape.comparable else None


def minillm(name: str, dtype: str) -> Ready:
    """The trainer's own step, with memory kept between steps as the trainer does."""
    shape, device = shapes.SHAPES[name](), choose_device()
    model = shapes.ours(shape)
    compute = Compute(device, DTYPES[dtype], compile=device.type == "cuda")
    parallelize(model, None, ParallelConfig(), compile=compute.compile)
    model.to(device)
    optimizer = Optimizer(model, OptimConfig())
    step = StepFunction(model, shape.objective, optimizer, compute=compute, runtime=Runtime(), clip=1.0, seed=0)
    counts = {name: float(count) for name, count in shape.batch.counts.items()}
    kept = ExitStack()  # until the process ends
    kept.enter_context(kept_memory(device))

    def turn() -> int:
        step(0, [shape.batch], counts=counts, lr_scale=1.0)
        synchronize()
        return shape.num_tokens

    turn.kept = kept  # type: ignore[attr-defined]
    return Ready(turn, lambda: [step.gradient(0, [shape.batch], counts=counts).item()])


def plain(dtype: str) -> Ready:
    """nanoGPT's shape in plain torch with our weights."""
    shape = shapes.gpt()
    layers = shapes.LAYERS
    model = plain_gpt.PlainGPT(plain_gpt.Shape(shapes.CHARACTERS, shapes.CONTEXT, shapes.WIDTH, layers, layers))
    model.load_state_dict(plain_gpt.plain_weights(shapes.ours(shape).state_dict(), layers))
    rows = torch.cat((shape.batch.inputs["tokens"], shape.batch.labels["lm"][:, -1:]), 1).to(choose_device())
    return _peer(model, lambda: model(rows), dtype, shape.num_tokens)


def transformers(name: str, dtype: str) -> Ready:
    """transformers' model."""
    shape = shapes.SHAPES[name]()
    build: Callable[[Any], Any] = getattr(shapes, f"transformers_{name}")
    model, loss = build(shape)
    return _peer(model, loss, dtype, shape.num_tokens)


def _peer(model: nn.Module, loss: Callable[[], Tensor], dtype: str, num_tokens: int) -> Ready:
    """A peer's training step: forward, backward, clip, fused AdamW; compiled on CUDA."""
    device = choose_device()
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    compiled = torch.compile(loss) if device.type == "cuda" else loss

    def forward() -> Tensor:
        with torch.autocast(device.type, DTYPES[dtype], enabled=dtype != "fp32"):
            return compiled()

    def turn() -> int:
        optimizer.zero_grad(set_to_none=True)
        forward().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        synchronize()
        return num_tokens

    with torch.no_grad():
        first = forward().item()
    return Ready(turn, lambda: [first])
