"""The contract between data, model and loss: a Batch, and the Objective that makes and scores it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from minillm.data.config import DataConfig
from minillm.data.loader import Examples
from minillm.nn.config import ModelConfig
from minillm.nn.kernels.cross_entropy import IGNORE_INDEX as IGNORE_INDEX
from minillm.nn.kernels.cross_entropy import cross_entropy_sum as cross_entropy_sum
from minillm.nn.output import Output
from minillm.settings import check, setting

if TYPE_CHECKING:
    from minillm.tokenizers.base import Tokenizer

RowRNG = Callable[[int], np.random.Generator]
"""Random numbers of a row of the micro-batch; a function of (seed, step, row) alone."""
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Batch:
    """One micro-batch: what the model reads, what it should predict, and how much that is."""

    inputs: dict[str, Tensor]
    """Exactly the arguments of model.forward."""
    labels: dict[str, Tensor]
    """One tensor of target ids for each label set, IGNORE_INDEX where there is no target; or of floats."""
    counts: dict[str, int]
    """Targets in each label set, known before any forward pass."""
    num_tokens: int = 0
    """Real tokens that the model reads: what "tokens/s" counts."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with `change` applied to each tensor."""
        inputs, labels = ({k: change(t) for k, t in part.items()} for part in (self.inputs, self.labels))
        return Batch(inputs, labels, self.counts, self.num_tokens)

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


class Score(NamedTuple):
    """How well a batch's targets of one label set were predicted."""

    loss: Tensor
    """SUM over the targets, fp32; the trainer divides by the step's global count."""
    correct: Tensor | None = None
    """How many targets were the likeliest answer; None during training, where nobody asks."""


class Setup(NamedTuple):
    """What an objective is built from besides its own section."""

    model: ModelConfig
    tokenizer: Tokenizer
    seq_len: int
    """Tokens of a training example."""
    data: DataConfig


class Objective(Protocol):
    """Chooses what is to be predicted. The trainer and the evaluator know no more of it than this."""

    @property
    def heads(self) -> tuple[str, ...]:
        """Heads that the model must have, as in `ModelConfig.heads`."""
        ...

    @property
    def targets(self) -> dict[str, str]:
        """Label set of every batch to the head that predicts it."""
        ...

    covers_text: ClassVar[bool]
    """Whether the targets are the text itself, each token once; then bits per byte mean something."""
    primary: ClassVar[str]
    """The figure that the best checkpoint is chosen by: "loss", or one that is better the higher it is."""
    prefix_prompts: ClassVar[bool]
    """Whether a decoder has learned to read a prompt in both directions."""

    def examples(self, tokens: Any, data: DataConfig, length: int, *, training: bool) -> Examples:
        """What batches are made of: `tokens` of the objective's data set, cut to examples of `length` tokens."""
        ...

    def collate(self, examples: Sequence[Any], rng: RowRNG) -> Batch:
        """Examples to one batch; on the CPU, with no state."""
        ...

    def loss(self, output: Output, labels: dict[str, Tensor], *, training: bool) -> dict[str, Score]:
        """The score of each label set."""
        ...

    def prompt(self, example: Any, decode: Decode) -> str:
        """A text that shows what the model has learned, made from a validation example; "" for none."""
        ...

    def describe_cuts(self, tokens: Any) -> list[str]:
        """What examples lose because they are too long, a phrase for each kind; none for most objectives."""
        ...


@dataclass(frozen=True, kw_only=True)
class TokenLossConfig:
    """Settings of every objective that predicts tokens or classes by cross-entropy."""

    name: str
    """The objective: a row of the table in minillm/registry.py."""
    label_smoothing: float = setting(0.0, at_least=0, below=1)
    """Probability mass spread evenly over all answers (Szegedy et al. 2016); training only."""
    z_loss: float = setting(0.0, at_least=0)
    """Weight of the squared log-partition, which keeps logits small (Chowdhery et al. 2022); training only."""

    def __post_init__(self) -> None:
        """Raise ValueError with the key and its range where a value lies outside it."""
        check("objective", self)


@dataclass(frozen=True)
class CrossEntropyObjective:
    """Base of objectives whose loss is the cross-entropy of each label set under its head."""

    pad_id: int
    """Fills the end of shorter rows; never a target, since the mask is made from lengths."""
    label_smoothing: float = 0.0
    z_loss: float = 0.0

    covers_text: ClassVar[bool] = False
    primary: ClassVar[str] = "loss"
    prefix_prompts: ClassVar[bool] = False
    unsmoothed: ClassVar[tuple[str, ...]] = ()
    """Label sets that label smoothing and z-loss leave alone."""

    @property
    def heads(self) -> tuple[str, ...]:
        return ("lm",)

    @property
    def targets(self) -> dict[str, str]:
        return {"lm": "lm"}

    def loss(self, output: Output, labels: dict[str, Tensor], *, training: bool) -> dict[str, Score]:
        """Sum of -log p(target) of each label set, in nats, and, unless training, how many were right."""
        scores = {}
        for name, head in self.targets.items():
            logits, wanted = output.logits[head], labels[name]
            changed = training and name not in self.unsmoothed
            smoothing, z_loss = (self.label_smoothing, self.z_loss) if changed else (0.0, 0.0)
            total = cross_entropy_sum(logits, wanted, label_smoothing=smoothing, z_loss=z_loss)
            scores[name] = Score(total, None if training else num_correct(logits, wanted))
        return scores

    def prompt(self, example: Any, decode: Decode) -> str:
        """The beginning of a text."""
        return beginning(example[1:], decode)

    def describe_cuts(self, tokens: Any) -> list[str]:
        return []


def beginning(ids: np.ndarray, decode: Decode, *, length: int = 12) -> str:
    """The first words of a text of ids, about `length` tokens."""
    text = decode(ids[:length].tolist())
    return text[: text.rfind(" ")] if " " in text.strip() else text


def plain_cross_entropy_sum(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, z_loss: float = 0.0
) -> Tensor:
    """The definition of `cross_entropy_sum`, which nn/kernels/cross_entropy.py computes in less memory."""
    log_z = logits.logsumexp(-1)  # log p(v) = logits_v - log_z
    of_label = log_z - logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    of_uniform = log_z - logits.mean(-1)
    loss = (1 - label_smoothing) * of_label + label_smoothing * of_uniform + z_loss * log_z.square()
    return loss.masked_fill(labels == IGNORE_INDEX, 0.0).sum()


def num_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """How many targets are the likeliest answer. logits (..., V), labels (...), IGNORE_INDEX where there is none."""
    return (logits.argmax(-1) == labels).sum()
