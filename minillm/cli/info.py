"""`minillm info`."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from minillm.cli.output import show
from minillm.models.presets import PRESETS, preset
from minillm.tokenizers.config import TokenizerConfig

if TYPE_CHECKING:
    from minillm.models.profile import Profile


def info(model: str | None = None, /, *, json: bool = False) -> None:
    """Show a model's parameters by part, training FLOPs per token, KV-cache bytes per token, and memory for training.

    Args:
        model: Run folder or name of a preset. Default: the latest run under runs/.
        json: Print one JSON object instead of lines.
    """
    counted = asdict(_profile(model))
    total, trained = counted.pop("total"), counted.pop("trained")
    counted["parameters"] |= {"total": total} | ({} if trained == total else {"trained": trained})
    show({"parameters": counted.pop("parameters")} | counted, json=json)


def _profile(model: str | None) -> Profile:
    """The cost of a run's model, or of a preset, with the default vocabulary size if the preset has none."""
    if model in PRESETS and not Path(model).is_dir():
        shape = preset(model)
        if shape.vocab_size is None:
            shape = replace(shape, vocab_size=TokenizerConfig.vocab_size)
            print(f"preset {model}, with a vocabulary of {shape.vocab_size}", file=sys.stderr)

        from minillm.models.profile import profile

        return profile(shape)
    if model is not None and not Path(model).is_dir():
        raise ValueError(f"{model} is neither a run folder nor a preset; the presets are {', '.join(PRESETS)}")

    from minillm import run

    folder = run.find_run(None if model is None else Path(model))
    print(f"run {folder}", file=sys.stderr)
    return run.profile_run(folder)
