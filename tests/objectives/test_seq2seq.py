"""Text to text: the input is read, the target is written, and no loss falls on what is read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minillm.models.build import build_model
from minillm.nn.config import ModelConfig
from minillm.objectives.base import IGNORE_INDEX
from minillm.objectives.seq2seq import Seq2Seq

PAD, EOS, SEP = 50, 51, 52
OBJECTIVE = Seq2Seq(pad_id=PAD, eos_id=EOS, sep_id=SEP, max_len=6)


def row(source: list[int], target: list[int]) -> np.ndarray:
    return np.array([*source, SEP, *target, EOS])


def collate(*rows: np.ndarray):
    return OBJECTIVE.collate(rows, lambda i: pytest.fail("text to text draws nothing"))


def test_the_encoder_gets_the_input_and_the_decoder_the_target_with_eos():
    batch = collate(row([1, 2, 3], [4, 5]), row([6], [7, 8, 9]))
    assert batch.inputs["encoder_tokens"].tolist() == [[1, 2, 3, EOS], [6, EOS, PAD, PAD]]
    assert batch.inputs["encoder_valid"].tolist() == [[True] * 4, [True, True, False, False]]
    assert batch.inputs["decoder_tokens"].tolist() == [[PAD, 4, 5, EOS], [PAD, 7, 8, 9]]
    assert batch.labels["lm"].tolist() == [[4, 5, EOS, IGNORE_INDEX], [7, 8, 9, EOS]]
    assert batch.counts == {"lm": 7}


def test_a_long_input_keeps_its_eos_and_a_long_target_has_none():
    batch = collate(row(list(range(9)), list(range(10, 19))))
    assert batch.inputs["encoder_tokens"].tolist() == [[0, 1, 2, 3, 4, EOS]]
    assert batch.labels["lm"].tolist() == [[10, 11, 12, 13, 14, 15]]


def test_a_target_with_the_pad_id_is_still_learned():
    assert collate(row([1], [PAD, 2])).labels["lm"].tolist() == [[PAD, 2, EOS]]


def test_positions_without_a_label_and_padding_have_no_gradient():
    shape = ModelConfig(
        family="t5", vocab_size=53, max_seq_len=8, d_model=16, num_layers=1, num_heads=2, position="t5", init="fan_in"
    )
    model = build_model(shape)
    model.init_weights(torch.Generator().manual_seed(0))
    batch = collate(row([1, 2, 3], [4, 5]), row([6], [7, 8, 9]))
    output = model(**batch.inputs)
    output.logits["lm"].retain_grad()
    OBJECTIVE.loss(output, batch.labels, training=True)["lm"].loss.backward()
    assert output.logits["lm"].grad[batch.labels["lm"] == IGNORE_INDEX].eq(0).all()
    alone = [model(**collate(one).inputs).logits["lm"] for one in (row([1, 2, 3], [4, 5]), row([6], [7, 8, 9]))]
    assert output.logits["lm"][0, :3].allclose(alone[0][0], atol=1e-5) and output.logits["lm"][1].allclose(
        alone[1][0], atol=1e-5
    )
