"""Makes a run with weights of 8 or 4 bits from another run, and compares the two."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from minillm.adapters.config import AdapterConfig
from minillm.config import override
from minillm.data.loader import eval_batches
from minillm.distributed.runtime import Runtime
from minillm.generation.config import SampleConfig
from minillm.generation.generate import generate
from minillm.inference.gptq import calibrate, gptq_int4
from minillm.inference.measure import linear_names
from minillm.inference.rounding import bits_of, round_weights
from minillm.nn.kernels.quantized import QuantizedWeight, to_tensors
from minillm.run.build import build_evaluator, prepare_corpus, run_parts, seq_len
from minillm.run.folder import claim, read_about, write_start
from minillm.run.inference import LoadedRun, load_run
from minillm.training.checkpoint import save_checkpoint, weights

Method = Literal["rtn", "gptq"]
GROUP = 32
"""Inputs that share a scale, by default."""
CALIBRATION_TOKENS = 8_192
"""Tokens of the text on which GPTQ measures the inputs of each layer."""
EVALUATION_TOKENS = 16_384
"""Maximum tokens of the validation text in the comparison."""
NUM_TIMED = 64
"""Tokens generated to measure the speed."""


@dataclass(frozen=True)
class Quantized:
    """A new quantized run, compared with the one that it was made from."""

    folder: Path
    method: Method
    left_alone: tuple[str, ...]
    """Weights of more than one dimension that were not quantized."""
    before: dict[str, float]
    """megabytes of the weights; bits_per_byte if the objective covers a text; tokens_per_second of greedy decoding."""
    after: dict[str, float]
    """The same of the new run."""


def quantize_run(
    run: LoadedRun | Path | str,
    out: Path | str,
    *,
    bits: Literal[4, 8] = 8,
    group: int | None = None,
    method: Method | None = None,
    data: Path | str | None = None,
) -> Quantized:
    """Write `run` to the new run folder `out` with the weights of its linear layers in 8 or 4 bits.

    With 4 bits, the vocabulary head has 8: it is the most sensitive layer. An embedding table has them too if it is
    tied to the head.

    Args:
        bits: of each weight in a block.
        group: inputs that share a scale; None: 32, or with 8 bits all inputs of a row where 32 is no divisor.
        method: rtn rounds to the nearest value; gptq compensates errors, see inference/gptq.py. None: gptq for 4 bits.
        data: text for GPTQ, whose validation split serves the comparison; None: the run's own.
    Raises:
        ValueError: the folder exists, no weight has groups of this size, the run is already quantized, or GPTQ has no
            text.
    """
    loaded = run if isinstance(run, LoadedRun) else load_run(run, device="cpu")
    method = method or ("gptq" if bits == 4 else "rtn")
    if loaded.quantized:
        raise ValueError(f"{loaded.folder} is already quantized; use the run that it was made from")
    if group is not None or bits == 4:
        _require_groups(loaded, bits, GROUP if group is None else group)
    group = GROUP if group is None else group
    if method == "gptq" and bits == 8:
        raise ValueError("method gptq is for 4 bits: with 8, rounding to the nearest value loses nothing measurable")
    texts = _corpus(loaded, data)
    if texts is None and method == "gptq":
        raise ValueError(f"{loaded.folder} was imported, so it has no text for GPTQ; give --data, or --method rtn")
    before = {"megabytes": _megabytes(weights(loaded.model))} | _figures(loaded, texts)
    quantized = _quantized(loaded.model, bits, group, None if method == "rtn" else _calibration(loaded, texts))
    tensors = {name: tensor.detach() for name, tensor in weights(loaded.model).items() if name not in quantized}
    left = tuple(name for name, tensor in tensors.items() if tensor.ndim > 1)
    for name, weight in quantized.items():
        tensors |= to_tensors(name, weight)
    after = {"megabytes": _megabytes(tensors)} | _figures(replace(loaded, quantized=quantized), texts)
    made = Quantized(Path(out), method, left, before, after)
    _write(made, loaded, tensors, {"bits": bits, "group": group})
    return made


def _require_groups(loaded: LoadedRun, bits: int, group: int) -> None:
    """ValueError if no weight that gets `bits` has rows of whole groups."""
    if group < 1:
        raise ValueError(f"a group has at least one input, not {group}; give --group 32, 64, 128 or 256")
    inputs = {layer.in_features for layer, name in linear_names(loaded.model).items() if bits_of(name, bits) == bits}
    if not any(number % group == 0 for number in inputs):
        raise ValueError(
            f"{loaded.folder} has no weight whose inputs can be divided into groups of {group}; give --group a divisor "
            f"of {' or '.join(map(str, sorted(inputs)))}"
        )


def _quantized(
    model: Any, bits: int, group: int, calibration: list[dict[str, Tensor]] | None
) -> dict[str, QuantizedWeight]:
    """The quantized weights of a model by name; the model's own become what they stand for."""
    names, quantized = linear_names(model), {}
    if calibration is not None:
        inner = {layer: name for layer, name in names.items() if bits_of(name, bits) == 4}
        inner = {layer: name for layer, name in inner.items() if layer.in_features % group == 0}
        quantized = calibrate(model, calibration, inner, partial(gptq_int4, group=group))
    rest = {name: layer.weight for layer, name in names.items() if name not in quantized}
    rounded = round_weights(rest, bits=bits, group=group)
    return quantized | rounded


