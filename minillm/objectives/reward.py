"""Reward models: a score for a text, learned from pairs of answers (Ouyang et al. 2022, section 3.5).

In the model of Bradley and Terry (1952), the probability that the first answer is preferred is sigmoid(r1 - r2). The
loss is its negative logarithm; a margin m asks for r1 - r2 > m (Touvron et al. 2023, section 3.2.2).

A GPT's score is read at the token that ends the text, a BERT's at [CLS].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minillm.data.config import DataConfig
from minillm.data.datasets.preferences import Preference, PreferenceIds, PreferenceTokens, Scored
from minillm.nn.output import Output
from minillm.objectives.answers import AnswerLayout, figures_of
from minillm.objectives.base import Batch, CrossEntropyObjective, Decode, Predictor, RowRNG, Score, Setup
from minillm.objectives.layout import by_length, pad
from minillm.settings import check, setting

PREDICT_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Score texts, from pairs of answers of which one is preferred (Ouyang et al. 2022)."""

    name: str = "reward"
    centering: float = setting(0.0, at_least=0)
    """Weight of the squared sum of a pair's scores, which keeps scores near 0 (Eisenstein et al. 2023); training
    only."""

    def __post_init__(self) -> None:
        check("objective", self)


@dataclass(frozen=True, kw_only=True)
class Reward(CrossEntropyObjective):
    """Two rows for each pair: the preferred answer first.

    The loss selects the best checkpoint: with few pairs, the share in the right order often stays the same.
    """

    layout: AnswerLayout
    centering: float = 0.0

    @property
    def heads(self) -> tuple[str, ...]:
        return ("class:1",)

    @property
    def targets(self) -> dict[str, str]:
        return {"pair": "class"}

    def examples(self, tokens: PreferenceTokens, data: DataConfig, length: int, *, training: bool) -> PreferenceTokens:
        return tokens

    def collate(self, examples: Sequence[PreferenceIds], rng: RowRNG) -> Batch:
        """tokens, and key_valid if any row is padded, both (2B, T); the margins (B)."""
        inputs = self.inputs([row.ids for example in examples for row in self.layout.rows(example)])
        margins = torch.tensor([example.margin for example in examples])
        real = inputs["key_valid"].sum() if "key_valid" in inputs else inputs["tokens"].numel()
        return Batch(inputs, {"pair": margins}, {"pair": len(examples)}, int(real))

    def inputs(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        """The arguments of the model for rows of ids."""
        tokens, valid = pad(rows, self.pad_id, round_below=self.layout.max_len)
        return {"tokens": tokens} if valid.all() else {"tokens": tokens, "key_valid": valid}

    def loss(self, output: Output, labels: dict[str, Tensor], *, training: bool) -> dict[str, Score]:
        """Sum of -log sigmoid(r1 - r2 - margin) over the pairs."""
        scores = scores_of(output)
        ahead = scores[:, 0] - scores[:, 1]
        total = -F.logsigmoid(ahead - labels["pair"]).sum()
        if not training:
            return {"pair": Score(total, (ahead > 0).sum())}
        total = total + self.centering * scores.sum(1).square().sum()
        figures = {"pair_accuracy": (ahead > 0).float(), "reward_margin": ahead}
        return {"pair": Score(total, figures=figures_of(figures))}

    def measure(self, output: Output, batch: Batch) -> np.ndarray:
        """(B, 2) the scores of both answers."""
        return scores_of(output).cpu().numpy()

    def figures(self, measured: np.ndarray) -> dict[str, float]:
        return {"reward_margin": float((measured[:, 0] - measured[:, 1]).mean())}

    def prompt(self, example: Any, decode: Decode) -> str:
        return ""

    def describe_cuts(self, tokens: PreferenceTokens) -> list[str]:
        return self.layout.describe_cuts(tokens)


def scores_of(output: Output) -> Tensor:
    """(B, 2) the scores of both answers of each pair, fp32."""
    return output.logits["class"].float().view(-1, 2)


def build(config: RewardConfig, setup: Setup) -> Reward:
    """The objective for GPT."""
    ids = setup.tokenizer
    before = ids.prefix_ids if ids.imported else (ids.start_id,)
    layout = AnswerLayout(before=before, after=(ids.eos_id,), max_len=setup.seq_len)
    return Reward(ids.pad_id, layout=layout, centering=config.centering)


def build_encoder(config: RewardConfig, setup: Setup) -> Reward:
    """The objective for BERT."""
    ids = setup.tokenizer
    layout = AnswerLayout(before=(ids.cls_id,), after=(ids.sep_id,), max_len=setup.seq_len)
    return Reward(ids.pad_id, layout=layout, centering=config.centering)


def predict(predictor: Predictor, examples: Sequence[Scored]) -> list[dict[str, Any]]:
    """The score of each text, or of both answers of a pair."""
    objective, tokenizer = predictor.objective, predictor.tokenizer
    rows, owners = [], []
    for number, example in enumerate(examples):
        if isinstance(example, Preference):
            (pair,) = PreferenceTokens([example], tokenizer).rows
            rows += [row.ids for row in objective.layout.rows(pair)]
            owners += [number, number]
        else:
            rows.append(objective.layout.text(tokenizer.encode(example.text)))
            owners.append(number)
    scores: list[list[float]] = [[] for _ in examples]
    found = np.zeros(len(rows))
    for part in by_length(list(map(len, rows)), PREDICT_BATCH):
        found[part] = predictor.forward(objective.inputs([rows[i] for i in part])).logits["class"][:, 0].numpy()
    for owner, score in zip(owners, found.tolist(), strict=True):
        scores[owner].append(score)
    return [_result(example, own) for example, own in zip(examples, scores, strict=True)]


def _result(example: Scored, scores: list[float]) -> dict[str, Any]:
    if isinstance(example, Preference):
        texts = {"prompt": example.asked, "chosen": example.chosen, "rejected": example.rejected}
        return texts | {"chosen_score": scores[0], "rejected_score": scores[1]}
    return {"text": example.text, "score": scores[0]}
