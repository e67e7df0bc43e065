"""How a run trains, evaluates and saves, as data. Imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints

Ranges = dict[str, tuple[bool, str]]
"""Key -> whether its value is allowed, and what is."""


def check(section: str, config: object, ranges: Ranges) -> None:
    """Raise ValueError naming the first key whose value is out of range, or none of the words its type lists."""
    for key, hint in get_type_hints(type(config)).items():
        if get_origin(hint) is Literal:
            allowed = get_args(hint)
            ranges = {key: (getattr(config, key) in allowed, f"one of {', '.join(allowed)}")} | ranges
    for key, (valid, allowed) in ranges.items():
        if not valid:
            raise ValueError(f"{section}.{key} is {getattr(config, key)!r}; it must be {allowed}")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The update rule."""

    name: Literal["adamw", "muon"] = "adamw"
    """adamw for everything, or muon (Jordan et al. 2024) for hidden matrices and AdamW for the rest."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    muon_lr: float = 0.02
    """Peak learning rate of Muon's matrices."""
    beta1: float = 0.9
    """AdamW's decay of the gradient average."""
    beta2: float = 0.95
    """AdamW's decay of the squared-gradient average."""
    eps: float = 1e-8
    """Added to AdamW's denominator."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices and embeddings; norms and biases never decay (Loshchilov and Hutter 2019)."""
    momentum: float = 0.95
    """Muon's Nesterov momentum."""
    clip: float = 1.0
    """Largest global gradient norm; 0: no clipping (Pascanu et al. 2013)."""

    def __post_init__(self) -> None:
        """Raise ValueError with the key and its range where a value lies outside it."""
        ranges: Ranges = {key: (0 < getattr(self, key) < math.inf, "above 0") for key in ("lr", "muon_lr", "eps")}
        for key in ("beta1", "beta2", "momentum"):
            ranges[key] = (0 <= getattr(self, key) < 1, "at least 0 and below 1")
        ranges["weight_decay"] = (0 <= self.weight_decay < math.inf, "at least 0")
        ranges["clip"] = (0 <= self.clip < math.inf, "at least 0 (0 does not clip)")
        check("optim", self, ranges)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning rate as a function of the step, as a factor on its peak."""

    name: Literal["constant", "cosine", "linear", "wsd", "inverse_sqrt"] = "cosine"
    """Shape after warm-up; wsd: warm-up, stable, decay (Hu et al. 2024)."""
    warmup_steps: int = 0
    """Steps of linear rise to the peak; a run with fewer steps than these ends while it still rises."""
    final_ratio: float = 0.1
    """Factor reached at the last step by cosine, linear and wsd."""
    decay_fraction: float = 0.2
    """Share of all steps that wsd decays for, those after the warm-up at most."""

    def __post_init__(self) -> None:
        """Raise ValueError with the key and its range where a value lies outside it."""
        ranges: Ranges = {
            "warmup_steps": (self.warmup_steps >= 0, "at least 0"),
            "final_ratio": (0 <= self.final_ratio <= 1, "from 0 to 1"),
            "decay_fraction": (0 < self.decay_fraction <= 1, "above 0 and at most 1"),
        }
        check("schedule", self, ranges)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop."""

    steps: int = 1000
    """Optimizer steps of the whole run."""
    global_batch: int = 32
    """Sequences in one optimizer step, over all accumulation steps and ranks."""
    micro_batch: int | None = None
    """Sequences in one forward pass of one rank; None: all of the rank's share at once."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the matrix products; weights and optimizer state stay fp32. auto: bf16 where it is fast."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto: cuda, then mps, then cpu."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile of each block; auto: on for CUDA, off elsewhere, where its start-up costs more than it gains."""
    seed: int = 1337
    """Seed of the initial weights, the order of the data and dropout."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    patience: int = 0
    """Evaluations without a better validation loss after which training stops; 0: never stops early."""

    def __post_init__(self) -> None:
        """Raise ValueError with the key and its range where a value lies outside it."""
        ranges: Ranges = {
            "steps": (self.steps >= 1, "at least 1"),
            "global_batch": (self.global_batch >= 1, "at least 1"),
            "micro_batch": (self.micro_batch is None or self.micro_batch >= 1, "at least 1, or none"),
            "seed": (0 <= self.seed < 2**63, "from 0 to 2**63 - 1"),
            "log_every": (self.log_every >= 1, "at least 1"),
            "patience": (self.patience >= 0, "at least 0 (0 never stops early)"),
        }
        check("train", self, ranges)


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Measuring on the validation text."""

    every: int = 250
    """Steps between two evaluations; 0: only at the end."""
    at_start: bool = False
    """Evaluate before the first step too, as a run that starts from another's weights does."""
    max_tokens: int = 200_000
    """Validation tokens read at each evaluation during training, always the same ones; 0: all."""
    batch: int = 32
    """Sequences in one forward pass."""

    def __post_init__(self) -> None:
        """Raise ValueError with the key and its range where a value lies outside it."""
        ranges: Ranges = {
            "every": (self.every >= 0, "at least 0 (0 evaluates only at the end)"),
            "max_tokens": (self.max_tokens >= 0, "at least 0 (0 reads all)"),
            "batch": (self.batch >= 1, "at least 1"),
        }
        check("eval", self, ranges)


@dataclass(frozen=True, kw_only=True)
class SaveConfig:
    """Checkpoints."""

    every: int = 250
    """Steps between two checkpoints; 0: only at the end. A better validation loss is kept besides."""
    keep: int = 2
    """Newest checkpoints kept, the best one not counted."""

    def __post_init__(self) -> None:
        """Raise ValueError with the key and its range where a value lies outside it."""
        ranges: Ranges = {
            "every": (self.every >= 0, "at least 0 (0 saves only at the end)"),
            "keep": (self.keep >= 1, "at least 1"),
        }
        check("save", self, ranges)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that the trainer is told."""

    optim: OptimConfig
    schedule: ScheduleConfig
    train: TrainConfig
    eval: EvalConfig
    save: SaveConfig
