"""Settings of the policy objectives, grpo and ppo."""

from dataclasses import dataclass
from typing import Literal

from minillm.settings import check, setting


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Settings of all objectives that train on their own completions."""

    name: str
    """The objective, a row of the table in minillm/registry.py."""
    rewards: tuple[str, ...] = setting(("exact",))
    """Rewards of a completion, which are added: exact[:FIELD], number[:FIELD], regex:PATTERN, length:CHARACTERS,
    run:PATH of a reward model, file.py:function or package.module:function, each with a weight in front if not 1:
    "0.1 * length:20"."""
    num_generations: int = setting(8, at_least=1)
    """Completions of each prompt."""
    max_new_tokens: int = setting(64, at_least=1)
    """Maximum tokens in a completion."""
    temperature: float = setting(1.0, above=0)
    """Divides the logits, in rollouts and in all log-probabilities."""
    eval_temperature: float = setting(0.0, at_least=0, note="0 is greedy")
    """Temperature of the completions of held-out prompts; 0 is greedy."""
    eval_samples: int = setting(1, at_least=1)
    """Above 1: evaluations also sample this many completions of each held-out prompt at the training temperature, and
    measure the mean of the best reward, which for a reward of 0 or 1 is pass@k."""
    num_updates: int = setting(1, at_least=1)
    """Optimizer steps on each rollout."""
    clip: float = setting(0.2, above=0)
    """ε: the ratio is clipped to 1 ± ε (Schulman et al. 2017)."""
    kl: float = setting(0.0, at_least=0)
    """Coefficient of the KL divergence from the reference, which is the model that the run started from; 0: none."""
    kl_estimator: Literal["k1", "k2", "k3"] = setting("k3")
    """Estimator of the divergence (Schulman 2020): k1 = -r, k2 = r²/2, k3 = e^r - r - 1, r = log reference/π."""
    kl_in: Literal["loss", "reward"] = setting("loss")
    """Whether the divergence is added to the loss or subtracted from the reward. In the reward k1 is unbiased; in the
    loss its gradient is zero on average."""
    length_divisor: Literal["completion", "tokens", "constant"] = setting("completion")
    """Sum over a completion's tokens divided by: its length (Shao et al. 2024), the average length of the batch (Yu et
    al. 2025), or max_new_tokens (Liu et al. 2025)."""
    mask_truncated: bool = setting(False)
    """Leave completions without an end out of the loss, in numerator and denominator (Yu et al. 2025)."""

    def __post_init__(self) -> None:
        check("objective", self)
        if self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ValueError(
                "objective.kl_estimator is k1, whose gradient in the loss is zero on average; "
                "set it to k2 or k3, or set objective.kl_in to reward"
            )

    @property
    def penalizes(self) -> bool:
        """Whether the divergence is part of the reward."""
        return self.kl > 0 and self.kl_in != "loss"


@dataclass(frozen=True, kw_only=True)
class GRPOConfig(PolicyConfig):
    """Reinforce completions that are better than the others of the same prompt (Shao et al. 2024)."""

    name: str = "grpo"
    num_generations: int = setting(8, at_least=2)
    """Completions of each prompt, which form a group."""
    advantage: Literal["group", "rloo"] = setting("group")
    """The baseline: group is the mean of the group, rloo that of its other completions (Ahmadian et al. 2024)."""
    scale_by_std: bool = setting(True)
    """Divide advantages by the group's standard deviation; Liu et al. 2025 (Dr. GRPO) do not."""


@dataclass(frozen=True, kw_only=True)
class PPOConfig(PolicyConfig):
    """Proximal policy optimization with a value head (Schulman et al. 2017; Ouyang et al. 2022)."""

    name: str = "ppo"
    num_generations: int = setting(1, at_least=1)
    """Completions of each prompt."""
    num_updates: int = setting(4, at_least=1)
    """Optimizer steps on each rollout."""
    length_divisor: Literal["completion", "tokens", "constant"] = setting("tokens")
    """Sum over a completion's tokens divided by: its length (Shao et al. 2024), the average length of the batch (Yu et
    al. 2025), or max_new_tokens (Liu et al. 2025)."""
    kl: float = setting(0.05, at_least=0)
    """Coefficient of the KL divergence from the reference, which is the model that the run started from; 0: none."""
    kl_estimator: Literal["k1", "k2", "k3"] = setting("k1")
    """Estimator of the divergence (Schulman 2020): k1 = -r, k2 = r²/2, k3 = e^r - r - 1, r = log reference/π."""
    kl_in: Literal["loss", "reward"] = setting("reward")
    """Whether the divergence is added to the loss or subtracted from the reward of each token."""
    value_coef: float = setting(0.1, at_least=0)
    """Weight of the value loss."""
    value_clip: float = setting(0.2, above=0)
    """A value counts at most this far from that of the rollout (Ouyang et al. 2022)."""
    gamma: float = setting(1.0, at_least=0, at_most=1)
    """Discount of later rewards."""
    lam: float = setting(0.95, at_least=0, at_most=1)
    """λ of generalized advantage estimation (Schulman et al. 2016); 1 does not bias the gradient."""
    whiten: bool = setting(True)
    """Shift and scale the advantages of a rollout to mean 0 and variance 1."""
