"""The interface between data, model and loss: the Objective, which makes a Batch and computes its loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from minillm.data.config import DataConfig
from minillm.data.loader import Examples, Windows
from minillm.nn.config import ModelConfig
from minillm.nn.kernels.cross_entropy import IGNORE_INDEX as IGNORE_INDEX
from minillm.nn.kernels.cross_entropy import cross_entropy_sum as cross_entropy_sum
from minillm.nn.kernels.cross_entropy import plain_cross_entropy_sum as plain_cross_entropy_sum
from minillm.nn.output import Output
from minillm.settings import check, setting

if TYPE_CHECKING:
    from minillm.tokenizers.base import Tokenizer

RowRNG = Callable[[int], np.random.Generator]
"""Row of the micro-batch -> its random generator, which depends on (seed, step, row) alone."""
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Batch:
    """One micro-batch."""

    inputs: dict[str, Tensor]
    """Arguments of model.forward."""
    labels: dict[str, Tensor]
    """Label set -> target ids, IGNORE_INDEX where there is no target; or floats."""
    counts: dict[str, int]
    """Targets in each label set, known before any forward pass."""
    num_tokens: int = 0
    """Tokens that the model reads, without padding; examples if `Objective.unit` says so. For the speed."""
    examples: Sequence[Any] = ()
    """The examples of the batch, for objectives whose figures need more than the labels."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """A copy with `change` applied to each tensor."""
        inputs, labels = ({k: change(t) for k, t in part.items()} for part in (self.inputs, self.labels))
        return Batch(inputs, labels, self.counts, self.num_tokens, self.examples)

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


class Score(NamedTuple):
    """How well the targets of one label set were predicted."""

    loss: Tensor
    """SUM over the targets, fp32; the trainer divides by the step's global count."""
    correct: Tensor | None = None
    """Number of targets that were the most likely prediction; None during training."""
    figures: Mapping[str, Tensor] = {}
    """More figures for metrics.jsonl: name -> (2,), the SUM and the number of terms."""


class Setup(NamedTuple):
    """Everything besides its config section that an objective is built from."""

    model: ModelConfig
    tokenizer: Tokenizer
    seq_len: int
    """Tokens in a training example."""
    data: DataConfig


class Predictor(NamedTuple):
    """A trained model with what it needs to predict."""

    objective: Any
    tokenizer: Tokenizer
    forward: Callable[[dict[str, Tensor]], Output]
    """Arguments of model.forward, on the CPU -> the outputs, fp32 and on the CPU; without gradients and dropout."""


class Objective(Protocol):
    """Defines what to predict. The trainer and the evaluator use this interface only."""

    @property
    def heads(self) -> tuple[str, ...]:
        """Heads that the model needs, as in `ModelConfig.heads`."""
        ...

    @property
    def targets(self) -> dict[str, str]:
        """Label set -> the head that predicts it, for every batch."""
        ...

    covers_text: ClassVar[bool]
    """Whether the targets are the tokens of the text, each once, so that bits per byte are defined."""
    primary: ClassVar[str]
    """The figure that selects the best checkpoint: "loss", or a figure for which higher is better."""
    prefix_prompts: ClassVar[bool]
    """Whether the decoder attends to the prompt in both directions."""
    unit: ClassVar[str]
    """What `Batch.num_tokens` counts: "tokens", or "examples" if the model does not read text."""

    def examples(self, tokens: Any, data: DataConfig, length: int, *, training: bool) -> Examples:
        """The tokenized data set `tokens`, cut into examples of `length` tokens."""
        ...

    def collate(self, examples: Sequence[Any], rng: RowRNG) -> Batch:
        """Make one batch, on the CPU and without state."""
        ...

    def loss(self, output: Output, labels: dict[str, Tensor], *, training: bool) -> dict[str, Score]:
        """Label set -> its score."""
        ...

    def measure(self, output: Output, batch: Batch) -> np.ndarray | None:
        """Numbers about each example of an evaluation batch, (examples, N), for `figures`; None for no figures."""
        ...

    def figures(self, measured: np.ndarray) -> dict[str, float]:
        """The figures of the task, from what `measure` returned for all examples, (examples, N)."""
        ...

    def prompt(self, example: Any, decode: Decode) -> str:
        """A prompt for previews, made from a validation example; "" for none."""
        ...

    def encode_prompt(self, prompt: str) -> str | list[int]:
        """The prompt as generation takes it: the text, or ids with special tokens around it."""
        ...

    @property
    def stop_id(self) -> int | None:
        """The id that ends an answer to such a prompt; None: the tokenizer's EOS."""
        ...

    def describe_cuts(self, tokens: Any) -> list[str]:
        """One phrase for each way in which examples are truncated; usually none."""
        ...


