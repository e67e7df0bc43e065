"""A policy small enough for dozens of rollouts a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from minillm.data.config import DataConfig
from minillm.data.datasets.prompts import Prompt, Prompts
from minillm.distributed.runtime import Runtime
from minillm.evaluation.evaluator import RunParts
from minillm.models.build import build_model
from minillm.nn.config import ModelConfig
from minillm.objectives.base import Setup
from minillm.objectives.policy import build, build_ppo
from minillm.objectives.policy_config import GRPOConfig, PPOConfig
from minillm.rl.rollouts import build_rollouts
from minillm.rl.validation import reward_evaluator
from minillm.tokenizers.char import CharTokenizer
from minillm.training.config import EvalConfig, OptimConfig, Recipe, SaveConfig, ScheduleConfig, TrainConfig
from minillm.training.precision import Compute
from minillm.training.trainer import Trainer

MAX_NEW = 4


def no_runs(path: str) -> Any:
    raise AssertionError(f"no reward asks for the run {path}")


def prompts(count: int, tokenizer: Any) -> Prompts:
    """Sums of one or two digits."""
    pairs = [(7 * n % 13, 5 * n % 11) for n in range(count)]
    records = [{"prompt": f"{a}+{b}=", "answer": str((a + b) % 10)} for a, b in pairs]
    return Prompts([Prompt(r["prompt"], "", f"sums line {i}", "", r) for i, r in enumerate(records, 1)], tokenizer)


def tiny_policy(folder: Path, **settings: Any) -> Trainer:
    """A trainer of a policy; the settings are as in `tiny_parts`."""
    return Trainer(**tiny_parts(folder, **settings))


def tiny_parts(
    folder: Path,
    *,
    ppo: bool = False,
    objective: dict[str, Any] | None = None,
    train: dict[str, Any] | None = None,
    eval: dict[str, Any] | None = None,
    save: dict[str, Any] | None = None,
    runtime: Runtime | None = None,
    also_end: str = "",
) -> dict[str, Any]:
    """The arguments of a trainer with 6 prompts a rollout, 4 completions each and micro-batches of 7 rows.

    The characters `also_end` end a text, besides EOS.
    """
    tokenizer = CharTokenizer.train(["0123456789+="])
    tokenizer.more_eos_ids = tuple(tokenizer.encode(also_end).tolist())
    settings = {"max_new_tokens": MAX_NEW, "num_generations": 4, "num_updates": 3, "kl": 0.1, **(objective or {})}
    config = PPOConfig(**settings) if ppo else GRPOConfig(**settings)
    shape = ModelConfig(
        vocab_size=tokenizer.vocab_size, max_seq_len=12, d_model=16, num_layers=2, num_heads=2, position="rotary"
    )
    setup = Setup(shape, tokenizer, 12, DataConfig())
    policy: Any = build_ppo(config, setup) if isinstance(config, PPOConfig) else build(config, setup)
    model = build_model(replace(shape, heads=policy.heads))
    model.init_weights(torch.Generator().manual_seed(1))
    recipe = Recipe(
        optim=OptimConfig(lr=3e-3),
        schedule=ScheduleConfig(name="constant"),
        train=TrainConfig(**{"steps": 8, "global_batch": 24, "micro_batch": 7, "log_every": 1, **(train or {})}),
        eval=EvalConfig(**{"every": 4, **(eval or {})}),
        save=SaveConfig(**{"every": 0, "keep": 9, **(save or {})}),
    )
    compute, runtime = Compute(torch.device("cpu"), torch.float32, compile=False), runtime or Runtime()
    folder.mkdir(parents=True, exist_ok=True)
    parts = RunParts(model, tokenizer, policy, (), recipe, compute, runtime, folder, no_runs)
    training, held_out = (
        policy.examples(prompts(count, tokenizer), DataConfig(), 12, training=True) for count in (20, 9)
    )
    return dict(
        model=model,
        objective=policy,
        source=build_rollouts(replace(parts, examples=training)),
        evaluator=reward_evaluator(replace(parts, examples=held_out)),
        recipe=recipe,
        compute=compute,
        runtime=runtime,
        folder=folder,
        identity={"tokenizer": "t", "data": "d"},
    )


@pytest.fixture
def make_policy() -> Callable[..., Trainer]:
    return tiny_policy


@pytest.fixture
def make_parts() -> Callable[..., dict[str, Any]]:
    return tiny_parts
