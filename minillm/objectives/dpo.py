"""Direct preference optimization (Rafailov et al. 2023): a language model learns from pairs of answers directly.

With h = beta * (log pi(y1|x) / ref(y1|x) - log pi(y2|x) / ref(y2|x)), the loss is -log sigmoid(h) for the preferred
answer y1. The log-probability of an answer is the sum over its tokens, including the one that ends it. The reference
is the model that training starts from, so the first loss is ln 2.

`loss = "ipo"` (Azar et al. 2023, equation 17) instead regresses h / beta to 1 / (2 beta), with averages over the
tokens in place of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minillm.data.config import DataConfig
from minillm.data.datasets.preferences import PreferenceIds, PreferenceTokens
from minillm.nn.output import Output
from minillm.objectives.answers import AnswerLayout, figures_of
from minillm.objectives.base import (
    IGNORE_INDEX,
    Batch,
    CrossEntropyObjective,
    Decode,
    RowRNG,
    Score,
    Setup,
    cross_entropy_sum,
)
from minillm.objectives.layout import pad
from minillm.settings import check, setting
from minillm.tokenizers.chat_template import ChatTemplate

if TYPE_CHECKING:
    from minillm.data.datasets.corpus import Corpus


@dataclass(frozen=True, kw_only=True)
class DPOConfig:
    """Prefer some answers to others, without a reward model (Rafailov et al. 2023)."""

    name: str = "dpo"
    beta: float = setting(0.1, above=0)
    """How strongly the model is kept near the reference; smaller values let it move further."""
    loss: Literal["sigmoid", "ipo"] = setting("sigmoid")
    """sigmoid: the loss of Rafailov et al. 2023; ipo: the squared loss of Azar et al. 2023."""
    label_smoothing: float = setting(0.0, at_least=0, below=0.5, only={"loss": ("sigmoid",)})
    """Assumed share of pairs in which the worse answer was preferred (conservative DPO, Mitchell 2023); training
    only."""
    prompts: Literal["auto", "texts", "conversations"] = setting("auto")
    """Whether prompts are texts to continue or conversations; auto: as in the data."""
    reference: str | None = setting(None)
    """Checkpoint of the reference model; set by --init-from. Change it if that run has moved."""
    reference_hash: str | None = setting(None)
    """Fingerprint of its weights; set by --init-from."""

    def __post_init__(self) -> None:
        check("objective", self)


@dataclass(frozen=True, kw_only=True)
class DPO(CrossEntropyObjective):
    """Two rows for each pair: the preferred answer first."""

    layout: AnswerLayout
    beta: float = 0.1
    kind: str = "sigmoid"
    smoothing: float = 0.0
    template: ChatTemplate | None = None
    """If prompts are conversations."""

    @property
    def targets(self) -> dict[str, str]:
        return {"pair": "lm"}

    def examples(self, tokens: PreferenceTokens, data: DataConfig, length: int, *, training: bool) -> PreferenceTokens:
        return tokens

    def collate(self, examples: Sequence[PreferenceIds], rng: RowRNG) -> Batch:
        """tokens (2B, T) and predict_at (2B, P); the answers' tokens (2B, P), and the reference's log-probabilities.

        Padding is at the end, where no real token attends to it.
        """
        rows = [row for example in examples for row in self.layout.rows(example)]
        limit = self.layout.max_len - 1
        tokens, valid = pad([row.ids[:-1] for row in rows], self.pad_id, round_below=limit)
        places = [np.arange(row.start - 1, len(row.ids) - 1) for row in rows]
        answers, _ = pad([row.ids[row.start :] for row in rows], IGNORE_INDEX, round_below=limit)
        reference = torch.tensor([example.reference for example in examples], dtype=torch.float32)  # (B, 2)
        inputs = {"tokens": tokens, "predict_at": pad(places, 0, round_below=limit)[0]}
        return Batch(inputs, {"pair": answers, "reference": reference}, {"pair": len(examples)}, int(valid.sum()))

    def loss(self, output: Output, labels: dict[str, Tensor], *, training: bool) -> dict[str, Score]:
        """Sum of the losses of the pairs."""
        sums, ahead = self._compare(output, labels)
        total = self._losses(ahead, training=training).sum()
        if not training:
            return {"pair": Score(total, (ahead > 0).sum())}
        figures = {"pair_accuracy": (ahead > 0).float(), "reward_margin": self.beta * ahead}
        figures |= {"chosen_log_prob": sums[:, 0], "rejected_log_prob": sums[:, 1]}
        return {"pair": Score(total, figures=figures_of(figures))}

    def measure(self, output: Output, batch: Batch) -> np.ndarray:
        """(B, 3) the margin of the rewards, and the log-probabilities of both answers."""
        sums, ahead = self._compare(output, batch.labels)
        return torch.cat([self.beta * ahead[:, None], sums], 1).cpu().numpy()

    def figures(self, measured: np.ndarray) -> dict[str, float]:
        names = ("reward_margin", "chosen_log_prob", "rejected_log_prob")
        return dict(zip(names, measured.mean(0).tolist(), strict=True))

    def _compare(self, output: Output, labels: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(B, 2) log-probabilities of the answers, and (B) how many nats the better one has gained on the other."""
        sums = answer_log_probs(output, labels["pair"])
        lengths = (labels["pair"] != IGNORE_INDEX).sum(1).view(-1, 2)
        over = lengths if self.kind == "ipo" else torch.ones_like(lengths)
        gained = (sums - labels["reference"]) / over
        return sums, gained[:, 0] - gained[:, 1]

    def _losses(self, ahead: Tensor, *, training: bool) -> Tensor:
        """(B) the loss of each pair; `ahead` (B) is as in `_compare`."""
        if self.kind == "ipo":
            return (ahead - 1 / (2 * self.beta)).square()
        smoothing = self.smoothing if training else 0.0
        h = self.beta * ahead
        return -(1 - smoothing) * F.logsigmoid(h) - smoothing * F.logsigmoid(-h)

    def prompt(self, example: PreferenceIds, decode: Decode) -> str:
        return example.asked

    def encode_prompt(self, prompt: str) -> str | list[int]:
        """The text; if prompts are conversations, the ids of a conversation with this message of the user."""
        if self.template is None:
            return prompt
        return self.template.prompt_ids([{"role": "user", "content": prompt}])

    def describe_cuts(self, tokens: PreferenceTokens) -> list[str]:
        return self.layout.describe_cuts(tokens)


