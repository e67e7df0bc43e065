"""Advantages and KL estimators against their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from minillm.objectives.advantages import (
    KL,
    Trajectory,
    all_equal,
    gae,
    group_advantages,
    group_estimate,
    value_estimate,
)
from minillm.objectives.policy_config import GRPOConfig, PPOConfig

GROUPS = np.array([7, 3, 7, 3, 7])
REWARDS = np.array([1.0, 2.0, 0.0, 5.0, 0.5])
PLAIN: dict[str, Any] = {"leave_one_out": False, "scale": False}


def test_a_group_is_known_by_its_number_not_by_its_place():
    assert group_advantages(REWARDS, GROUPS, **PLAIN).tolist() == [0.5, -1.5, -0.5, 1.5, 0.0]


def test_leave_one_out_subtracts_the_mean_of_the_others():
    expected = [1.0 - 0.25, 2.0 - 5.0, 0.0 - 0.75, 5.0 - 2.0, 0.5 - 0.5]
    assert group_advantages(REWARDS, GROUPS, leave_one_out=True, scale=False) == pytest.approx(expected)


def test_scaled_advantages_have_the_groups_standard_deviation():
    found = group_advantages(REWARDS, GROUPS, leave_one_out=False, scale=True)
    assert found[GROUPS == 7] == pytest.approx(np.array([0.5, -0.5, 0.0]) / (0.5 + 1e-4))
    assert found[GROUPS == 3] == pytest.approx(np.array([-1.5, 1.5]) / (np.sqrt(4.5) + 1e-4))


@pytest.mark.parametrize("size", [0.1, 0.3, 1e6 + 0.1])
def test_rounding_is_no_difference(size: float):
    """Sums of the same parts in another order differ in the last bit, which a division by their spread blows up."""
    rewards = np.array([size, np.nextafter(size, np.inf), size, np.nextafter(size, 0)])
    assert rewards.std() > 0 and all_equal(rewards)
    assert not group_advantages(rewards, np.zeros(4, int), leave_one_out=False, scale=True).any()
    assert not all_equal(rewards + np.array([0, 1e-6 * size, 0, 0]))


def test_a_group_of_one_raises():
    with pytest.raises(ValueError, match=r"objective\.num_generations must be at least 2"):
        group_advantages(np.array([1.0, 2.0, 3.0]), np.array([0, 0, 1]), **PLAIN)
    with pytest.raises(ValueError, match=r"objective\.num_generations is 1; it must be at least 2"):
        GRPOConfig(num_generations=1)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.8, 0.0)])
def test_gae_is_the_discounted_sum_of_the_errors_of_the_values(gamma: float, lam: float):
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=6), rng.normal(size=6)
    errors = rewards + gamma * np.append(values[1:], 0) - values
    expected = [sum((gamma * lam) ** (k - t) * errors[k] for k in range(t, 6)) for t in range(6)]
    assert gae(rewards, values, gamma=gamma, lam=lam) == pytest.approx(expected)


def test_with_lambda_one_gae_is_what_follows_minus_the_value():
    rewards, values = np.array([0.0, 1.0, 2.0]), np.array([0.3, 0.2, 0.1])
    assert gae(rewards, values, gamma=1.0, lam=1.0) == pytest.approx([3 - 0.3, 3 - 0.2, 2 - 0.1])


@pytest.mark.parametrize(("name", "exact"), [("k1", True), ("k2", False), ("k3", True)])
def test_k1_and_k3_estimate_the_exact_divergence_without_bias(name: str, exact: bool):
    rng = torch.Generator().manual_seed(0)
    policy, reference = torch.randn(2, 9, generator=rng, dtype=torch.float64).log_softmax(-1)
    divergence = (policy.exp() * (policy - reference)).sum().item()
    estimate = (policy.exp() * KL[name](reference - policy)).sum().item()
    assert (abs(estimate - divergence) < 1e-12) == exact
    assert all((KL[name](torch.tensor([-2.0, 0.0, 3.0])) >= 0).tolist()) == (name != "k1")


def test_k2_is_close_where_the_distributions_are():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(9, generator=rng, dtype=torch.float64)
    policy = logits.log_softmax(-1)
    reference = (logits + 1e-2 * torch.randn(9, generator=rng, dtype=torch.float64)).log_softmax(-1)
    divergence = (policy.exp() * (policy - reference)).sum().item()
    assert (policy.exp() * KL["k2"](reference - policy)).sum().item() == pytest.approx(divergence, rel=2e-2)


def row(reward: float, length: int, group: int = 0, **tokens: list[float]) -> Trajectory:
    arrays = {name: np.array(values, np.float32) for name, values in tokens.items()}
    return Trajectory(np.array([1]), np.arange(length), group, False, reward, tokens=arrays)


def test_a_divergence_in_the_reward_is_taken_from_the_whole_completion_or_from_each_token():
    tokens: dict[str, Any] = {"old": [-1.0, -2.0], "reference": [-1.5, -1.0]}
    group = [row(1.0, 2, **tokens), row(0.0, 2, old=[-1.0, -1.0], reference=[-1.0, -1.0])]
    config = GRPOConfig(kl=0.1, kl_in="reward", kl_estimator="k1", advantage="rloo", scale_by_std=False)
    first, second = group_estimate(group, config)
    paid = 1.0 - 0.1 * (0.5 - 1.0)
    assert first["advantage"] == pytest.approx([paid, paid]) and second["advantage"] == pytest.approx([-paid, -paid])

    one = row(1.0, 2, **tokens, value=[0.2, 0.4])
    (found,) = value_estimate([one], PPOConfig(kl=0.1, lam=1.0, whiten=False))
    assert found["return"] == pytest.approx([1.0 - 0.1 * (0.5 - 1.0), 1.0 + 0.1 * 1.0])
    assert found["advantage"] == pytest.approx(found["return"] - [0.2, 0.4])


def test_whitened_advantages_have_mean_zero_and_variance_one_over_the_rollout():
    rows = [row(1.0, 2, value=[0.2, 0.4]), row(-1.0, 3, value=[0.0, 0.1, 0.5])]
    found = np.concatenate([tokens["advantage"] for tokens in value_estimate(rows, PPOConfig(kl=0.0))])
    assert found.mean() == pytest.approx(0, abs=1e-12) and found.std() == pytest.approx(1, rel=1e-6)


def test_k1_in_the_loss_has_no_gradient_and_is_refused():
    with pytest.raises(ValueError, match=r"objective\.kl_estimator is k1, whose gradient in the loss is zero"):
        GRPOConfig(kl=0.1, kl_estimator="k1")
