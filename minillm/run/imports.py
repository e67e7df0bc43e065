"""Published weights to a run folder, from which everything goes on as from a run that was trained here."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from minillm import report
from minillm.config import RunConfig, override
from minillm.data.config import DataConfig
from minillm.data.hub import fetch_model
from minillm.exchange.architectures import Imported, from_foreign
from minillm.exchange.files import read_config, read_weights
from minillm.exchange.tokenizer_in import read_tokenizer
from minillm.generation.config import SampleConfig
from minillm.models.build import build_model
from minillm.nn.config import ModelConfig
from minillm.objectives.config import ObjectiveConfig
from minillm.run.folder import CONFIG, claim, require_free, write_start
from minillm.tokenizers.base import Tokenizer
from minillm.tokenizers.config import TokenizerConfig
from minillm.training.checkpoint import load_weights, save_checkpoint
from minillm.training.checkpoint import weights as own_weights
from minillm.training.state import CheckpointState, TrainState

OBJECTIVES = {"gpt": "clm", "bert": "mlm", "t5": "span"}
"""What each family was trained on when it was published."""
WINDOW = 512
"""Tokens of an example to evaluate and go on training on; published models read more than a CPU can learn from."""


class Source(NamedTuple):
    """A published model as it was read."""

    model: Imported
    tokenizer: Tokenizer


def import_model(source: Path | str, out: Path | str) -> Path:
    """Make a run folder of a published model.

    Args:
        source: a folder in Hugging Face's layout, a GGUF file, or the name of a model on the hub.
        out: the run folder, not there yet.

    Returns:
        The run folder.

    Raises:
        OSError: the source is not there, or the hub does not answer, or the folder cannot be written.
        ValueError: a part that this package does not have, named; a damaged file; a folder that is taken.
    """
    source, out = str(source), Path(out)
    require_free(out)
    (config, weights), tokenizer = read_source(source)
    require_valid(config, source)
    rows = config.vocab_size or 0
    if rows < tokenizer.vocab_size:
        raise ValueError(f"{source}: the tokenizer has {tokenizer.vocab_size} ids, the weights only {rows}: not a pair")
    model = build_model(config)
    load_weights(model, {name: weights[name] for name in own_weights(model)}, where=Path(source))
    run = RunConfig(
        model=config,
        tokenizer=TokenizerConfig(kind="imported"),
        data=DataConfig(seq_len=min(config.max_seq_len, WINDOW)),
        objective=ObjectiveConfig(name=OBJECTIVES[config.family], next_sentence="pair" in config.heads),  # type: ignore[arg-type]
        sample=SampleConfig(prompt=prompt_for(config)),
    )
    state = CheckpointState(TrainState(), scaler={}, tokenizer=tokenizer.hash, data=None, imported=True)
    with claim(out, resume=False):
        save_checkpoint(out, 0, model=model, optimizer={}, state=state)
        about = {"imported_from": source, **report.about_program(model, tokenizer)}
        write_start(out, run, tokenizer, about, resume=False)
    return out


def read_source(source: str) -> Source:
    """The model and the tokenizer at `source`, as `import_model` takes it."""
    path = Path(source)
    if path.suffix.lower() == ".gguf":
        from minillm.exchange.gguf_in import read_gguf  # needs a package that is an extra

        return Source(*read_gguf(path))
    if (path / CONFIG).is_file():
        raise ValueError(f"{path} is a run already; use it as it is, or start from it with train --init-from")
    folder = path if source and path.is_dir() else fetch_model(source)
    config, weights = read_config(folder), read_weights(folder)
    try:
        return Source(from_foreign(config, weights), read_tokenizer(folder))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def require_valid(config: ModelConfig, source: str) -> None:
    """ValueError where a run's config.toml could not hold these values, as it could not be loaded again then."""
    values = {f"model.{key}": value for key, value in asdict(config).items() if value is not None}
    try:
        override(RunConfig(), values)
    except ValueError as error:
        raise ValueError(f"{source} has settings that no model can have: {error}") from None


def prompt_for(config: ModelConfig) -> str:
    """A prompt that shows what the family does."""
    prompts = {"bert": "The capital of France is [MASK].", "t5": "The capital of <|extra_id_0|> is Paris."}
    return prompts.get(config.family, "The capital of France is")
