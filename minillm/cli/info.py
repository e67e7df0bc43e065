"""`minillm info`."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path

from minillm.cli.output import show
from minillm.config import load_config
from minillm.models.presets import PRESETS, preset
from minillm.nn.config import ModelConfig
from minillm.tokenizers.config import TokenizerConfig


def info(model: str | None = None, /, *, json: bool = False) -> None:
    """Count a model's parameters by part, FLOPs a token in training, KV-cache bytes a token, memory to train.

    Args:
        model: Run folder or name of a preset; the latest run under runs/ if left out.
        json: Print one JSON object instead of lines.
    """
    shape = _shape(model)

    from minillm.models.profile import profile

    counted = asdict(profile(shape))
    show({"parameters": counted.pop("parameters") | {"total": counted.pop("total")}} | counted, json=json)


def _shape(model: str | None) -> ModelConfig:
    """The shape of a run's model or of a preset; a preset without a vocabulary gets the default tokenizer's size."""
    if model in PRESETS and not Path(model).is_dir():
        shape = preset(model)
        if shape.vocab_size is None:
            shape = replace(shape, vocab_size=TokenizerConfig.vocab_size)
            print(f"preset {model}, with a vocabulary of {shape.vocab_size}", file=sys.stderr)
        return shape
    if model is not None and not Path(model).is_dir():
        raise ValueError(f"{model} is neither a run folder nor a preset; the presets are {', '.join(PRESETS)}")

    from minillm import run

    folder = run.find_run(None if model is None else Path(model))
    print(f"run {folder}", file=sys.stderr)
    return load_config(folder / run.CONFIG).model
