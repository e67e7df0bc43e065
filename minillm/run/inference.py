"""Loads a run for generation, filling gaps and embeddings."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from minillm.config import RunConfig, override
from minillm.generation.embed import Text, embed_texts
from minillm.inference.graph import GraphDecoder
from minillm.inference.measure import linear_weights
from minillm.inference.rounding import round_weights
from minillm.nn.kernels.quantized import QuantizedWeight
from minillm.objectives.base import Objective
from minillm.run.build import build_objective
from minillm.run.decoding import GRAPHS, DecodingDtype, make_decoder
from minillm.run.folder import find_checkpoint, find_run, load_own_tokenizer, read_about
from minillm.run.preview import next_command
from minillm.run.resolve import require_family
from minillm.run.weights import load_whole
from minillm.tokenizers.base import Tokenizer
from minillm.training import precision
from minillm.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class LoadedRun:
    """A run's model and everything that belongs to it."""

    folder: Path
    checkpoint: Checkpoint
    config: RunConfig
    tokenizer: Tokenizer
    model: Any
    """With fp32 weights; those of a quantized run are the values that its 8 or 4 bits stand for."""
    compute: precision.Compute
    quantized: Mapping[str, QuantizedWeight] = field(default_factory=dict)
    """Weights of 8 and 4 bits by name."""
    dtype: str = "auto"
    """Of plain weights during decoding: fp32, bf16 or auto, the faster one."""

    @cached_property
    def objective(self) -> Objective:
        """The objective of the run."""
        return build_objective(self.config, self.tokenizer)

    @cached_property
    def _decoder(self) -> tuple[Any, str]:
        return make_decoder(self.model, self.compute, self.quantized, dtype=self.dtype, cache=self.config.data.cache)

    @property
    def decoder(self) -> Any:
        """The model in the form that generates fastest on this machine."""
        return self._decoder[0]

    @property
    def batch_decoder(self) -> Any:
        """The decoder for batches in which new texts replace those that ended; CUDA graphs do not support that."""
        return self.decoder.plain if isinstance(self.decoder, GraphDecoder) else self.decoder

    def describe_decoder(self, *, batch: bool = False) -> str:
        """One line with the dtype and form of the products of `decoder`, or, if `batch`, of `batch_decoder`."""
        return self._decoder[1].removesuffix(GRAPHS) if batch else self._decoder[1]

    def require_writer(self) -> None:
        """ValueError unless the model writes text."""
        if self.model.writes == "nothing":
            raise ValueError(
                f"{self.folder} is a {self.config.model.family} model, which writes no text; "
                f"instead: {self.next_command()}"
            )

    def require_head(self) -> None:
        """ValueError if the model is an imported encoder without a head that predicts anything."""
        if not set(self.model.heads) - {"pooler"}:
            raise ValueError(
                f"{self.folder} was imported without a vocabulary head, so it predicts no tokens; "
                f"train one: minillm train --init-from {shlex.quote(str(self.folder))}"
            )

    def next_command(self) -> str:
        """The command that shows what the run can do."""
        return next_command(self.model, self.tokenizer, self.folder)

    def for_objective(self, name: str) -> "LoadedRun":
        """The same model for another objective; ValueError if it is of another family or lacks a head."""
        changed = replace(self, config=override(self.config, {"objective.name": name}))
        require_family(changed.config)
        if missing := set(changed.objective.targets.values()) - set(self.model.heads):
            raise ValueError(f"{self.folder} has no {missing.pop()} head, which the objective {name} needs")
        return changed

    def describe(self) -> str:
        """One line with folder, step, loss and tokenizer."""
        trained = self.checkpoint.state.train
        is_best = trained.best_step == self.checkpoint.step
        loss = f"validation loss {trained.best_loss:.4f}, " if is_best else ""
        loss += _describe_bits(self.quantized, self.folder) if self.quantized else ""
        adapter = self.config.adapter
        base = f", {adapter.name} of rank {adapter.rank} merged into {adapter.base}" if adapter.on else ""
        return f"{self.folder}: step {self.checkpoint.step}, {loss}{self.tokenizer.describe()}{base}"


def _describe_bits(quantized: Mapping[str, QuantizedWeight], folder: Path) -> str:
    """The bits of the weights, and what they cost if that was measured."""
    text = f"weights of {min(weight.bits for weight in quantized.values())} bits, "
    figures = read_about(folder).get("quantization", {})
    losses = [figures.get(when, {}).get("bits_per_byte") for when in ("before", "after")]
    return text if None in losses else f"{text}{losses[1]:.4f} bits per byte (in fp32 {losses[0]:.4f}), "


Run = LoadedRun | Path | str | None
"""A loaded run, or the argument of `load_run`."""


def load_run(
    run: Path | str | None = None,
    *,
    device: str = "auto",
    dtype: DecodingDtype = "auto",
    quantize: Literal[8, 4] | None = None,
) -> LoadedRun:
    """Load the best checkpoint of a run folder, or a given checkpoint folder; None: the latest run under runs/.

    `device` is as train.device; it need not be the one that the run was trained on. `dtype` is that of decoding; auto:
    the faster one. `quantize` rounds the weights to 8 or 4 bits.

    Raises:
        FileNotFoundError: there is no such run, or it has no checkpoint yet.
        ValueError: the checkpoint is damaged, the tokenizer is not the run's, or the weights cannot have these bits.
    """
    run = None if run is None else Path(run)
    folder, checkpoint = find_run(run), find_checkpoint(run)
    tokenizer = load_own_tokenizer(folder, checkpoint)
    config, model = load_whole(checkpoint)
    compute = _compute(config, device)
    quantized = checkpoint.quantized_weights()
    if quantize is not None:
        quantized = _rounded(model, quantized, quantize, folder)
    model = model.to(compute.device).eval()
    return LoadedRun(folder, checkpoint, config, tokenizer, model, compute, quantized, dtype)


def _rounded(
    model: Any, saved: Mapping[str, QuantizedWeight], bits: int, folder: Path
) -> Mapping[str, QuantizedWeight]:
    """The saved weights of a quantized run, else those of `model`, rounded; ValueError if none has this many bits."""
    quantized = saved or round_weights(linear_weights(model), bits=bits)
    found = min(weight.bits for weight in quantized.values())
    if found == bits:
        return quantized
    if saved:
        raise ValueError(f"{folder} already has weights of {found} bits; quantize the run that it was made from")
    raise ValueError(
        f"{folder} has no weight that can have {bits} bits: such weights need inputs in groups of 32, and output heads "
        f"keep {found} bits; quantize to {found} bits instead"
    )


def _compute(config: RunConfig, device: str) -> precision.Compute:
    """The run's precision if this device supports it, else auto; not compiled."""
    chosen = precision.choose_device(device)
    name = config.train.precision
    if name == "fp16" and chosen.type != "cuda":
        name = "auto"
    return precision.Compute(chosen, precision.choose_dtype(name, chosen), compile=False)


def loaded_run(run: Run) -> LoadedRun:
    """The run itself if it is loaded already, else `load_run`."""
    return run if isinstance(run, LoadedRun) else load_run(run)


def embed(run: Run, texts: Sequence[Text], *, prompt: str | None = None) -> Tensor:
    """The vectors of `texts` (N, D), as `embed_texts` with the settings of the run's [embed] section."""
    loaded = loaded_run(run)
    return embed_texts(loaded.model, loaded.tokenizer, texts, loaded.config.embed, prompt=prompt)
