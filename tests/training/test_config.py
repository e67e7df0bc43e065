"""Numbers that cannot be meant are refused when they are written, with one line."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest

from minillm.config import load_config, objective_class
from minillm.distributed.config import ParallelConfig
from minillm.objectives.base import TokenLossConfig
from minillm.registry import OBJECTIVES
from minillm.training.config import EvalConfig, OptimConfig, SaveConfig, ScheduleConfig, TrainConfig

OBJECTIVE = [objective_class(name) for name in OBJECTIVES]
OWNERS: dict[str, type] = {
    "optim": OptimConfig,
    "schedule": ScheduleConfig,
    "train": TrainConfig,
    "eval": EvalConfig,
    "save": SaveConfig,
    "parallel": ParallelConfig,
}
WRONG: dict[str, list[Any]] = {
    "optim.name": ["sgd"],
    "optim.lr": [0.0, -1.0, math.nan, math.inf],
    "optim.embedding_lr": [0.0, -1e-3, math.inf],
    "optim.head_lr": [0.0, math.nan],
    "optim.vector_lr": [0.0, -1.0],
    "optim.muon_lr": [0.0, math.nan],
    "optim.beta1": [-0.1, 1.0, math.nan],
    "optim.beta2": [-0.1, 1.0],
    "optim.eps": [0.0, -1e-8],
    "optim.weight_decay": [-0.1, math.nan],
    "optim.momentum": [-0.1, 1.0],
    "optim.average": [-0.1, 0.6, math.nan],
    "optim.clip": [-1.0, math.nan],
    "schedule.name": ["cosin"],
    "schedule.warmup_steps": [-1],
    "schedule.final_ratio": [-0.1, 1.1, math.nan],
    "schedule.decay_fraction": [0.0, 1.1],
    "train.steps": [0, -5],
    "train.epochs": [0, -1.0, math.nan, 1e308],
    "train.global_batch": [0, -1],
    "train.micro_batch": [0, -1],
    "train.precision": ["fp8"],
    "train.device": ["tpu"],
    "train.compile": ["yes"],
    "train.seed": [-1, 2**63],
    "train.log_every": [0],
    "train.patience": [-1],
    "eval.every": [-1],
    "eval.max_tokens": [-1],
    "eval.batch": [0],
    "save.every": [-1],
    "save.keep": [0],
    "objective.label_smoothing": [-0.1, 1.0, math.nan],
    "objective.z_loss": [-1.0, math.nan],
    "parallel.backend": ["mpi"],
    "parallel.timeout": [0],
}


def with_key(name: str) -> list[type[Any]]:
    """The objectives with this key: at least all whose loss is one of tokens, so never none."""
    found = [owner for owner in OBJECTIVE if name in {field.name for field in fields(owner)}]
    assert len(found) >= sum(issubclass(owner, TokenLossConfig) for owner in OBJECTIVE) > 5
    return found


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_a_value_out_of_range_is_a_one_line_error_with_key_and_range(key: str, value: Any):
    section, _, name = key.partition(".")
    for owner in with_key(name) if section == "objective" else [OWNERS[section]]:
        with pytest.raises(ValueError) as caught:
            owner(**{name: value})
        line = str(caught.value)
        assert line.startswith(f"{key} is {value!r}; it must be ") and "\n" not in line


def test_an_unknown_objective_is_a_one_line_error_with_the_closest_name():
    every = ", ".join(OBJECTIVES)
    with pytest.raises(ValueError) as caught:
        load_config(overrides={"objective.name": "mlm?"})
    assert str(caught.value) == f"objective.name is 'mlm?'; it must be one of {every} (did you mean mlm?)"


@pytest.mark.parametrize("owner", [*OWNERS.values(), *OBJECTIVE])
def test_the_defaults_are_allowed(owner: type):
    owner()


def test_zero_means_off_if_the_field_says_so():
    OptimConfig(clip=0, weight_decay=0, beta1=0, momentum=0)
    EvalConfig(every=0, max_tokens=0)
    SaveConfig(every=0)
    TrainConfig(patience=0, micro_batch=None, seed=0)
