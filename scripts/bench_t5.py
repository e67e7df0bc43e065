"""T5 training throughput beside transformers' own: the same shape, span-corrupted batch and AdamW, taking turns.

python scripts/bench_t5.py      (needs the test extra; run it alone on the machine)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from minillm import build_model, preset
from minillm.objectives.span import SpanCorruption
from minillm.training.config import OptimConfig
from minillm.training.optim import Optimizer

SOURCE, BATCH, VOCAB, WIDTH, ROUNDS = 512, 16, 8192, 256, 5
SHAPE: dict[str, Any] = {"num_layers": 4, "num_heads": 4, "d_ff": 1024, "vocab_size": VOCAB, "d_model": WIDTH}


def take_step(optimizer: Optimizer, loss: Callable[[], Tensor], dtype: torch.dtype) -> None:
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        value = loss()
    value.backward()
    nn.utils.clip_grad_norm_(list(optimizer.names), 1.0)
    optimizer.step(1.0)


def main() -> None:
    objective = SpanCorruption(pad_id=0, eos_id=1, sentinels=tuple(range(VOCAB - 100, VOCAB)))
    rows = np.random.default_rng(0).integers(2, VOCAB - 100, size=(BATCH, objective.noise.raw_length(SOURCE) + 1))
    batch = objective.collate(list(rows), lambda row: np.random.default_rng(row))
    ours = build_model(preset("t5-small", dropout=0.0, head_scale=WIDTH**-0.5, **SHAPE))
    ours.init_weights(torch.Generator().manual_seed(0))
    theirs: Any = T5ForConditionalGeneration(T5Config(d_kv=64, dropout_rate=0.0, **SHAPE)).train()
    theirs.config.decoder_start_token_id = 0
    losses: list[Callable[[], Tensor]] = [
        lambda: objective.loss(ours(**batch.inputs), batch.labels, training=True)["lm"] / batch.counts["lm"],
        lambda: theirs(input_ids=batch.inputs["encoder_tokens"], labels=batch.labels["lm"]).loss,
    ]
    optimizers = [Optimizer(ours, OptimConfig()), Optimizer(theirs, OptimConfig())]
    for dtype in (torch.float32, torch.bfloat16):
        times: list[list[float]] = [[], []]
        for turn in range(2 * ROUNDS + 2):
            began = time.perf_counter()
            take_step(optimizers[turn % 2], losses[turn % 2], dtype)
            if turn > 1:  # the first of each is a warm-up
                times[turn % 2].append(time.perf_counter() - began)
        fast, slow = (BATCH * (SOURCE + batch.labels["lm"].size(1)) / median(side) for side in times)
        print(f"{dtype}: minillm {fast:,.0f} tokens/s, transformers {slow:,.0f}, ratio {fast / slow:.2f}")


if __name__ == "__main__":
    main()
