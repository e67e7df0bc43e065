"""The counters of a training run, the state stored in checkpoints, and the outcome."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from minillm.storage import require_version

VERSION = 2
"""Version of state.json; version 1 had no `version`, no `imported`, and fewer counters."""


@dataclass
class TrainState:
    """Counters in a checkpoint. Random numbers are functions of (seed, step) and need no state."""

    step: int = 0
    tokens: int = 0
    examples: int | None = None
    """Training examples read so far; None in checkpoints of version 1."""
    seconds: float = 0.0
    """Training time so far, without evaluation and saving."""
    skipped: int = 0
    """Steps that were not finite and therefore not applied."""
    best_loss: float = math.inf
    best_value: float | None = None
    """Primary figure of the best evaluation; None before the first, and in checkpoints of version 1."""
    best_step: int | None = None
    """Step of the best evaluation; None before the first."""
    stale: int = 0
    """Evaluations since the best one."""
    train_loss: float = math.inf
    """Running mean of the training loss."""
    start_loss: float = math.inf
    """Training loss of the first step."""

    @property
    def best(self) -> float | None:
        """Primary figure of the best evaluation; in checkpoints of version 1, its loss."""
        return self.best_value if self.best_value is not None or self.best_step is None else self.best_loss


@dataclass(frozen=True)
class CheckpointState:
    """The content of a checkpoint's state.json."""

    train: TrainState
    scaler: dict[str, Any]
    """State of the gradient scaler; empty except in fp16."""
    tokenizer: str
    """Hash of the tokenizer."""
    data: str | None
    """Fingerprint of the training text; None for imported weights."""
    imported: bool = False
    """Whether the weights were imported."""
    version: int = VERSION

    @classmethod
    def read(cls, file: Path) -> CheckpointState:
        """Read `file`; ValueError if it is damaged, lacks a field, has an unknown field, or its version is newer."""
        try:
            content = _require_object(json.loads(file.read_text(encoding="utf-8")), file)
        except (JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} is not JSON: {error}") from None
        require_version(content, VERSION, file)
        train = _require_object(content.get("train", {}), file)
        if content.get("version", 1) == 1:
            content = {**content, "imported": content.get("data") is None, "version": VERSION}
            train = {"examples": None, "best_value": None, "start_loss": math.inf, **train}
        _require_fields(cls, content, file)
        _require_fields(TrainState, train, file)
        return cls(**{**content, "train": TrainState(**train)})


def _require_object(content: Any, file: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{file} is damaged: expected a JSON object, got {type(content).__name__}")
    return content


def _require_fields(owner: type[Any], content: dict[str, Any], file: Path) -> None:
    """ValueError for the first name that only `owner` or only `content` has."""
    expected = {field.name for field in fields(owner)}
    for name in sorted(expected ^ content.keys()):
        problem = "lacks the field" if name in expected else "has an unknown field"
        raise ValueError(f"{file} {problem} {name!r}: it was changed, or written by another version of minillm")


@dataclass(frozen=True)
class Outcome:
    """How training ended."""

    state: TrainState
    reason: str
    """finished, interrupted, or early (train.patience ended the run)."""
    signal: int | None
    """Number of the signal that stopped training, if any."""
    folder: Path
    """The run folder."""
