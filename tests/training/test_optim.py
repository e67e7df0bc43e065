"""AdamW and Muon: groups, updates, and state by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minillm.models.build import build_model
from minillm.models.presets import preset
from minillm.training.config import OptimConfig
from minillm.training.optim import NEWTON_SCHULZ, Muon, Optimizer, hidden_matrices, orthogonalize

SMALL = {"num_layers": 2, "d_model": 32, "num_heads": 4, "vocab_size": 40, "max_seq_len": 16}


def model_of(name: str) -> nn.Module:
    grouped = {"num_kv_heads": 2, "d_ff": 48} if name == "llama-small" else {}
    model = build_model(preset(name, **{**SMALL, **grouped}))
    model.init_weights(torch.Generator().manual_seed(0))
    return model


def fill_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


@pytest.mark.parametrize("name", ["gpt2", "llama-small", "gpt-nano"])
@pytest.mark.parametrize("rule", ["adamw", "muon"])
def test_every_parameter_is_in_exactly_one_group_and_only_matrices_decay(name: str, rule: Any):
    model = model_of(name)
    optimizer = Optimizer(model, OptimConfig(name=rule, weight_decay=0.1))
    groups = [group for one in optimizer.optimizers for group in one.param_groups]
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    for group in groups:
        for p in group["params"]:
            decays = p.ndim >= 2
            assert group["weight_decay"] == (0.1 if decays else 0.0), optimizer.names[p]
    undecayed = {optimizer.names[p] for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    assert undecayed == {n for n, p in model.named_parameters() if "norm" in n or n.endswith("bias")}


def test_muon_takes_hidden_matrices_and_leaves_embeddings_and_head():
    model = model_of("gpt-nano")  # whose head is not tied
    optimizer = Optimizer(model, OptimConfig(name="muon"))
    (taken,) = [one.param_groups[0]["params"] for one in optimizer.optimizers if isinstance(one, Muon)]
    names = {optimizer.names[p] for p in taken}
    assert names == {n for n, p in model.named_parameters() if n.startswith("decoder.") and p.ndim == 2}
    tied = model_of("gpt2")
    assert not {id(p) for p in hidden_matrices(tied)} & {id(p) for p in tied.get_submodule("embed").parameters()}


def test_frozen_parameters_are_not_trained():
    model = model_of("gpt2")
    frozen = next(p for p in hidden_matrices(model))
    frozen.requires_grad_(False)
    before = frozen.clone()
    optimizer = Optimizer(model, OptimConfig(name="muon"))
    fill_gradients(model, 0)
    frozen.grad = None
    optimizer.step(1.0)
    assert torch.equal(frozen, before) and frozen not in optimizer.names


def test_adamw_follows_the_paper():
    model = model_of("gpt2")
    config = OptimConfig(lr=1e-2, beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=0.3)
    reference = {name: p.detach().clone().double() for name, p in model.named_parameters()}
    first = {name: torch.zeros_like(p) for name, p in reference.items()}
    second = {name: torch.zeros_like(p) for name, p in reference.items()}
    optimizer = Optimizer(model, config)
    for step in range(1, 4):
        fill_gradients(model, step)
        factor = 1 / step
        optimizer.step(factor)
        for name, p in model.named_parameters():
            assert p.grad is not None
            g, w, lr = p.grad.double(), reference[name], factor * config.lr
            first[name].lerp_(g, 1 - config.beta1)
            second[name].lerp_(g**2, 1 - config.beta2)
            w *= 1 - lr * (config.weight_decay if p.ndim >= 2 else 0)
            m, v = first[name] / (1 - config.beta1**step), second[name] / (1 - config.beta2**step)
            w -= lr * m / (v.sqrt() + config.eps)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.double(), reference[name], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 32), (2, 32, 8), (1, 5, 7)])
def test_muon_updates_are_nearly_orthogonal(shape: tuple[int, int, int]):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    found = orthogonalize(matrices)
    assert found.shape == shape
    singular = torch.linalg.svdvals(found.float())
    assert singular.min() > 0.5 and singular.max() < 1.35
    u, _, vt = torch.linalg.svd(matrices, full_matrices=False)
    alignment = (found.float() * (u @ vt)).sum((-2, -1)) / min(shape[1:])
    assert (alignment > 0.85).all()


def test_muon_computes_in_the_given_dtype_and_stores_fp32():
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        model = model_of("gpt-nano")
        optimizer = Optimizer(model, OptimConfig(name="muon", weight_decay=0.0), dtype=dtype)
        start = [p.detach().clone() for p in hidden_matrices(model)]
        fill_gradients(model, 1)
        optimizer.step(1.0)
        results.append([p.detach() - w for p, w in zip(hidden_matrices(model), start, strict=True)])
        assert {value.dtype for value in optimizer.state_dict().values()} == {torch.float32}
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    for exact, rounded in zip(*results, strict=True):
        assert 1e-4 < (exact - rounded).norm() / exact.norm() < 0.03


def plain_muon(weight: Tensor, grad: Tensor, buffer: Tensor, *, lr: float, momentum: float, decay: float) -> None:
    """One matrix at a time, as Jordan et al. write it."""
    buffer.mul_(momentum).add_(grad, alpha=1 - momentum)
    update = grad * (1 - momentum) + buffer * momentum
    transposed = update.size(0) > update.size(1)
    x = update.T if transposed else update
    x = x / (x.norm() + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = x.T if transposed else x
    weight.mul_(1 - lr * decay).add_(x.float(), alpha=-lr * max(1, weight.size(0) / weight.size(1)) ** 0.5)


def test_muon_equals_a_loop_over_matrices():
    model = model_of("llama-small")
    config = OptimConfig(name="muon", muon_lr=0.1, momentum=0.9, weight_decay=0.1)
    names = {p: n for n, p in model.named_parameters()}
    reference = {names[p]: p.detach().clone() for p in hidden_matrices(model)}
    start = {name: p.clone() for name, p in reference.items()}
    buffers = {name: torch.zeros_like(p) for name, p in reference.items()}
    optimizer = Optimizer(model, config)
    for step in range(3):
        fill_gradients(model, step)
        optimizer.step(0.5)
        for p in hidden_matrices(model):
            assert p.grad is not None
            plain_muon(reference[names[p]], p.grad, buffers[names[p]], lr=0.05, momentum=0.9, decay=0.1)
    for p in hidden_matrices(model):
        name = names[p]
        moved = (reference[name] - start[name]).norm()
        assert (p - reference[name]).norm() < 1e-4 * moved, name


def test_batching_matrices_of_one_shape_does_not_change_the_update():
    matrices = torch.randn(5, 12, 20, generator=torch.Generator().manual_seed(5))
    together = orthogonalize(matrices)
    alone = torch.cat([orthogonalize(matrices[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_muon_rejects_vectors():
    with pytest.raises(ValueError, match="matrices only"):
        Muon([nn.Parameter(torch.zeros(3))], lr=0.1, momentum=0.9, weight_decay=0)


@pytest.mark.parametrize("rule", ["adamw", "muon"])
def test_state_is_restored_by_name_and_the_next_step_is_the_same(rule: Any):
    config = OptimConfig(name=rule)
    model, twin = model_of("gpt-nano"), model_of("gpt-nano")
    one = Optimizer(model, config)
    for step in range(2):
        fill_gradients(model, step)
        one.step(0.5)
    twin.load_state_dict(model.state_dict())
    two = Optimizer(twin, config)
    reordered = dict(sorted(one.state_dict().items(), reverse=True))
    two.load_state_dict({name: t.clone() for name, t in reordered.items()})
    for optimizer, owner in ((one, model), (two, twin)):
        fill_gradients(owner, 7)
        optimizer.step(0.25)
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q), name
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())


RATES: dict[str, float] = {"lr": 1e-2, "embedding_lr": 2e-2, "head_lr": 3e-2, "vector_lr": 5e-2}


def rate_of(name: str, p: Tensor) -> str:
    """The setting of each of AdamW's parameters, by names alone."""
    if p.ndim < 2:
        return "vector_lr"
    tables = ("embed.", "decoder.position.", "encoder.position.")
    return "embedding_lr" if name.startswith(tables) else "head_lr" if name.startswith("heads.") else "lr"


