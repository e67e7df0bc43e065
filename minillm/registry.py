"""The table of objectives: all that a run can learn, one row each.

Adding an objective touches two files: its own, and this one. A row names what the objective brings as `module:name`,
imported when it is used, so that the command line answers before torch is loaded.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ObjectiveSpec:
    """One row."""

    config: str
    """The dataclass of its [objective] section."""
    builders: Mapping[str, str]
    """Model family to the function that builds the objective for it: `build(section, Setup) -> Objective`."""
    dataset: str = "text"
    """Row of DATASETS: how its data is read."""
    reads: tuple[str, ...] = ()
    """Keys of [data] that only this objective reads, of those that not every one of its data set does."""
    baselines: tuple[str, ...] = ()
    """Functions that score what is to be beaten, `(Measurement) -> dict[str, float]`; quick."""
    evaluators: tuple[str, ...] = ()
    """Functions that `minillm eval` calls for more figures, `(Measurement) -> dict[str, Any]`; may take minutes."""
    resolve: str | None = None
    """`(section, Corpus) -> section`: fills in what only the data tells, such as the names of labels."""

    def load(self, name: str) -> Any:
        """The object that this row names in its field `name`."""
        return load(getattr(self, name))


@dataclass(frozen=True)
class DatasetSpec:
    """How a kind of data is read."""

    prepare: str
    """`(DataConfig, tokenizer or its builder, *, progress) -> Corpus`: training and validation split."""
    read: str
    """`(source, DataConfig, tokenizer, *, progress) -> tokens`: all of another source, to evaluate on."""
    windows: bool = False
    """Whether examples are windows of one text, which must hold two of them; else one example is enough."""


_DATA = "minillm.data.datasets"
DATASETS: dict[str, DatasetSpec] = {
    "text": DatasetSpec(f"{_DATA}.corpus:prepare", f"{_DATA}.corpus:read_tokens", windows=True),
    "tasks": DatasetSpec(f"{_DATA}.tasks:prepare_tasks", f"{_DATA}.tasks:read_task_tokens"),
    "labelled": DatasetSpec(f"{_DATA}.labelled:prepare_labelled", f"{_DATA}.labelled:read_labelled"),
}

OBJECTIVES: dict[str, ObjectiveSpec] = {
    "clm": ObjectiveSpec(
        "minillm.objectives.clm:CausalConfig", {"gpt": "minillm.objectives.clm:build"}, reads=("data.packing",)
    ),
    "mlm": ObjectiveSpec(
        "minillm.objectives.mlm:MaskedConfig",
        {"bert": "minillm.objectives.mlm:build"},
        baselines=("minillm.evaluation.unigram_baseline:unigram_figures",),
    ),
    "span": ObjectiveSpec("minillm.objectives.span:SpanConfig", {"t5": "minillm.objectives.span:build"}),
    "prefix_lm": ObjectiveSpec(
        "minillm.objectives.prefix_lm:PrefixConfig",
        {"gpt": "minillm.objectives.prefix_lm:build", "t5": "minillm.objectives.prefix_lm:build_encoder_decoder"},
    ),
    "seq2seq": ObjectiveSpec(
        "minillm.objectives.seq2seq:Seq2SeqConfig",
        {"t5": "minillm.objectives.seq2seq:build"},
        dataset="tasks",
        evaluators=("minillm.evaluation.text_to_text:task_figures",),
    ),
    "classify": ObjectiveSpec(
        "minillm.objectives.classify:ClassifyConfig",
        {"bert": "minillm.objectives.classify:build"},
        dataset="labelled",
        baselines=("minillm.objectives.classify:majority_figures",),
        resolve="minillm.objectives.classify:name_labels",
    ),
}


def objective_spec(name: str) -> ObjectiveSpec:
    """The row of that name; ValueError with the nearest name where there is none."""
    if name not in OBJECTIVES:
        near = difflib.get_close_matches(str(name), OBJECTIVES, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"objective.name is {name!r}; it must be one of {', '.join(OBJECTIVES)}{hint}")
    return OBJECTIVES[name]


def load(reference: str) -> Any:
    """The object that `module:name` stands for."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
