"""Labeled images as examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from minillm.data.config import DataConfig
from minillm.data.datasets.arrays import FeatureRows, feature_corpus
from minillm.data.datasets.corpus import Corpus
from minillm.data.sources.images import ENDINGS, read_labeled_images


def prepare_images(config: DataConfig, tokenizer: Any, *, progress: bool = False) -> Corpus:
    """Like `corpus.prepare`, for labeled images. Files of MNIST named t10k are the validation data."""
    rows, marked = _read(config.source, config)
    other = _read(config.validation, config)[0] if config.validation is not None else None
    channels, height, width = rows.features.shape[1:]
    unit = f"{'color ' if channels == 3 else ''}images of {width} x {height} pixels"
    return feature_corpus(config, rows, other, marked, unit)


def read_images(source: str, config: DataConfig, tokenizer: Any, *, progress: bool = False) -> FeatureRows:
    """All images of `source`, not split, to evaluate a trained model on."""
    return _read(source, config)[0]


def read_inputs(texts: list[str], source: str | None, config: DataConfig) -> list[Path]:
    """The image files for `minillm predict`: those named, or all in the folder `source`."""
    folder = None if source is None else Path(source).expanduser()
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {source}: give a folder of images, or the files themselves")
    named = [Path(text).expanduser() for text in texts]
    return named if folder is None else sorted(f for f in folder.rglob("*") if f.suffix.lower() in ENDINGS)


def _read(source: str, config: DataConfig) -> tuple[FeatureRows, np.ndarray]:
    """The images of a source, and which of them it holds out."""
    pixels, labels, where, held_out = read_labeled_images(source)
    limit = config.max_documents
    return FeatureRows(pixels[:limit], labels[:limit], where[:limit]), held_out[:limit]
