"""Chapter 11: what comes after pretraining, in small numbers: LoRA, DPO's loss, and the advantages of GRPO."""

import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from minillm.objectives.advantages import group_advantages

from figures import run, save

WIDTH, RANK = 256, 8


def adapted(x: Tensor, weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """LoRA: x W^T + x A^T B^T, for W (out, in), A (rank, in), B (out, rank)."""
    return x @ weight.T + (x @ a.T) @ b.T


def dpo_loss(chosen: float, rejected: float, reference_chosen: float, reference_rejected: float, beta: float) -> float:
    """-log sigmoid(beta ((chosen - reference_chosen) - (rejected - reference_rejected))), of log-probabilities."""
    ahead = (chosen - reference_chosen) - (rejected - reference_rejected)
    return math.log1p(math.exp(-beta * ahead))


def sum_rewards(answers: list[int], right: int) -> np.ndarray:
    """A verifiable reward: 1 for the right sum, else 0."""
    return np.array([float(answer == right) for answer in answers])


def lesson(folder: Path) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    weight, a = torch.randn(WIDTH, WIDTH, generator=generator), torch.randn(RANK, WIDTH, generator=generator)
    b, x = torch.zeros(WIDTH, RANK), torch.randn(5, WIDTH, generator=generator)
    same = torch.equal(adapted(x, weight, a, b), x @ weight.T)
    print(f"a new LoRA adapter changes nothing: {same}")
    share = (a.numel() + b.numel()) / weight.numel()
    print(f"it trains {a.numel() + b.numel():,} numbers instead of {weight.numel():,}: {share:.1%}")
    b = torch.randn(WIDTH, RANK, generator=generator)
    merged = torch.allclose(adapted(x, weight, a, b), x @ (weight + b @ a).T, atol=1e-2)
    print(f"merged into the weights it computes the same: {merged}")

    start = dpo_loss(-20.0, -22.0, -20.0, -22.0, beta=0.1)
    better = dpo_loss(-18.0, -26.0, -20.0, -22.0, beta=0.1)
    print(f"DPO at the start: {start:.4f} = ln 2; after the gap grew by 6: {better:.4f}")

    answers = [46, 45, 46, 12, 46, 50, 46, 47]
    rewards = sum_rewards(answers, right=46)
    advantages = group_advantages(rewards, np.zeros(8, int), leave_one_out=False, scale=False)
    print("12 + 34 =", *answers)
    print("rewards", *(f"{reward:.0f}" for reward in rewards))
    print("advantages", *(f"{advantage:+.1f}" for advantage in advantages))
    equal = group_advantages(np.ones(8), np.zeros(8, int), leave_one_out=False, scale=False)
    print("if all answers are right:", *(f"{advantage:.0f}" for advantage in equal))
    draw(folder)
    return {
        "same": same,
        "merged": merged,
        "share": share,
        "start": start,
        "better": better,
        "advantages": advantages,
        "equal": equal,
    }


def draw(folder: Path) -> None:
    figure, axis = plt.subplots(figsize=(5, 3.2))
    gaps = np.linspace(-30, 30, 200)
    for beta in (0.05, 0.1, 0.5):
        axis.plot(gaps, [dpo_loss(gap, 0, 0, 0, beta) for gap in gaps], label=f"beta {beta}")
    axis.axhline(math.log(2), color="gray", linestyle=":")
    axis.set(title="DPO's loss", xlabel="how much more the better answer has gained", ylabel="loss")
    axis.legend()
    save(figure, folder, "after_pretraining")


if __name__ == "__main__":
    run(lesson)
