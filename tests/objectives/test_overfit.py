"""One batch can be learned by heart under each objective whose targets are written: model, labels and loss agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minillm.models.build import build_model
from minillm.nn.config import ModelConfig
from minillm.objectives.base import Objective
from minillm.objectives.prefix_lm import EncoderPrefixLM, PrefixLM
from minillm.objectives.seq2seq import Seq2Seq
from minillm.objectives.span import SpanCorruption

EOS, PAD = 30, 31
OBJECTIVES: dict[str, tuple[str, Objective]] = {
    "span": ("t5", SpanCorruption(pad_id=PAD, eos_id=EOS, sentinels=(25, 26, 27, 28))),
    "prefix_lm": ("gpt", PrefixLM(pad_id=PAD)),
    "prefix_lm of an encoder-decoder": ("t5", EncoderPrefixLM(pad_id=PAD, eos_id=EOS)),
    "seq2seq": ("t5", Seq2Seq(pad_id=PAD, eos_id=EOS, sep_id=29, max_len=16)),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_single_batch_can_be_overfitted(name: str):
    family, objective = OBJECTIVES[name]
    rng = np.random.default_rng(3)
    rows = [np.append(rng.integers(0, 25, n), EOS) for n in (15, 12, 9)]
    for row in rows:
        row[len(row) // 2] = 29
    batch = objective.collate(rows, lambda i: np.random.default_rng(i))
    shape = {"vocab_size": 32, "max_seq_len": 16, "d_model": 32, "num_layers": 1, "num_heads": 2}
    model = build_model(ModelConfig(family=family, **shape))  # type: ignore[arg-type]
    model.init_weights(torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        output = model(**batch.inputs)
        loss = objective.loss(output, batch.labels, training=True)["lm"].loss / batch.counts["lm"]
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    assert objective.loss(output, batch.labels, training=False)["lm"].correct == batch.counts["lm"]
