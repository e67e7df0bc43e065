"""The policy loss beside that of trl's GRPOTrainer, where trl is installed."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from minillm.nn.output import Output
from minillm.objectives.advantages import Trajectory, group_estimate
from minillm.objectives.base import IGNORE_INDEX
from minillm.objectives.policy import Policy
from minillm.objectives.policy_config import GRPOConfig

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TYPES = {"completion": "grpo", "tokens": "dapo", "constant": "dr_grpo"}


def trl_loss(log_probs: Tensor, labels: dict[str, Tensor], config: GRPOConfig) -> Tensor:
    """The loss that trl computes from the same log-probabilities."""
    trainer: Any = pytest.importorskip("trl").GRPOTrainer
    mask = (labels["ids"] != IGNORE_INDEX).long()

    def same(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x

    stand_in = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (log_probs, torch.zeros_like(log_probs), None),
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        accelerator=SimpleNamespace(num_processes=1, gather=same, gather_for_metrics=same, reduce=same),
        model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
        beta=config.kl,
        loss_type=TYPES[config.length_divisor],
        epsilon_low=config.clip,
        epsilon_high=config.clip,
        max_completion_length=config.max_new_tokens,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
    )
    inputs = {
        "prompt_ids": labels["ids"][:, :1],
        "prompt_mask": mask[:, :1],
        "completion_ids": labels["ids"],
        "completion_mask": mask,
        "advantages": labels["advantage"],
        "old_per_token_logps": labels["old"],
        "ref_per_token_logps": labels["reference"],
        "num_items_in_batch": mask.sum(),
    }
    return trainer._compute_loss(stand_in, None, inputs)


@pytest.mark.parametrize("divisor", TYPES)
@pytest.mark.parametrize("kl", [0.0, 0.2])
def test_loss_and_gradient_are_those_of_trl(divisor: str, kl: float):
    config = GRPOConfig(length_divisor=divisor, kl=kl, max_new_tokens=9)  # type: ignore[arg-type]
    objective, rng = Policy(config, 0, (0,), (), group_estimate), np.random.default_rng(0)
    rows = [
        Trajectory(
            rng.integers(0, 7, 2),
            rng.integers(0, 7, length),
            group=0,
            truncated=False,
            reward=1.0,
            tokens={
                name: rng.normal(scale=0.4, size=length).astype(np.float32) - 2
                for name in ("old", "reference", "advantage")
            },
        )
        for length in (3, 1, 5)
    ]
    batch = objective.collate(rows, np.random.default_rng)
    logits = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    output = Output(torch.empty(0), {"lm": logits})
    own = objective.loss(output, batch.labels, training=True)["policy"].loss / batch.counts["policy"]
    peer = trl_loss(objective.read(output, batch.labels)["log_prob"], batch.labels, config)
    assert own.item() == pytest.approx(peer.item(), rel=1e-6)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (own, peer)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)
