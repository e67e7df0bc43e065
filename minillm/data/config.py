"""Where a run's text comes from, as data. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The text, how it is split, and how long a training example is."""

    source: str = "builtin:python-docs"
    """Text file, folder, glob, .jsonl(.gz), .csv, .parquet, hf:NAME, builtin:python-docs or builtin:python-stdlib."""
    field: str = "text"
    """Column or key that holds the text in jsonl, csv, parquet and hub sources."""
    input_field: str = "input"
    """Column or key that holds the input of a text-to-text example, its task's prefix included."""
    target_field: str = "target"
    """Column or key that holds the target of a text-to-text example."""
    mixing: Literal["proportional", "temperature", "equal"] = "proportional"
    """How often each text-to-text task is seen: as it has examples, as it has to the power 1/T, or all alike."""
    mixing_temperature: float = 2.0
    """The T of `mixing` temperature: 1 is proportional, without end equal (Raffel et al. 2020, section 3.5.2)."""
    max_documents: int | None = None
    """Documents to read from a source at most, for hub sources too large to fetch whole; None: all."""
    validation: str | None = None
    """Source of an own validation text; None: split it off the training text."""
    validation_fraction: float = 0.1
    """Share of the text that validation gets where it is split off."""
    split: Literal["auto", "tail", "document"] = "auto"
    """tail: the end of the text; document: whole documents; auto: document from 20 documents on, else tail."""
    seq_len: int | None = None
    """Tokens in a training example; None: model.max_seq_len."""
    cache: str | None = None
    """Folder of the tokenized shards; None: the user's cache folder."""

    def __post_init__(self) -> None:
        """Raise ValueError with the key and its range where a value lies outside it."""
        if not self.mixing_temperature >= 1:
            raise ValueError(f"data.mixing_temperature is {self.mixing_temperature}; it must be at least 1")
        if self.max_documents is not None and self.max_documents < 1:
            raise ValueError(f"data.max_documents is {self.max_documents}; it must be at least 1, or none for all")
