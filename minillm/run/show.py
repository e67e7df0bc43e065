"""What a model does with `sample.prompt`, to be looked at while it trains."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from minillm.generation.config import SampleConfig
from minillm.generation.fill import MASK, fill_gaps
from minillm.generation.text import complete
from minillm.tokenizers.base import Tokenizer


def example_of(model: Any, tokenizer: Tokenizer, config: SampleConfig, *, prefix: bool = False) -> str:
    """The prompt with its continuation, or from an encoder with its gaps filled; empty if it has no gap."""
    if model.writes != "nothing":
        (only,) = complete(model, tokenizer, config.prompt, replace(config, num_samples=1), prefix=prefix)
        return f"{config.prompt}{' -> ' if model.writes == 'answer' else ''}{only.text}"
    if not MASK.search(config.prompt):
        return ""
    return f"{config.prompt} -> {fill_gaps(model, tokenizer, config.prompt).text}"


def next_command(model: Any, folder: Path) -> str:
    """What to type to see more of what the run in `folder` can do."""
    run = shlex.quote(str(folder))
    if "lm" not in model.config.heads:
        return f"minillm train --init-from {run}"
    return f'minillm fill {run} "A text with a [MASK]"' if model.writes == "nothing" else f"minillm sample {run}"
