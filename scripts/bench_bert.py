"""BERT training throughput beside transformers' BertForMaskedLM: the same shape, batch, masks and AdamW, taking turns.

python scripts/bench_bert.py      (needs the test extra; run it alone on the machine)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from minillm import build_model, preset
from minillm.objectives.base import IGNORE_INDEX
from minillm.objectives.mlm import MaskedLM
from minillm.training.config import OptimConfig
from minillm.training.optim import Optimizer

LENGTH, BATCH, VOCAB, ROUNDS = 128, 32, 8192, 7


def main() -> None:
    pad, mask, cls, sep = range(VOCAB - 4, VOCAB)
    objective = MaskedLM(pad_id=pad, mask_id=mask, cls_id=cls, sep_id=sep, ordinary=np.arange(VOCAB) < pad)
    rows = [np.random.default_rng(row).integers(pad, size=LENGTH - 1) for row in range(BATCH)]
    batch = objective.collate(rows, np.random.default_rng)
    labels = batch.labels
    everywhere = torch.full((BATCH, LENGTH), IGNORE_INDEX).scatter(1, batch.inputs["predict_at"], labels["mlm"])
    ours = build_model(preset("bert-mini", vocab_size=VOCAB))
    ours.init_weights(torch.Generator().manual_seed(0))
    shape = BertConfig(
        hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024, vocab_size=VOCAB
    )
    theirs = BertForMaskedLM(shape).eval()  # without dropout, as ours is
    sides: list[tuple[Optimizer, Callable[[], Tensor]]] = [
        (Optimizer(ours, OptimConfig()), lambda: objective.loss(ours(**batch.inputs), labels, training=True)["mlm"]),
        (Optimizer(theirs, OptimConfig()), lambda: theirs(batch.inputs["tokens"], labels=everywhere).loss),
    ]
    for dtype in (torch.float32, torch.bfloat16):
        times: list[list[float]] = [[], []]
        for turn in range(2 * ROUNDS + 2):
            optimizer, loss = sides[turn % 2]
            began = time.perf_counter()
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                value = loss()
            value.backward()
            optimizer.step(1.0)
            if turn >= 2:  # the first of each is a warm-up
                times[turn % 2].append(time.perf_counter() - began)
        fast, slow = (BATCH * LENGTH / median(side) for side in times)
        print(f"{dtype}: minillm {fast:,.0f} tokens/s, transformers {slow:,.0f}, ratio {fast / slow:.2f}")


if __name__ == "__main__":
    main()