@pytest.mark.parametrize("name", ["gpt2", "llama-small", "gpt-nano", "t5-mini"])
@pytest.mark.parametrize("rule", ["adamw", "muon"])
def test_every_group_moves_at_its_own_rate_and_the_schedule_scales_all(name: str, rule: Any):
    model = build_model(preset(name, **{**SMALL, "tie_embeddings": name == "gpt2"}))
    model.init_weights(torch.Generator().manual_seed(0))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    rates = {key: rate for key, rate in RATES.items() if (key, name) != ("head_lr", "gpt2")}
    # the first step of Adam moves every entry by the learning rate itself
    optimizer = Optimizer(model, OptimConfig(name=rule, weight_decay=0.0, eps=1e-20, **rates))
    fill_gradients(model, 0)
    optimizer.step(0.25)
    hidden = {id(p) for p in hidden_matrices(model)} if rule == "muon" else set()
    moved = {n: (p - before[n]).abs() for n, p in model.named_parameters() if id(p) not in hidden}
    for n, distance in moved.items():
        expected = torch.full_like(distance, 0.25 * RATES[rate_of(n, distance)])
        torch.testing.assert_close(distance, expected, rtol=1e-3, atol=1e-7, msg=n)
    assert {rate_of(n, p) for n, p in moved.items()} == set(rates) - ({"lr"} if rule == "muon" else set())


