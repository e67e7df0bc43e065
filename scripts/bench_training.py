"""Training throughput beside transformers' GPT-2: the same shape, batch and AdamW, taking turns in one run.

python scripts/bench_training.py      (needs the test extra; run it alone on the machine)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from minillm import ModelConfig, build_model
from minillm.training.config import OptimConfig
from minillm.training.optim import Optimizer

LAYERS, HEADS, WIDTH, CONTEXT, BATCH, VOCAB, ROUNDS = 6, 6, 384, 256, 16, 65, 5


def step(
    model: torch.nn.Module, logits: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype
) -> Callable[[], None]:
    """A function that takes one whole training step."""
    optimizer = Optimizer(model, OptimConfig())
    rows = torch.randint(VOCAB, (BATCH, CONTEXT + 1), generator=torch.Generator().manual_seed(0))

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype) if dtype != torch.float32 else nullcontext():
            scores = logits(rows[:, :-1])
        F.cross_entropy(scores.flatten(0, 1).float(), rows[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(1.0)

    return run


def main() -> None:
    ours = build_model(
        ModelConfig(vocab_size=VOCAB, max_seq_len=CONTEXT, d_model=WIDTH, num_layers=LAYERS, num_heads=HEADS)
    )
    ours.init_weights(torch.Generator().manual_seed(0))
    none: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    theirs = GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCAB, n_positions=CONTEXT, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, **none)
    ).train()
    for dtype in (torch.float32, torch.bfloat16):
        runs = step(ours, lambda x: ours(x).logits, dtype), step(theirs, lambda x: theirs(x).logits, dtype)
        times: list[list[float]] = [[], []]
        for round_number in range(ROUNDS + 1):
            for run, mine in zip(runs, times, strict=True):
                began = time.perf_counter()
                run()
                if round_number:  # the first is a warm-up
                    mine.append(time.perf_counter() - began)
        speed = [BATCH * CONTEXT / statistics.median(side) for side in times]
        print(
            f"{dtype}: minillm {speed[0]:,.0f} tokens/s, transformers {speed[1]:,.0f}, ratio {speed[0] / speed[1]:.2f}"
        )


if __name__ == "__main__":
    main()
