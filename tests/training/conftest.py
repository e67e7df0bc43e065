"""A trainer small enough to take a hundred steps a second."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from minillm.adapters.config import AdapterConfig
from minillm.adapters.lora import add_adapter, init_adapter, lora_layers
from minillm.data.datasets.corpus import Tokens
from minillm.data.loader import Loader, Windows, eval_batches
from minillm.distributed.runtime import Runtime
from minillm.evaluation.evaluator import LossEvaluator
from minillm.models.build import build_model
from minillm.models.gpt import GPT
from minillm.nn.config import ModelConfig
from minillm.objectives.clm import CausalLM
from minillm.training.checkpoint import checkpoints, save_checkpoint, weights
from minillm.training.config import EvalConfig, OptimConfig, Recipe, SaveConfig, ScheduleConfig, TrainConfig
from minillm.training.precision import Compute
from minillm.training.state import CheckpointState, TrainState
from minillm.training.trainer import Trainer

VOCAB, EOS, PAD, SEQ_LEN = 23, 21, 22, 12
SHAPE: dict[str, Any] = {"vocab_size": VOCAB, "max_seq_len": SEQ_LEN, "d_model": 16, "num_layers": 2, "num_heads": 2}


def text(seed: int, length: int) -> Tokens:
    """Ids that a model can learn: most are followed by their successor."""
    rng = np.random.default_rng(seed)
    ids = np.zeros(length, np.uint16)
    for i in range(1, length):
        ids[i] = (ids[i - 1] + 1) % 20 if rng.random() < 0.8 else rng.integers(20)
    ids[length // 3] = ids[-1] = EOS
    return Tokens(ids, EOS)


def tiny_gpt(**shape: Any) -> GPT:
    """A filled model."""
    model = build_model(ModelConfig(**{**SHAPE, **shape}))
    assert isinstance(model, GPT)
    model.init_weights(torch.Generator().manual_seed(1))
    return model


def tiny_lora(**shape: Any) -> GPT:
    """The same with an adapter that already changes something."""
    model = tiny_gpt(**shape)
    add_adapter(model, AdapterConfig(name="lora", rank=2, dropout=shape.get("dropout", 0.0)), pretrained=weights(model))
    generator = torch.Generator().manual_seed(2)
    init_adapter(model, generator)
    for _, layer in lora_layers(model):
        nn.init.normal_(layer.lora_b, std=0.1, generator=generator)
    return model


def tiny_trainer(
    folder: Path,
    *,
    model: torch.nn.Module | None = None,
    shape: dict[str, Any] | None = None,
    optim: dict[str, Any] | None = None,
    schedule: dict[str, Any] | None = None,
    train: dict[str, Any] | None = None,
    eval: dict[str, Any] | None = None,
    save: dict[str, Any] | None = None,
    train_text: Tokens | None = None,
    dtype: torch.dtype = torch.float32,
    on_evaluation: Callable[[], None] | None = None,
    runtime: Runtime | None = None,
) -> Trainer:
    """A trainer with dropout, accumulation (8 = 3 + 3 + 2 rows) and shuffling, whose sections can be refined."""
    train = {"steps": 12, "global_batch": 8, "micro_batch": 3, "log_every": 1, **(train or {})}
    recipe = Recipe(
        optim=OptimConfig(**(optim or {})),
        schedule=ScheduleConfig(**{"warmup_steps": 3, **(schedule or {})}),
        train=TrainConfig(**train),
        eval=EvalConfig(**{"every": 4, "max_tokens": 0, **(eval or {})}),
        save=SaveConfig(**{"every": 0, **(save or {})}),
    )
    objective, compute = CausalLM(PAD), Compute(torch.device("cpu"), dtype, compile=False)
    runtime = runtime or Runtime()
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(
        model=model or tiny_gpt(**{"dropout": 0.1, **(shape or {})}),
        objective=objective,
        source=Loader(
            Windows(train_text or text(0, 500), SEQ_LEN),
            objective.collate,
            seed=recipe.train.seed,
            global_batch=recipe.train.global_batch,
            micro_batch=recipe.train.micro_batch or recipe.train.global_batch,
            rank=runtime.rank,
            world_size=runtime.world_size,
        ),
        evaluator=LossEvaluator(
            partial(
                eval_batches,
                Windows(text(9, 100), SEQ_LEN),
                objective.collate,
                batch=recipe.eval.batch,
                max_tokens=recipe.eval.max_tokens,
                rank=runtime.rank,
                world_size=runtime.world_size,
            ),
            objective,
            compute,
            runtime,
            torch.cat([torch.ones(21), torch.zeros(2)]).int(),
        ),
        recipe=recipe,
        compute=compute,
        runtime=runtime,
        folder=folder,
        identity={"tokenizer": "t", "data": "d"},
        on_evaluation=on_evaluation,
    )


def state_of(value: float) -> CheckpointState:
    """A checkpoint's state that tells by its best loss which one it is."""
    return CheckpointState(TrainState(best_loss=value), scaler={}, tokenizer="t", data="d")


def save_value(run: Path, step: int, value: float) -> None:
    """A checkpoint that tells by its content which one it is."""
    model = nn.Linear(3, 2)
    nn.init.constant_(model.weight, value)
    save_checkpoint(run, step, model=weights(model), optimizer={"w/m": torch.full((3,), value)}, state=state_of(value))


def saved_values(run: Path) -> dict[int, float]:
    """Step -> content of every checkpoint that the folder shows; each is whole."""
    found = {}
    for checkpoint in checkpoints(run):
        checkpoint.verify()
        model = nn.Linear(3, 2)
        checkpoint.load_model(model)
        assert (
            model.weight[0, 0].item()
            == checkpoint.state.train.best_loss
            == checkpoint.load_optimizer()["w/m"][0].item()
        )
        found[checkpoint.step] = checkpoint.state.train.best_loss
    return found


@pytest.fixture
def save() -> Callable[[Path, int, float], None]:
    return save_value


@pytest.fixture
def values() -> Callable[[Path], dict[int, float]]:
    return saved_values


@pytest.fixture
def make_gpt() -> Callable[..., GPT]:
    return tiny_gpt


@pytest.fixture
def make_trainer() -> Callable[..., Trainer]:
    return tiny_trainer
