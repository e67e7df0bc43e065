"""Rows of numbers with a label: a class, or a number to predict."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import numpy as np

from minillm.data import sources
from minillm.data.config import DataConfig
from minillm.data.datasets.arrays import FeatureRows, feature_corpus
from minillm.data.datasets.corpus import Corpus
from minillm.data.sources.records import Record


def prepare_numbers(config: DataConfig, tokenizer: Any, *, progress: bool = False) -> Corpus:
    """Like `corpus.prepare`, for columns of numbers in .csv, .tsv, .jsonl, .json or .parquet files."""
    rows = _read(config.source, config)
    other = _read(config.validation, config) if config.validation is not None else None
    return feature_corpus(config, rows, other, None, f"rows of {rows.features.shape[1]} numbers")


def read_numbers(source: str, config: DataConfig, tokenizer: Any, *, progress: bool = False) -> FeatureRows:
    """All rows of `source`, not split, to evaluate a trained model on."""
    return _read(source, config)


def read_inputs(texts: list[str], source: str | None, config: DataConfig) -> list[np.ndarray]:
    """The rows of numbers (F) for `minillm predict`: texts such as "3.5, 2", or the records of `source`."""
    if source is not None:
        records = sources.read_records(source, _columns(config))
        return [np.array([number(record, name) for name in config.columns]) for record in records]
    return [_numbers_in(text, config.columns) for text in texts]


def _numbers_in(text: str, columns: tuple[str, ...]) -> np.ndarray:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) != len(columns):
        names = ", ".join(columns)
        raise ValueError(f"{text!r} is not a row of {len(columns)} numbers: give {names}, separated by commas")
    return np.array(found)


def _columns(config: DataConfig) -> dict[str, str]:
    """A name for each input column, for error messages -> the column."""
    return {f"data.columns, number {i}": name for i, name in enumerate(config.columns, 1)}


def _read(source: str, config: DataConfig) -> FeatureRows:
    if not config.columns:
        raise ValueError("data.columns is empty: name the columns with the input numbers")
    if config.label_field in config.columns:
        raise ValueError(f"data.columns has {config.label_field!r}, which is data.label_field: take it out")
    columns = _columns(config) | {"data.label_field": config.label_field}
    records = list(islice(sources.read_records(source, columns), config.max_documents))
    if not records:
        raise ValueError(f"{source} has no rows: add some")
    features = [[number(record, name) for name in config.columns] for record in records]
    labels = [str(record.fields[config.label_field]).strip() for record in records]
    return FeatureRows(np.array(features), labels, [record.where for record in records])


def number(record: Record, column: str) -> float:
    """The number in a column; ValueError with its place if it is none."""
    value = record.fields[column]
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"field {column!r} of {record.where} is {value!r}, not a number: correct or remove the row")
    return found
