"""A trained run: loaded from its folder, it writes and is measured."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from minillm.config import RunConfig, load_config
from minillm.distributed.runtime import Runtime
from minillm.generation.adapters import Decodable
from minillm.generation.config import BeamConfig, SampleConfig
from minillm.generation.fill import Filled, MaskedModel, fill_gaps
from minillm.generation.generate import Completion
from minillm.generation.text import complete
from minillm.generation.text import search as search_text
from minillm.models.base import Model
from minillm.models.build import build_model
from minillm.run.build import (
    baseline_for,
    build_objective,
    prepare_corpus,
    read_source,
    reads_prefix,
    validation_batches,
)
from minillm.run.folder import CONFIG, find_checkpoint, find_run, load_own_tokenizer, require_same_text
from minillm.run.show import next_command
from minillm.tokenizers.base import Tokenizer
from minillm.training import precision
from minillm.training.checkpoint import Checkpoint
from minillm.training.evaluate import Evaluation
from minillm.training.evaluate import evaluate as evaluate_model


@dataclass(frozen=True)
class LoadedRun:
    """A trained model with all that belongs to it."""

    folder: Path
    checkpoint: Checkpoint
    config: RunConfig
    tokenizer: Tokenizer
    model: Model
    compute: precision.Compute

    @cached_property
    def decoder(self) -> Decodable:
        """The model with its weights in the dtype that the run computes in."""
        return cast(Decodable, precision.for_decoding(self.model, self.compute))

    @property
    def prefix(self) -> bool:
        """Whether the model reads its prompts in both directions, as it was trained to."""
        return reads_prefix(self.config.objective)

    def require_writer(self) -> None:
        """ValueError where the model does not write text."""
        if self.model.writes == "nothing":
            raise ValueError(
                f"{self.folder} is a {self.config.model.family} model, which writes no text but fills gaps in one: "
                + next_command(self.model, self.folder)
            )

    def require_head(self) -> None:
        """ValueError where the model was published as an encoder alone, without a vocabulary head."""
        if "lm" not in self.config.model.heads:
            raise ValueError(
                f"{self.folder} was imported without a vocabulary head, so it predicts no tokens; "
                f"train one: minillm train --init-from {shlex.quote(str(self.folder))}"
            )

    def describe(self) -> str:
        """One line: which run, which step, how good, which tokenizer."""
        trained = self.checkpoint.state.train
        is_best = trained.best_step == self.checkpoint.step
        loss = f"validation loss {trained.best_loss:.4f}, " if is_best else ""
        return (
            f"{self.folder}: step {self.checkpoint.step}, {loss}"
            f"{self.tokenizer.kind} tokenizer of {self.tokenizer.vocab_size} ids"
        )


def load_run(run: Path | str | None = None, *, device: str = "auto") -> LoadedRun:
    """A run's best checkpoint, or the one that `run` names, ready to use.

    Args:
        run: run folder, or a checkpoint folder in it; None: the latest run under runs/.
        device: as train.device. What the run was trained on does not matter: it may have come from another machine.

    Raises:
        FileNotFoundError: no such run, or nothing saved in it yet.
        ValueError: the checkpoint is damaged, or the tokenizer is not the run's.
    """
    run = None if run is None else Path(run)
    folder, checkpoint = find_run(run), find_checkpoint(run)
    config = load_config(folder / CONFIG)
    tokenizer = load_own_tokenizer(folder, checkpoint)
    compute = _compute(config, device)
    model = build_model(config.model)
    checkpoint.load_model(model)
    return LoadedRun(folder, checkpoint, config, tokenizer, model.to(compute.device).eval(), compute)


def _compute(config: RunConfig, device: str) -> precision.Compute:
    """The run's precision where this device has it, else what suits the device; compiling is for training."""
    found = precision.choose_device(device)
    name = config.train.precision
    if name == "fp16" and found.type != "cuda":
        name = "auto"
    return precision.Compute(found, precision.choose_dtype(name, found), compile=False)


def sample(
    loaded: LoadedRun, config: SampleConfig, on_text: Callable[[int, str], None] | None = None
) -> list[Completion]:
    """Continue `config.prompt`; `on_text(row, piece)` sees the text as it comes.

    Raises:
        ValueError: the model does not write, or the prompt cannot be encoded.
    """
    loaded.require_writer()
    return complete(loaded.decoder, loaded.tokenizer, config.prompt, config, prefix=loaded.prefix, on_text=on_text)


def search(loaded: LoadedRun, prompt: str, config: BeamConfig) -> list[Completion]:
    """The likeliest continuations of `prompt`, or answers to it, that a beam finds; raises as `sample`."""
    loaded.require_writer()
    return search_text(loaded.decoder, loaded.tokenizer, prompt, config, prefix=loaded.prefix)


def fill(loaded: LoadedRun, text: str, *, top_k: int = 5) -> Filled:
    """The likeliest tokens in the gaps of `text`, which are written [MASK] or <|mask|>.

    Raises:
        ValueError: the model has not learned to fill gaps, or the text has none or is too long.
    """
    family = loaded.config.model.family
    if family != "bert":
        raise ValueError(
            f"{loaded.folder} is a {family} model, which writes text and fills no gaps: "
            + next_command(loaded.model, loaded.folder)
        )
    loaded.require_head()
    with loaded.compute.autocast():
        return fill_gaps(cast(MaskedModel, loaded.model), loaded.tokenizer, text, top_k=top_k)


def evaluate(loaded: LoadedRun, source: str | None = None) -> Evaluation:
    """Loss over the whole of `source`, or over the run's validation text, there with what it has to beat.

    Raises:
        FileNotFoundError, OSError: the text is not there.
        ValueError: the run's own text has changed since, or a character is outside the run's vocabulary.
    """
    loaded.require_head()
    objective = build_objective(loaded.config, loaded.tokenizer)
    runtime = Runtime(device=loaded.compute.device)
    guess = None
    if source is None:
        corpus = prepare_corpus(loaded.config, loaded.tokenizer, runtime)
        require_same_text(loaded.checkpoint, corpus.info.fingerprint, loaded.config.data.source)
        tokens, guess = corpus.validation, baseline_for(loaded.config, corpus, objective)
    else:
        tokens = read_source(loaded.config, source, loaded.tokenizer)
    found = evaluate_model(
        loaded.model,
        validation_batches(loaded.config, tokens, objective, runtime, max_tokens=0),
        objective,
        compute=loaded.compute,
        runtime=runtime,
        token_bytes=bytes_of_ids(loaded.tokenizer, loaded.compute),
    )
    return replace(found, guess=guess)


def bytes_of_ids(tokenizer: Tokenizer, compute: precision.Compute) -> Tensor:
    """(V,) UTF-8 bytes of each id, on the device."""
    return torch.from_numpy(tokenizer.num_bytes).to(compute.device)
