"""Training steps of a GPT-2 shape with a character vocabulary: minillm, nanoGPT's shape in plain torch, transformers.

All sides take whole steps, clipping and AdamW included, on the same rows from the same weights.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minillm.benchmark.machine import DTYPES, Machine, synchronize
from minillm.benchmark.plain_gpt import PlainGPT, Shape, plain_weights
from minillm.benchmark.turns import Ready, Side
from minillm.distributed.config import ParallelConfig
from minillm.distributed.parallelize import parallelize
from minillm.distributed.runtime import Runtime
from minillm.exchange.gpt2_weights import gpt2_map
from minillm.exchange.weight_map import weights_to_hf
from minillm.models.build import build_model
from minillm.models.profile import profile
from minillm.nn.config import ModelConfig
from minillm.objectives.clm import CausalLM
from minillm.training.config import OptimConfig
from minillm.training.memory import kept_memory
from minillm.training.optim import Optimizer
from minillm.training.precision import Compute, choose_device
from minillm.training.step import StepFunction

VOCAB, CONTEXT, ROWS, WIDTH, LAYERS = 65, 256, 16, 384, 6
WORK = f"train GPT {LAYERS} x {WIDTH}, batch {ROWS} x {CONTEXT}"


def sides(machine: Machine, peers: tuple[str, ...]) -> list[Side]:
    """Ours first: in the dtype that `auto` chooses; peers as users run them and in the fastest dtype."""
    best = machine.fast[-1]
    here = "minillm.benchmark.training"
    found = [Side("minillm", best, f"{here}:minillm", {"dtype": best}, "as `minillm train` runs it")]
    for dtype in dict.fromkeys(("fp32", best)):
        found.append(Side("plain torch", dtype, f"{here}:plain", {"dtype": dtype}, "nanoGPT's shape"))
        if "transformers" in peers:
            found.append(Side("transformers", dtype, f"{here}:transformers", {"dtype": dtype}))
    return found


def limit(machine: Machine, side: Side) -> float:
    """Tokens per second if all arithmetic ran at the speed of a large matrix product in the side's dtype."""
    return machine.flops[side.dtype] / profile(_config()).flops_per_token


def _config() -> ModelConfig:
    return ModelConfig(
        preset="gpt2", vocab_size=VOCAB, max_seq_len=CONTEXT, d_model=WIDTH, num_layers=LAYERS, num_heads=LAYERS
    )


def _model() -> Any:
    """The same weights for all sides."""
    model = build_model(_config())
    model.init_weights(torch.Generator().manual_seed(0))
    return model


def _rows() -> Tensor:
    """(B, T + 1) the same tokens for all sides."""
    return torch.randint(VOCAB, (ROWS, CONTEXT + 1), generator=torch.Generator().manual_seed(0))


def minillm(dtype: str) -> Ready:
    """The trainer's own step, with memory kept between steps as the trainer does."""
    device, model = choose_device(), _model()
    compute = Compute(device, DTYPES[dtype], compile=device.type == "cuda")
    parallelize(model, None, ParallelConfig(), compile=compute.compile)
    model.to(device)
    objective = CausalLM(0)
    batch = objective.collate(list(_rows().numpy()), np.random.default_rng)
    step = StepFunction(
        model, objective, Optimizer(model, OptimConfig()), compute=compute, runtime=Runtime(), clip=1.0, seed=0
    )
    counts = {name: float(count) for name, count in batch.counts.items()}
    kept = ExitStack()
    kept.enter_context(kept_memory(device))

    def turn(scale: float = 1.0) -> int:
        step(turn.number, [batch], counts=counts, lr_scale=scale)  # type: ignore[attr-defined]
        turn.number += 1  # type: ignore[attr-defined]
        synchronize()
        return ROWS * CONTEXT

    turn.number, turn.kept = 0, kept  # type: ignore[attr-defined]
    return Ready(turn, lambda: [step.gradient(0, [batch], counts=counts).item()])


def plain(dtype: str) -> Ready:
    """nanoGPT's shape in plain torch, compiled on CUDA."""
    model = PlainGPT(Shape(VOCAB, CONTEXT, WIDTH, LAYERS, LAYERS))
    model.load_state_dict(plain_weights(_model().state_dict(), LAYERS))
    return _peer(model, model, dtype)


def transformers(dtype: str) -> Ready:
    """transformers' GPT-2, without dropout."""
    import transformers as package

    settings: dict[str, Any] = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    settings |= {"n_positions": CONTEXT, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": LAYERS}
    settings |= {"vocab_size": VOCAB, "bos_token_id": None, "eos_token_id": None, "activation_function": "gelu"}
    model: Any = package.GPT2LMHeadModel(package.GPT2Config(**settings))
    ours = _model()
    model.load_state_dict(weights_to_hf(ours.state_dict(), gpt2_map(ours.config), LAYERS))

    def loss(rows: Tensor) -> Tensor:
        logits = model(rows[:, :-1]).logits
        return nn.functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())

    return _peer(model, loss, dtype)


def _peer(model: nn.Module, loss: Callable[[Tensor], Tensor], dtype: str) -> Ready:
    """A peer's training step: forward, backward, clip, fused AdamW."""
    device, rows = choose_device(), _rows()
    model.to(device).train()
    rows = rows.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    compiled = torch.compile(loss) if device.type == "cuda" else loss

    def forward() -> Tensor:
        context: AbstractContextManager[object] = torch.autocast(device.type, DTYPES[dtype], enabled=dtype != "fp32")
        with context:
            return compiled(rows)

    def turn() -> int:
        optimizer.zero_grad(set_to_none=True)
        forward().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        synchronize()
        return ROWS * CONTEXT

    with torch.no_grad():
        first = forward().item()
    return Ready(turn, lambda: [first])
