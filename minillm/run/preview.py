"""Previews of a model's output during training, and the command that shows more."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from minillm.generation.config import SampleConfig
from minillm.generation.fill import MASK, fill_gaps
from minillm.generation.text import complete
from minillm.objectives.base import Objective
from minillm.tokenizers.base import Tokenizer


def preview(model: Any, tokenizer: Tokenizer, config: SampleConfig, objective: Objective) -> str:
    """The prompt with its continuation or answer, or with its gaps filled; empty if the model does neither."""
    prompt = config.prompt or ""
    if model.writes == "nothing":
        gap = "lm" in model.heads and MASK.search(prompt)
        return f"{prompt} -> {fill_gaps(model, tokenizer, prompt).text}" if gap else ""
    encoded, config = objective.encode_prompt(prompt), replace(config, num_samples=1)
    options: dict[str, Any] = {"prefix": objective.prefix_prompts, "eos_id": objective.stop_id}
    (only,) = complete(model, tokenizer, [encoded], config, **options)
    continues = model.writes == "continuation" and encoded == prompt
    return prompt + only.text if continues else f"{prompt} -> {only.text}"


def next_command(model: Any, tokenizer: Tokenizer, folder: Path) -> str:
    """The command that shows what the run in `folder` can do."""
    run = shlex.quote(str(folder))
    if model.writes == "continuation" and tokenizer.chat_template is not None:
        return f"minillm chat {run}"
    if model.writes != "nothing":
        return f"minillm sample {run}"
    if "lm" in model.heads:
        return f'minillm fill {run} "A text with a [MASK]"'
    if set(model.heads) & {"class", "tag", "span", "value"}:
        texts = ' "A question" "Its context"' if "span" in model.heads else ' "A text"'
        return f"minillm predict {run}{texts if tokenizer.vocab_size else ''}"  # no vocabulary: images or numbers
    return f'minillm embed {run} "A text" "Another text"'