@dataclass(frozen=True, kw_only=True)
class TokenLossConfig:
    """Settings of all objectives that minimize cross-entropy."""

    name: str
    """The objective, a row of the table in minillm/registry.py."""
    label_smoothing: float = setting(0.0, at_least=0, below=1)
    """Probability mass spread evenly over all classes (Szegedy et al. 2016); training only."""
    z_loss: float = setting(0.0, at_least=0)
    """Weight of the squared log-partition, which keeps logits small (Chowdhery et al. 2022); training only."""

    def __post_init__(self) -> None:
        check("objective", self)


@dataclass(frozen=True)
class CrossEntropyObjective:
    """Base class of objectives whose loss is the cross-entropy of each label set."""

    pad_id: int
    """Padding at the end of shorter rows. The loss mask comes from lengths, so this id may also be a target."""
    label_smoothing: float = 0.0
    z_loss: float = 0.0

    covers_text: ClassVar[bool] = False
    primary: ClassVar[str] = "loss"
    prefix_prompts: ClassVar[bool] = False
    unit: ClassVar[str] = "tokens"
    unsmoothed: ClassVar[tuple[str, ...]] = ()
    """Label sets without label smoothing and z-loss."""

    @property
    def heads(self) -> tuple[str, ...]:
        return ("lm",)

    @property
    def targets(self) -> dict[str, str]:
        return {"lm": "lm"}

    def examples(self, tokens: Any, data: DataConfig, length: int, *, training: bool) -> Examples:
        """Windows of a text."""
        return Windows(tokens, length)

    def loss(self, output: Output, labels: dict[str, Tensor], *, training: bool) -> dict[str, Score]:
        """Sum of -log p(target) in nats for each label set; unless `training`, the number of correct predictions."""
        scores = {}
        for name, head in self.targets.items():
            logits, wanted = output.logits[head], labels[name]
            changed = training and name not in self.unsmoothed
            smoothing, z_loss = (self.label_smoothing, self.z_loss) if changed else (0.0, 0.0)
            total = cross_entropy_sum(logits, wanted, label_smoothing=smoothing, z_loss=z_loss)
            scores[name] = Score(total, None if training else num_correct(logits, wanted))
        return scores

    def measure(self, output: Output, batch: Batch) -> np.ndarray | None:
        return None

    def figures(self, measured: np.ndarray) -> dict[str, float]:
        return {}

    def prompt(self, example: Any, decode: Decode) -> str:
        """The beginning of a text."""
        return beginning(example[1:], decode)

    def encode_prompt(self, prompt: str) -> str | list[int]:
        """The text, unchanged."""
        return prompt

    @property
    def stop_id(self) -> int | None:
        return None

    def describe_cuts(self, tokens: Any) -> list[str]:
        return []


def beginning(ids: np.ndarray, decode: Decode, *, length: int = 12) -> str:
    """The first words of a text of ids, about `length` tokens."""
    text = decode(ids[:length].tolist())
    return text[: text.rfind(" ")] if " " in text.strip() else text


def num_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Number of correct predictions; logits (..., V), labels (...), IGNORE_INDEX where there is no target."""
    return (logits.argmax(-1) == labels).sum()
