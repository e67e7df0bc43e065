"""Sampled trajectories, and their advantages and KL divergences: pure functions in float64, called once a rollout.

The gradient of the expected reward is E[A ∇ log π] for every A that differs from the reward by a number that does not
depend on the sample (Williams 1992). Leave-one-out and GAE with lam = 1 keep that property. A group's mean contains the
sample itself, which scales the gradient by (G - 1) / G; dividing by a group's standard deviation, and lam < 1, bias it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from minillm.objectives.policy_config import GRPOConfig, PPOConfig

STD_EPS = 1e-4
"""Added to a group's standard deviation."""
EQUAL = 1e-9
"""Rewards of a group whose range is at most this times their size count as equal: the rest is rounding."""

KL: dict[str, Callable[[Tensor], Tensor]] = {
    "k1": lambda r: -r,
    "k2": lambda r: r.square() / 2,
    "k3": lambda r: torch.expm1(r) - r,
}
"""Estimators of KL(π || reference) from r = log reference - log π of tokens sampled from π (Schulman 2020).

As values, k1 and k3 are unbiased. As parts of the reward only k1 has the gradient of the KL. As parts of the loss, k1
has gradient zero on average, k2 that of the KL of each token, and k3 that of KL(reference || π).
"""


@dataclass(frozen=True)
class Trajectory:
    """A prompt and a sampled completion."""

    prompt: np.ndarray
    """(S,) ids, at least one."""
    completion: np.ndarray
    """(T,) sampled ids, with EOS if it ended by itself; never decoded and encoded again."""
    group: int
    """Number of the prompt in the rollout."""
    truncated: bool
    """Whether it has no end."""
    reward: float = 0.0
    figures: Mapping[str, float] = field(default_factory=dict)
    """For metrics.jsonl."""
    tokens: Mapping[str, np.ndarray] = field(default_factory=dict)
    """(T,) fp32 each: advantage; old and reference log-probabilities; value and return."""


def group_advantages(rewards: np.ndarray, groups: np.ndarray, *, leave_one_out: bool, scale: bool) -> np.ndarray:
    """(N,) reward minus the mean of the completions of the same prompt; zero if all of them have the same reward.

    Args:
        rewards: (N,).
        groups: (N,) number of the prompt of each completion.
        leave_one_out: the mean is that of the other completions (RLOO, Ahmadian et al. 2024).
        scale: divide by the standard deviation of the group (Shao et al. 2024, section 4.1.2).
    Raises:
        ValueError: a group has a single completion.
    """
    advantages = np.zeros(len(rewards))
    for group in np.unique(groups):
        own = groups == group
        r, size = rewards[own].astype(np.float64), int(own.sum())
        if size < 2:
            raise ValueError("a group has a single completion; objective.num_generations must be at least 2")
        if all_equal(r):
            continue
        centered = (r - r.mean()) * (size / (size - 1) if leave_one_out else 1)
        advantages[own] = centered / (r.std(ddof=1) + STD_EPS) if scale else centered
    return advantages


def all_equal(rewards: np.ndarray) -> bool:
    """Whether rewards differ by rounding at most."""
    return bool(np.ptp(rewards) <= EQUAL * max(1.0, float(np.abs(rewards).max())))


def gae(rewards: np.ndarray, values: np.ndarray, *, gamma: float, lam: float) -> np.ndarray:
    """(T,) generalized advantages of one completion (Schulman et al. 2016, eq. 16); its end has value zero.

    rewards (T,) are for the tokens, values (T,) those of the states before them.
    """
    advantages, following = np.zeros(len(rewards)), 0.0
    after = np.append(values[1:], 0.0)
    for t in reversed(range(len(rewards))):
        following = rewards[t] + gamma * after[t] - values[t] + gamma * lam * following
        advantages[t] = following
    return advantages


def group_estimate(rows: Sequence[Trajectory], config: GRPOConfig) -> list[dict[str, np.ndarray]]:
    """The same advantage for all tokens of a completion; a KL in the reward is summed over them."""
    rewards = np.array([row.reward - _penalty(row, config).sum() for row in rows])
    groups = np.array([row.group for row in rows])
    leave_one_out = config.advantage == "rloo"
    found = group_advantages(rewards, groups, leave_one_out=leave_one_out, scale=config.scale_by_std)
    return [{"advantage": np.full(len(row.completion), a)} for row, a in zip(rows, found, strict=True)]


def value_estimate(rows: Sequence[Trajectory], config: PPOConfig) -> list[dict[str, np.ndarray]]:
    """GAE with the reward at the last token and the KL at each."""
    found = []
    for row in rows:
        rewards, values = -_penalty(row, config), row.tokens["value"].astype(np.float64)
        rewards[-1] += row.reward
        advantage = gae(rewards, values, gamma=config.gamma, lam=config.lam)
        found.append({"advantage": advantage, "return": advantage + values})
    if config.whiten:
        every = np.concatenate([tokens["advantage"] for tokens in found])
        for tokens in found:
            tokens["advantage"] = (tokens["advantage"] - every.mean()) / (every.std() + 1e-8)
    return found


def _penalty(row: Trajectory, config: GRPOConfig | PPOConfig) -> np.ndarray:
    """(T,) what the KL divergence takes from the reward of each token."""
    if not config.penalizes:
        return np.zeros(len(row.completion))
    log_ratio = torch.from_numpy(row.tokens["reference"] - row.tokens["old"]).double()
    return config.kl * KL[config.kl_estimator](log_ratio).numpy()
