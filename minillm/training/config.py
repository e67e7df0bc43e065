"""Settings of training, evaluation and checkpoints. Does not import torch."""

from dataclasses import dataclass
from typing import Literal

from minillm.settings import Only, check, setting

_MUON: Only = {"name": ("muon",)}


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer."""

    name: Literal["adamw", "muon"] = setting("adamw")
    """adamw for all parameters, or muon (Jordan et al. 2024) for hidden matrices and AdamW for the rest."""
    lr: float = setting(1e-3, above=0)
    """Peak learning rate of AdamW."""
    embedding_lr: float | None = setting(None, above=0)
    """Peak learning rate of AdamW for embeddings (tokens, n-grams, positions, T5's position biases, token types, class
    token) and for a vocabulary head that is tied to the tokens; None: `lr`."""
    head_lr: float | None = setting(None, above=0)
    """Peak learning rate of AdamW for the matrices of output heads; None: `lr`. With muon, AdamW trains only the
    vocabulary head's."""
    vector_lr: float | None = setting(None, above=0)
    """Peak learning rate of AdamW for norms and biases; None: `lr`."""
    muon_lr: float = setting(0.02, above=0, only=_MUON)
    """Peak learning rate of Muon."""
    beta1: float = setting(0.9, at_least=0, below=1)
    """AdamW's decay of the gradient average."""
    beta2: float = setting(0.95, at_least=0, below=1)
    """AdamW's decay of the squared-gradient average."""
    eps: float = setting(1e-8, above=0)
    """Added to AdamW's denominator."""
    weight_decay: float = setting(0.1, at_least=0)
    """Decoupled decay of matrices and embeddings; norms and biases never decay (Loshchilov and Hutter 2019)."""
    momentum: float = setting(0.95, at_least=0, below=1, only=_MUON)
    """Muon's Nesterov momentum."""
    average: float = setting(0.0, at_least=0, at_most=0.5, note="0 does not average")
    """Evaluate and save an average over the last steps instead of the last weights. Its mean age is this fraction of
    the steps so far; 0.5: the plain mean of all steps; 0: no average (Karras et al. 2024)."""
    clip: float = setting(1.0, at_least=0, note="0 does not clip")
    """Maximum global gradient norm; 0: no clipping (Pascanu et al. 2013)."""

    def __post_init__(self) -> None:
        check("optim", self)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The learning-rate schedule."""

    name: Literal["constant", "cosine", "linear", "wsd", "inverse_sqrt"] = setting("cosine")
    """Shape after warm-up; wsd: warm-up, stable, decay (Hu et al. 2024)."""
    warmup_steps: int = setting(0, at_least=0)
    """Steps of linear warm-up; a run with fewer steps ends before it reaches the peak."""
    final_ratio: float = setting(0.1, at_least=0, at_most=1, only={"name": ("cosine", "linear", "wsd")})
    """Learning rate at the last step of cosine, linear and wsd, divided by the peak."""
    decay_fraction: float = setting(0.2, above=0, at_most=1, only={"name": ("wsd",)})
    """Fraction of all steps in which wsd decays, at most those after warm-up."""

    def __post_init__(self) -> None:
        check("schedule", self)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop."""

    steps: int = setting(1000, at_least=1, only={"epochs": (None,)})
    """Optimizer steps of the whole run; computed from `epochs` if that is set."""
    epochs: float | None = setting(None, above=0, at_most=1_000_000)
    """Passes over the training data. It replaces `steps`, so that a recipe suits texts of different sizes."""
    global_batch: int = setting(32, at_least=1, at_most=2**20)
    """Sequences in one optimizer step, over all accumulation steps and ranks."""
    micro_batch: int | None = setting(None, at_least=1)
    """Sequences in one forward pass of one rank; None: the whole share of the rank."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting("auto")
    """Precision of matrix products; weights and optimizer state are fp32. auto: bf16 if the device is fast at it."""
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto")
    """Device to train on; auto: cuda, then mps, then cpu."""
    compile: Literal["auto", "on", "off"] = setting("auto")
    """Use torch.compile for each block and, on CUDA, for the loss; auto: on for CUDA, off elsewhere."""
    seed: int = setting(1337, at_least=0, at_most=2**63 - 1)
    """Seed of the initial weights, the order of the data and dropout."""
    log_every: int = setting(10, at_least=1)
    """Steps between lines of metrics.jsonl."""
    patience: int = setting(0, at_least=0, note="0 never stops early")
    """Stop after this many evaluations without a better validation loss; 0: never."""

    def __post_init__(self) -> None:
        check("train", self)


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Evaluation on the validation text."""

    every: int = setting(250, at_least=0, note="0 evaluates only at the end")
    """Steps between evaluations; 0: only at the end."""
    at_start: bool = setting(False)
    """Also evaluate before the first step; always on with --init-from."""
    max_tokens: int = setting(200_000, at_least=0, note="0 reads all")
    """Validation tokens read in each evaluation during training, the same ones each time; 0: all."""
    batch: int = setting(32, at_least=1)
    """Sequences in one forward pass."""

    def __post_init__(self) -> None:
        check("eval", self)


@dataclass(frozen=True, kw_only=True)
class SaveConfig:
    """Checkpoints."""

    every: int = setting(250, at_least=0, note="0 saves only at the end")
    """Steps between checkpoints; 0: only at the end. The best checkpoint is always saved."""
    keep: int = setting(2, at_least=1)
    """Number of newest checkpoints to keep besides the best one."""

    def __post_init__(self) -> None:
        check("save", self)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of the trainer."""

    optim: OptimConfig
    schedule: ScheduleConfig
    train: TrainConfig
    eval: EvalConfig
    save: SaveConfig
