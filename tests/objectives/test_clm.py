"""Causal language modelling: every next token, EOS too, padding never."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from minillm.nn.output import Output
from minillm.objectives.base import IGNORE_INDEX, Batch
from minillm.objectives.clm import CausalLM

PAD, EOS = 9, 8


def collate(*rows: list[int]) -> Batch:
    return CausalLM(PAD).collate([np.array(row) for row in rows], lambda row: pytest.fail("clm draws nothing"))


def test_each_token_is_predicted_from_the_tokens_before_it():
    batch = collate([1, 2, 3, 4], [5, 6, 7, EOS])
    assert batch.inputs["tokens"].tolist() == [[1, 2, 3], [5, 6, 7]]
    assert batch.labels["lm"].tolist() == [[2, 3, 4], [6, 7, EOS]]
    assert batch.counts == {"lm": 6} and list(batch.inputs) == ["tokens"]


def test_short_rows_are_padded_at_the_end_and_masked_by_length():
    batch = collate([1, 2, EOS], [3, 4, 5, 6, 7])
    assert batch.inputs["tokens"].tolist() == [[1, 2, EOS, PAD], [3, 4, 5, 6]]
    assert batch.labels["lm"].tolist() == [[2, EOS, IGNORE_INDEX, IGNORE_INDEX], [4, 5, 6, 7]]
    assert batch.counts == {"lm": 6}


def test_a_token_with_the_pad_id_is_still_a_target():
    batch = collate([1, PAD, 2], [PAD, PAD, 3])
    assert batch.labels["lm"].tolist() == [[PAD, 2], [PAD, 3]] and batch.counts == {"lm": 4}


def test_the_count_is_the_number_of_labels_for_rows_of_any_length():
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = [rng.integers(0, 8, rng.integers(1, 9)).tolist() for _ in range(rng.integers(1, 5))]
        rows[0] = [1, 2]
        batch = collate(*rows)
        assert batch.counts["lm"] == (batch.labels["lm"] != IGNORE_INDEX).sum() == sum(len(r) - 1 for r in rows)


def test_collating_does_not_change_the_rows():
    row = np.array([1, 2, 3], np.uint16)
    row.setflags(write=False)
    CausalLM(PAD).collate([row], lambda i: np.random.default_rng(0))
    assert row.tolist() == [1, 2, 3]


def test_label_smoothing_and_z_loss_apply_in_training_only():
    objective, plain = CausalLM(PAD, label_smoothing=0.2, z_loss=0.1), CausalLM(PAD)
    logits = torch.randn(1, 3, 10, generator=torch.Generator().manual_seed(0))
    output, labels = Output(logits, {"lm": logits}), collate([1, 2, 3, EOS]).labels
    evaluated = objective.loss(output, labels, training=False)["lm"].loss
    assert all(evaluated == plain.loss(output, labels, training=mode)["lm"].loss for mode in (True, False))
    assert objective.loss(output, labels, training=True)["lm"].loss != evaluated