def answer_log_probs(output: Output, answers: Tensor) -> Tensor:
    """(B, 2) log-probability of each answer in nats, the sum over its tokens; answers (2B, P)."""
    rows = [-cross_entropy_sum(logits, ids) for logits, ids in zip(output.logits["lm"], answers, strict=True)]
    return torch.stack(rows).view(-1, 2)


def reference_log_probs(
    objective: DPO, examples: Sequence[PreferenceIds], forward: Callable[[dict[str, Tensor]], Output]
) -> np.ndarray:
    """(N, 2) log-probabilities of both answers of each pair; `forward` runs the reference."""
    batch = objective.collate(examples, np.random.default_rng)
    return answer_log_probs(forward(batch.inputs), batch.labels["pair"]).cpu().numpy()


def build(config: DPOConfig, setup: Setup) -> DPO:
    """The objective for GPT; ValueError for a model with dropout, which would make it differ from its reference."""
    model, ids = setup.model, setup.tokenizer
    if max(model.dropout, model.attention_drop, model.ff_drop):
        raise ValueError(
            f"objective.name {config.name} compares the model with its reference without dropout: set model.dropout, "
            "model.attention_dropout and model.ff_dropout to 0"
        )
    layout = AnswerLayout(before=ids.prefix_ids, after=(ids.eos_id,), max_len=setup.seq_len + 1, blank=ids.start_id)
    return DPO(
        ids.pad_id,
        layout=layout,
        beta=config.beta,
        kind=config.loss,
        smoothing=config.label_smoothing,
        template=ChatTemplate(ids) if config.prompts == "conversations" else None,
    )


def find_prompts(config: DPOConfig, corpus: Corpus) -> DPOConfig:
    """Fill in what the prompts are, as in the first pair; ValueError for a pair of the other kind."""
    rows, wanted = [*corpus.train.rows, *corpus.validation.rows], config.prompts
    if wanted == "auto":
        wanted = "conversations" if rows[0].framed else "texts"
    if wrong := next((row.where for row in rows if row.framed != (wanted == "conversations")), None):
        raise ValueError(f"{wrong} does not fit: the prompts of this run are {wanted}; write all pairs in the same way")
    return replace(config, prompts=wanted)