def _write(made: Quantized, loaded: LoadedRun, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    """Write the run folder."""
    state = replace(loaded.checkpoint.state, scaler={}, imported=True)  # there is no optimizer state to resume with
    about = read_about(loaded.folder) | {"quantized_from": str(loaded.checkpoint.path)}
    figures = {"method": made.method, "left_alone": made.left_alone, "before": made.before, "after": made.after}
    with claim(made.folder, resume=False):
        save_checkpoint(made.folder, loaded.checkpoint.step, model=tensors, optimizer={}, state=state)
        config = replace(loaded.config, adapter=AdapterConfig())
        write_start(made.folder, config, loaded.tokenizer, about | {"quantization": settings | figures}, resume=False)


def _megabytes(tensors: Mapping[str, Tensor]) -> float:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) / 1e6


def _corpus(loaded: LoadedRun, data: Path | str | None) -> Any:
    """The corpus of `data` or of the run; None if an imported run has none."""
    if data is None and loaded.checkpoint.state.imported:
        return None
    config = loaded.config if data is None else override(loaded.config, {"data.source": str(data)})
    return prepare_corpus(config, loaded.tokenizer, Runtime(device=loaded.compute.device))


def _calibration(loaded: LoadedRun, corpus: Any) -> list[dict[str, Tensor]]:
    """Inputs of the model for CALIBRATION_TOKENS of the training text."""
    config = loaded.config
    examples = loaded.objective.examples(corpus.train, config.data, seq_len(config), training=False)
    batches = eval_batches(
        examples, loaded.objective.collate, batch=8, max_tokens=CALIBRATION_TOKENS, rank=0, world_size=1
    )
    return [batch.inputs for batch in batches]


@torch.inference_mode()
def _figures(loaded: LoadedRun, corpus: Any) -> dict[str, float]:
    """Loss in bits per byte and speed, as far as the run has them."""
    found: dict[str, float] = {}
    if corpus is not None:
        runtime = Runtime(device=loaded.compute.device)
        compute = replace(loaded.compute, dtype=torch.float32)
        parts = run_parts(loaded.config, loaded.model, loaded.tokenizer, loaded.objective, compute, runtime)
        measured = build_evaluator(loaded.config, corpus.validation, parts, max_tokens=EVALUATION_TOKENS)(loaded.model)
        if measured.bits_per_byte is not None:
            found["bits_per_byte"] = measured.bits_per_byte
    if loaded.model.writes == "continuation":
        config, decoder = SampleConfig(temperature=0, max_new_tokens=NUM_TIMED, num_draft_tokens=0), loaded.decoder
        generate(decoder, [[0, 1, 2]], replace(config, max_new_tokens=4))
        began = time.perf_counter()
        generate(decoder, [[0, 1, 2]], config)
        found["tokens_per_second"] = NUM_TIMED / (time.perf_counter() - began)
    return found
