"""The loss that all objectives share."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from minillm.nn.kernels import cross_entropy
from minillm.objectives.base import IGNORE_INDEX, Batch, cross_entropy_sum, plain_cross_entropy_sum

LOGITS = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([[1, IGNORE_INDEX, 4], [0, 2, IGNORE_INDEX]])


def by_hand(smoothing: float = 0.0, z_loss: float = 0.0) -> float:
    total = 0.0
    for row, targets in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        for logits, target in zip(row, targets, strict=True):
            if target != IGNORE_INDEX:
                log_z = math.log(sum(map(math.exp, logits)))
                nll = [log_z - x for x in logits]
                total += (1 - smoothing) * nll[target] + smoothing * sum(nll) / 5 + z_loss * log_z**2
    return total


@pytest.mark.parametrize(("smoothing", "z_loss"), [(0, 0), (0.1, 0), (0, 0.01), (0.3, 0.5)])
def test_the_loss_is_a_sum_over_targets_only(smoothing: float, z_loss: float):
    found = cross_entropy_sum(LOGITS, LABELS, label_smoothing=smoothing, z_loss=z_loss)
    assert found.item() == pytest.approx(by_hand(smoothing, z_loss), rel=1e-6)


def test_positions_without_a_target_have_no_gradient_and_no_loss():
    logits = LOGITS.clone().requires_grad_()
    cross_entropy_sum(logits, LABELS, label_smoothing=0.1, z_loss=0.1).backward()
    assert logits.grad is not None
    assert (logits.grad.abs().sum(-1) > 0).equal(LABELS != IGNORE_INDEX)
    loss = cross_entropy_sum(logits, torch.full_like(LABELS, IGNORE_INDEX), label_smoothing=0.1, z_loss=0.1)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0 and gradient.count_nonzero() == 0


def test_the_loss_of_half_precision_logits_is_computed_in_fp32():
    rough = LOGITS.bfloat16()
    found = cross_entropy_sum(rough, LABELS)
    assert found.dtype == torch.float32
    assert found.item() == cross_entropy_sum(rough.float(), LABELS).item()


def test_moving_a_batch_moves_all_its_tensors():
    batch = Batch({"tokens": torch.zeros(1, 2)}, {"lm": torch.zeros(1, 2)}, {"lm": 2})
    moved = batch.to(torch.device("meta"))
    assert moved.inputs["tokens"].is_meta and moved.labels["lm"].is_meta and moved.counts == {"lm": 2}


@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.01), (0.3, 0.5)])
def test_cross_entropy_in_blocks_equals_its_plain_form(monkeypatch, smoothing: float, z_loss: float):
    monkeypatch.setattr(cross_entropy, "BLOCK", 7 * 3)  # blocks of three rows, the last of two
    generator = torch.Generator().manual_seed(1)
    logits = (torch.randn(11, 7, generator=generator) * 3).requires_grad_()
    labels = torch.randint(7, (11,), generator=generator)
    labels[[2, 10]] = IGNORE_INDEX
    ours = cross_entropy_sum(logits, labels, label_smoothing=smoothing, z_loss=z_loss)
    plain = plain_cross_entropy_sum(logits, labels, label_smoothing=smoothing, z_loss=z_loss)
    torchs = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
    torchs = torchs + z_loss * logits.logsumexp(-1)[labels != IGNORE_INDEX].square().sum()
    gradient = torch.autograd.grad(0.25 * ours, logits)[0]
    for other in (plain, torchs):
        assert ours.item() == pytest.approx(other.item(), rel=1e-6)
        assert torch.allclose(gradient, torch.autograd.grad(0.25 * other, logits)[0], atol=1e-6)


def test_the_gradient_of_half_precision_logits_is_rounded_once():
    rough = (LOGITS * 4).bfloat16().requires_grad_()
    wide = rough.detach().float().requires_grad_()
    for logits in (rough, wide):
        (cross_entropy_sum(logits, LABELS) / 3).backward()
    assert rough.grad is not None and wide.grad is not None
    assert rough.grad.equal(wide.grad.bfloat16())
