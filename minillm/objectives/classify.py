"""Classification of texts and of pairs of texts by an encoder's [CLS] (Devlin et al. 2019, section 4.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from minillm.data.config import DataConfig
from minillm.data.datasets.labeled import LabeledIds, LabeledTokens
from minillm.objectives.base import Batch, CrossEntropyObjective, Decode, RowRNG, Setup, TokenLossConfig
from minillm.objectives.layout import pad

if TYPE_CHECKING:
    from minillm.data.datasets.corpus import Corpus


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(TokenLossConfig):
    """Predict the label of a text or a pair of texts (Devlin et al. 2019, section 4.1)."""

    name: str = "classify"
    labels: tuple[str, ...] = ()
    """Names of the classes; by default those in the training data."""


@dataclass(frozen=True)
class Classify(CrossEntropyObjective):
    """Predict the class of `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]`."""

    cls_id: int = 0
    sep_id: int = 0
    labels: tuple[str, ...] = ()
    max_len: int = 0
    """Maximum tokens in a sequence. If it is longer, the end of the longer text is truncated."""
    token_types: bool = False
    """Whether the model has token types, 0 for A and 1 for B."""

    primary: ClassVar[str] = "accuracy"

    @property
    def heads(self) -> tuple[str, ...]:
        return (f"class:{len(self.labels)}",)

    @property
    def targets(self) -> dict[str, str]:
        return {"class": "class"}

    def examples(self, tokens: LabeledTokens, data: DataConfig, length: int, *, training: bool) -> LabeledTokens:
        """The examples unchanged; ValueError for a label that the run does not have."""
        for row in tokens.rows:
            if row.label not in self.labels:
                raise ValueError(
                    f"{row.where} has the label {row.label!r}, which the training data lacks; "
                    f"the labels are {', '.join(self.labels)}"
                )
        return tokens

    def collate(self, examples: Sequence[LabeledIds], rng: RowRNG) -> Batch:
        """tokens, key_valid if any row is padded, and token_types, all (B, T); labels (B)."""
        rows, types = zip(*(self._row(example) for example in examples), strict=True)
        tokens, valid = pad(rows, self.pad_id)
        inputs = {"tokens": tokens}
        if not valid.all():
            inputs["key_valid"] = valid
        if self.token_types:
            inputs["token_types"] = pad(types, 0)[0]
        labels = torch.tensor([self.labels.index(example.label) for example in examples])
        return Batch(inputs, {"class": labels}, {"class": len(examples)}, int(valid.sum()))

    def _row(self, example: LabeledIds) -> tuple[np.ndarray, np.ndarray]:
        """(T,) ids and token types of one sequence."""
        first, second = self._cut(example)
        parts = [[self.cls_id], first, [self.sep_id], *([second, [self.sep_id]] if len(second) else [])]
        tokens = np.concatenate(parts).astype(np.int64)
        return tokens, (np.arange(len(tokens)) > len(first) + 1).astype(np.int64)

    def _room(self, example: LabeledIds) -> int:
        """Maximum tokens of both texts together."""
        return max(0, self.max_len - (3 if len(example.second) else 2))

    def _cut(self, example: LabeledIds) -> tuple[np.ndarray, np.ndarray]:
        """Both texts, the longer one truncated so that they fit."""
        room = self._room(example)
        second = min(len(example.second), max(room - len(example.first), room - room // 2))
        return example.first[: room - second], example.second[:second]

    def prompt(self, example: Any, decode: Decode) -> str:
        return ""

    def describe_cuts(self, tokens: LabeledTokens) -> list[str]:
        """The number of truncated examples."""
        cut = sum(len(row.first) + len(row.second) > self._room(row) for row in tokens.rows)
        note = f"{cut:,} of {len(tokens):,} examples are longer than {self.max_len} tokens and are truncated"
        return [note] if cut else []


def build(config: ClassifyConfig, setup: Setup) -> Classify:
    """The objective for BERT."""
    ids, loss = setup.tokenizer, (config.label_smoothing, config.z_loss)
    types = setup.model.num_token_types > 1
    return Classify(ids.pad_id, *loss, ids.cls_id, ids.sep_id, config.labels, setup.seq_len, types)


def name_labels(config: ClassifyConfig, corpus: Corpus) -> ClassifyConfig:
    """Fill in the labels from the data; ValueError if there are fewer than two."""
    if config.labels:
        return config
    rows = [*corpus.train.rows, *(corpus.validation.rows if corpus.info.validation_source is None else ())]
    labels = sorted({row.label for row in rows})
    if len(labels) < 2:
        raise ValueError(f"{corpus.info.source} has only one label, {labels[0]!r}: at least two are needed")
    return replace(config, labels=tuple(labels))


def majority_figures(measured: Any) -> dict[str, float]:
    """Accuracy of always predicting the most frequent training label; takes a Measurement."""
    label, _ = Counter(row.label for row in measured.train.rows).most_common(1)[0]
    correct = [row.label == label for row in measured.tokens.rows]
    return {"most_frequent_accuracy": sum(correct) / len(correct)}
