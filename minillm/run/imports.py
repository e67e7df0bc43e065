"""Imports published weights as a run folder, which works like a trained run."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minillm.config import RunConfig, objective_class, override
from minillm.data.config import DataConfig
from minillm.exchange.architectures import family_of
from minillm.exchange.folder_in import read_published
from minillm.generation.config import SampleConfig
from minillm.models.build import build_model
from minillm.nn.config import ModelConfig
from minillm.run import report
from minillm.run.folder import CONFIG, claim, require_free, write_start
from minillm.tokenizers.config import TokenizerConfig
from minillm.training.checkpoint import save_checkpoint
from minillm.training.checkpoint import weights as own_weights
from minillm.training.state import CheckpointState, TrainState

WINDOW = 512
"""Maximum data.seq_len of an imported run; many published models read more tokens than a CPU can train on."""
CHAT_SAMPLING: dict[str, Any] = {"temperature": 0.2, "top_p": 0.9}
"""[sample] of an imported model that has a chat template and names no settings, as recommended for SmolLM2-Instruct."""


def import_model(source: Path | str, out: Path | str, *, say: Callable[[str], None] = print) -> Path:
    """Import a folder in Hugging Face's format, a GGUF file, or a model on the hub; returns the run folder.

    `say` receives a line about each thing that the run does not keep, such as a setting without a counterpart.

    Raises:
        OSError: the source does not exist, the hub does not answer, or the folder cannot be written.
        ValueError: the model has an unsupported part, a file is damaged, or the folder exists.
    """
    source, out = str(source), Path(out)
    require_free(out)
    if (Path(source) / CONFIG).is_file():
        raise ValueError(f"{source} is already a run; use it directly, or start from it with train --init-from")
    (config, weights), tokenizer, embed, generation, license, task, notes = read_published(source)
    require_valid(config, source)
    model, family = assemble(config, weights, source), family_of(config)
    chat = CHAT_SAMPLING if tokenizer.chat_template and "temperature" not in generation else {}
    section = task or {"name": family.objective, **({"next_sentence": True} if "pair" in config.heads else {})}
    run = RunConfig(
        model=config,
        tokenizer=TokenizerConfig(kind="imported"),
        data=DataConfig(seq_len=min(config.max_seq_len, WINDOW)),
        objective=objective_class(str(section["name"]))(**section),
        sample=SampleConfig(prompt="" if task else family.prompt, **chat, **generation),
        embed=embed,
    )
    state = CheckpointState(TrainState(), scaler={}, tokenizer=tokenizer.hash, data=None, imported=True)
    with claim(out, resume=False):
        save_checkpoint(out, 0, model=own_weights(model), optimizer={}, state=state)
        about = {"imported_from": source, **report.about_program(model, tokenizer)}
        about |= {} if license is None else {"license": license}
        write_start(out, run, tokenizer, about, resume=False)
    for note in notes:
        say(note)
    return out


def assemble(config: ModelConfig, weights: dict[str, Tensor], source: str) -> nn.Module:
    """The model with these weights, not copied. It is only for saving: other buffers stay on the meta device."""
    with torch.device("meta"):
        model = build_model(config)
    for name, parameter in model.named_parameters():
        if parameter.shape != weights[name].shape:
            shapes = f"{list(weights[name].shape)}, but its config.json needs {list(parameter.shape)}"
            raise ValueError(f"{source}: {name} has shape {shapes}")
        torch.utils.swap_tensors(parameter, nn.Parameter(weights[name]))  # tied parameters stay one object
    return model


def require_valid(config: ModelConfig, source: str) -> None:
    """ValueError if a run's config.toml with these values could not be loaded."""
    values = {f"model.{key}": value for key, value in asdict(config).items() if value is not None}
    try:
        override(RunConfig(), values)
    except ValueError as error:
        raise ValueError(f"{source} has invalid settings: {error}") from None
