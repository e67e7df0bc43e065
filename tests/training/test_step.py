"""One step: the same gradient however the batch is cut, and nothing that is not finite is applied."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from minillm.distributed.runtime import Runtime
from minillm.objectives.base import IGNORE_INDEX, Batch
from minillm.objectives.clm import CausalLM
from minillm.training.config import OptimConfig
from minillm.training.optim import Optimizer
from minillm.training.precision import Compute
from minillm.training.step import StepFunction

CPU = Compute(torch.device("cpu"), torch.float32, compile=False)
OBJECTIVE = CausalLM(pad_id=22, label_smoothing=0.1, z_loss=1e-3)


def step_of(model: nn.Module, compute: Compute = CPU, **kwargs: Any) -> StepFunction:
    config = OptimConfig(**kwargs)
    optimizer = Optimizer(model, config)
    return StepFunction(model, OBJECTIVE, optimizer, compute=compute, runtime=Runtime(), clip=config.clip, seed=3)


def rows(lengths: Sequence[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    return [rng.integers(0, 20, length + 1) for length in lengths]


def batch(examples: Sequence[np.ndarray]) -> Batch:
    return OBJECTIVE.collate(examples, lambda i: np.random.default_rng(i))


def without_targets(examples: Sequence[np.ndarray]) -> Batch:
    made = batch(examples)
    return Batch(made.inputs, {"lm": torch.full_like(made.labels["lm"], IGNORE_INDEX)}, {"lm": 0})


def counts(batches: Sequence[Batch]) -> dict[str, float]:
    return {"lm": sum(b.counts["lm"] for b in batches)}


def gradient_of(model: nn.Module, batches: Sequence[Batch], compute: Compute = CPU) -> tuple[float, dict[str, Tensor]]:
    step = step_of(model, compute)
    loss = step.gradient(1, batches, counts=counts(batches))
    return loss.item(), {n: p.grad.double().clone() for n, p in model.named_parameters() if p.grad is not None}


LENGTHS = [12, 1, 7, 12, 3, 2, 12, 5]
SPLITS = [[8], [4, 4], [3, 3, 2], [1, 7], [7, 1], [2, 1, 4, 1], [1] * 8]


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_every_split_into_micro_batches_gives_the_same_gradient(make_gpt: Callable, split: list[int]):
    model = make_gpt()
    examples = rows(LENGTHS)
    loss, expected = gradient_of(model, [batch(examples)])
    starts = np.cumsum([0, *split])
    parts = [batch(examples[a:b]) for a, b in pairwise(starts)]
    parts.insert(len(parts) // 2, without_targets(examples[:2]))
    found_loss, found = gradient_of(model, parts)
    assert found_loss == pytest.approx(loss, rel=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = max(gradient.norm().item(), 1e-4)
        assert (found[name] - gradient).norm().item() <= 1e-6 * scale, name


def test_the_loss_is_the_mean_over_all_targets_and_not_a_mean_of_means(make_gpt: Callable):
    model = make_gpt()
    parts = [batch([r]) for r in rows([12, 1])]
    sums = [OBJECTIVE.loss(model(**b.inputs), b.labels, training=True)["lm"].loss.item() for b in parts]
    assert gradient_of(model, parts)[0] == pytest.approx(sum(sums) / 13, rel=1e-6)
    assert abs(sum(sums) / 13 - (sums[0] / 12 + sums[1] / 1) / 2) > 1e-3


def test_a_batch_without_targets_applies_only_weight_decay(make_gpt: Callable):
    model = make_gpt()
    before = {n: p.clone() for n, p in model.named_parameters()}
    empty = [without_targets(rows([4, 4]))]
    result = step_of(model, weight_decay=0.0)(1, empty, counts={"lm": 0}, lr_scale=1.0)
    assert (result.loss, result.grad_norm, result.applied) == (0.0, 0.0, True)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_dropout_is_a_function_of_step_and_micro_batch(make_gpt: Callable):
    model = make_gpt(dropout=0.3).train()
    same = [batch(rows([12, 12]))] * 2
    _, first = gradient_of(model, same)
    torch.manual_seed(77)
    torch.rand(5)
    _, again = gradient_of(model, same)
    assert all(torch.equal(first[n], again[n]) for n in first)
    step = step_of(model)
    masks = []
    for number, micro in ((1, 0), (1, 1), (2, 0)):
        torch.manual_seed(step._dropout_seed(number, micro))
        masks.append(tuple(torch.rand(4).tolist()))
    assert len(set(masks)) == 3


def test_gradients_are_clipped_and_the_reported_norm_is_before_clipping(make_gpt: Callable):
    examples = [batch(rows(LENGTHS))]
    norms, gradients = {}, {}
    for clip in (0.0, 0.01, 1e6):
        model = make_gpt()
        norms[clip] = step_of(model, clip=clip)(1, examples, counts=counts(examples), lr_scale=0.0).grad_norm
        gradients[clip] = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert norms[0.0] == norms[0.01] == norms[1e6] > 0.1
    assert gradients[0.01].norm().item() == pytest.approx(0.01, rel=1e-3)
    assert torch.equal(gradients[0.0], gradients[1e6])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_nonfinite_gradient_is_not_applied(make_gpt: Callable, bad: float):
    model = make_gpt()
    step = step_of(model)
    good = [batch(rows(LENGTHS))]
    step(1, good, counts=counts(good), lr_scale=1.0)
    before = {n: t.clone() for n, t in [*model.named_parameters(), *step.optimizer.state_dict().items()]}
    total = step.gradient(2, good, counts=counts(good))
    next(model.parameters()).grad[0] = bad  # pyright: ignore[reportOptionalSubscript]
    result = step.update(total, lr_scale=1.0)
    assert not result.applied and not math.isfinite(result.grad_norm) and math.isfinite(result.loss)
    after = dict([*model.named_parameters(), *step.optimizer.state_dict().items()])
    assert all(torch.equal(after[n], t) for n, t in before.items())
    assert step(3, good, counts=counts(good), lr_scale=1.0).applied, "the next step is a clean one"


def test_a_nonfinite_loss_is_not_applied(make_gpt: Callable):
    model = make_gpt()
    step = step_of(model)
    good = [batch(rows(LENGTHS))]
    before = [p.clone() for p in model.parameters()]
    step.gradient(1, good, counts=counts(good))
    result = step.update(torch.tensor(math.inf), lr_scale=1.0)
    assert not result.applied and all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_bf16_keeps_weights_gradients_and_loss_in_fp32(make_gpt: Callable):
    model = make_gpt()
    examples = [batch(rows(LENGTHS))]
    exact, expected = gradient_of(model, examples)
    rough, found = gradient_of(model, examples, Compute(torch.device("cpu"), torch.bfloat16, compile=False))
    assert rough == pytest.approx(exact, rel=0.01) and rough != exact
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())
    whole, other = (torch.cat([g.flatten() for g in gs.values()]) for gs in (expected, found))
    assert torch.nn.functional.cosine_similarity(whole, other, dim=0) > 0.99


class FakeScaler:
    """What torch's GradScaler does, on a CPU; `overflow` makes a step's gradients infinite."""

    def __init__(self, scale: float = 1024.0) -> None:
        self.value, self.overflow, self.found = scale, False, False

    def is_enabled(self) -> bool:
        return True

    def get_scale(self) -> float:
        return self.value

    def scale(self, loss: Tensor) -> Tensor:
        return loss * (math.inf if self.overflow else self.value)

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad /= self.value
                self.found |= not bool(p.grad.isfinite().all())

    def update(self) -> None:
        self.value *= 0.5 if self.found else 1.0
        self.found = False

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.value}


@pytest.mark.parametrize("rule", ["adamw", "muon"])
def test_loss_scaling_does_not_change_the_step_and_overflow_skips_it(make_gpt: Callable, rule: str):
    examples = [batch(rows(LENGTHS)), batch(rows([3, 4]))]
    plain, scaled = make_gpt(), make_gpt()
    expected = step_of(plain, name=rule)(1, examples, counts=counts(examples), lr_scale=1.0)
    step = step_of(scaled, name=rule)
    scaler: Any = FakeScaler()
    step.scaler = scaler
    scaler.overflow = True
    assert not step(1, examples, counts=counts(examples), lr_scale=1.0).applied
    assert scaler.value == 512
    scaler.overflow = False
    result = step(1, examples, counts=counts(examples), lr_scale=1.0)
    assert (result.loss, result.applied) == (expected.loss, True)
    assert result.grad_norm == pytest.approx(expected.grad_norm, rel=1e-6)
    for p, q in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)