def test_without_rates_of_their_own_all_are_trained_at_lr_in_the_groups_of_older_versions():
    (adamw,) = Optimizer(model_of("gpt-nano"), OptimConfig()).optimizers
    assert [(group["lr"], group["weight_decay"]) for group in adamw.param_groups] == [(1e-3, 0.1), (1e-3, 0.0)]


def test_separate_groups_update_like_a_single_one():
    one, other = model_of("gpt-nano"), model_of("gpt-nano")
    apart = torch.nextafter(torch.tensor(1e-3, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)).item()
    optimizers = [Optimizer(one, OptimConfig()), Optimizer(other, OptimConfig(embedding_lr=apart, head_lr=apart))]
    assert [len(optimizer.optimizers[0].param_groups) for optimizer in optimizers] == [2, 3]
    for step in range(3):
        for model, optimizer in zip((one, other), optimizers, strict=True):
            fill_gradients(model, step)
            optimizer.step(0.5)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def test_a_state_that_was_saved_without_rates_is_continued_with_them():
    saved = stepped("muon").state_dict()
    resumed = Optimizer(model_of("gpt-nano"), OptimConfig(name="muon", embedding_lr=0.1, head_lr=0.2))
    resumed.load_state_dict(saved)
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in saved.items())


@pytest.mark.parametrize(
    ("key", "model", "rule"),
    [
        ("head_lr", lambda: model_of("gpt2"), "adamw"),
        ("head_lr", lambda: model_of("gpt2"), "muon"),
        ("head_lr", lambda: build_model(preset("vit-digits")), "muon"),
        ("embedding_lr", lambda: nn.Linear(3, 2), "adamw"),
        ("vector_lr", lambda: nn.Linear(3, 2, bias=False), "adamw"),
    ],
)
def test_a_rate_that_no_parameter_uses_raises(key: str, model: Callable[[], nn.Module], rule: Any):
    with pytest.raises(ValueError, match=rf"^optim\.{key} has no effect: "):
        Optimizer(model(), OptimConfig(name=rule, **{key: 1e-2}))


def stepped(rule: Any, name: str = "gpt-nano") -> Optimizer:
    model = model_of(name)
    optimizer = Optimizer(model, OptimConfig(name=rule))
    fill_gradients(model, 0)
    optimizer.step(1.0)
    return optimizer


@pytest.mark.parametrize(
    ("stranger", "words"),
    [
        (lambda state: {**state, "nobody.weight/exp_avg": torch.zeros(1)}, "nobody.weight/exp_avg"),
        (lambda state: dict(list(state.items())[1:]), "names differ"),
        (lambda state: stepped("muon").state_dict(), "optim.name"),
        (lambda state: stepped("adamw", "gpt2").state_dict(), "names differ"),
        (lambda state: {k: torch.zeros(3, 3) if k.endswith("exp_avg") else v for k, v in state.items()}, "shape"),
    ],
)
def test_the_state_of_another_optimizer_raises(stranger: Callable[[dict[str, Tensor]], dict[str, Tensor]], words: str):
    optimizer = stepped("adamw")
    with pytest.raises(ValueError, match=words):
        optimizer.load_state_dict(stranger(optimizer.state_dict()))


def test_the_learning_rate_comes_from_the_schedule_not_from_the_saved_state():
    optimizer = stepped("muon")
    optimizer.step(0.25)
    rates = {type(one).__name__: {group["lr"] for group in one.param_groups} for one in optimizer.optimizers}
    assert rates == {"AdamW": {0.25 * 1e-3}, "Muon": {0.25 * 0.02}}
