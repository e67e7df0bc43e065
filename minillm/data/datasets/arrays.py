"""Examples that are arrays of numbers of one shape: the pixels of an image, or the columns of a table."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from minillm.data import cache
from minillm.data.config import DataConfig
from minillm.data.datasets.corpus import Corpus, CorpusInfo, SplitInfo
from minillm.data.split import text_hash
from minillm.tokenizers.no_text import NoTokenizer


class FeatureRow(NamedTuple):
    """One example."""

    features: np.ndarray
    label: str
    where: str
    """Names the example in an error message."""
    training: bool
    """Whether it may be changed by augmentation."""


@dataclass(frozen=True)
class FeatureRows:
    """The examples of one split, in memory; implements `loader.Examples`."""

    features: np.ndarray
    """(N, *shape), uint8 or float64."""
    labels: Sequence[str]
    where: Sequence[str]
    notes: tuple[str, ...] = ()
    training: bool = False

    @property
    def num_tokens(self) -> int:
        """Number of examples: each is read as one."""
        return len(self.labels)

    @property
    def seq_len(self) -> int:
        return 1

    @property
    def num_offsets(self) -> int:
        return 1

    @property
    def rows(self) -> list[FeatureRow]:
        """All examples."""
        return [self.row(i) for i in range(len(self))]

    def __len__(self) -> int:
        return len(self.labels)

    def span(self, window: int, offset: int = 0) -> tuple[int, int]:
        return window, window + 1

    def row(self, window: int, offset: int = 0) -> FeatureRow:
        return FeatureRow(self.features[window], self.labels[window], self.where[window], self.training)

    def take(self, chosen: np.ndarray) -> FeatureRows:
        """The examples with these indices."""
        labels, where = ([values[i] for i in chosen] for values in (self.labels, self.where))
        return replace(self, features=self.features[chosen], labels=labels, where=where)

    def hashes(self) -> np.ndarray:
        """(N) uint64 hash of each example."""
        texts = (hashlib.sha256(row.tobytes()).hexdigest() for row in self.features)
        return np.array(
            [text_hash(f"{text} {label}") for text, label in zip(texts, self.labels, strict=True)], np.uint64
        )

    def fingerprint(self) -> str:
        """Hash of the content."""
        digest = hashlib.sha256(repr((self.features.shape, str(self.features.dtype), list(self.labels))).encode())
        digest.update(np.ascontiguousarray(self.features).tobytes())
        return digest.hexdigest()


def split_rows(rows: FeatureRows, fraction: float) -> tuple[FeatureRows, FeatureRows]:
    """Training and validation examples: `fraction` of them, in the order of their hashes. Duplicates stay together."""
    distinct, group = np.unique(rows.hashes(), return_inverse=True)
    if len(distinct) < 2:
        raise ValueError("there are fewer than two different examples to split: add examples, or set data.validation")
    held = group < max(1, min(len(distinct) - 1, round(fraction * len(distinct))))
    return rows.take(np.flatnonzero(~held)), rows.take(np.flatnonzero(held))


def feature_corpus(
    config: DataConfig, own: FeatureRows, other: FeatureRows | None, marked: np.ndarray | None, unit: str
) -> Corpus:
    """The data of a run.

    Args:
        own: the examples of data.source.
        other: those of data.validation, if it is set.
        marked: (N) bool, examples of `own` that the source itself holds out.
        unit: what the examples are, in words.
    """
    fingerprint = own.fingerprint()
    if other is not None:
        if other.fingerprint() == fingerprint:
            raise ValueError(f"data.validation {config.validation} is the training data itself: give different data")
        train, validation, fingerprint = own, other, cache.key(fingerprint, other.fingerprint())
    elif marked is not None and marked.any() and not marked.all():
        if config.validation_fraction != DataConfig.validation_fraction:
            raise ValueError("data.validation_fraction has no effect: the source has its own test files; leave it out")
        train, validation = own.take(np.flatnonzero(~marked)), own.take(np.flatnonzero(marked))
    else:
        train, validation = split_rows(own, config.validation_fraction)
    if train.features.shape[1:] != validation.features.shape[1:]:
        raise ValueError(
            f"the training data has the shape {train.features.shape[1:]} and the validation data "
            f"{validation.features.shape[1:]}: both must be equal"
        )
    sizes = [SplitInfo(len(part), part.features.nbytes, len(part)) for part in (train, validation)]
    info = CorpusInfo(config.source, fingerprint, config.validation, *sizes, unit=unit)
    notes = own.notes + (other.notes if other is not None else ())
    return Corpus(train, validation, NoTokenizer(), info, notes)
