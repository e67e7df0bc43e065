"""What a frozen reference model says about the data, computed once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minillm.adapters.lora import without_adapter
from minillm.config import RunConfig
from minillm.data import cache
from minillm.distributed.runtime import Runtime
from minillm.nn.output import Output
from minillm.objectives.base import Objective
from minillm.registry import load, objective_spec
from minillm.run.build import seq_len
from minillm.training.precision import Compute

NUMBERS = "numbers.npy"


def with_reference(
    config: RunConfig,
    objective: Objective,
    reference: Callable[[], Any],
    tokens: Any,
    *,
    compute: Compute,
    runtime: Runtime,
) -> Any:
    """The tokenized data with the numbers of the reference model, if the objective compares with one.

    They are in the data cache, by the hashes of the reference's weights and of the data. If they are not there, the
    first rank computes them with the model that `reference` returns, an adapter of which is switched off.
    """
    function = objective_spec(config.objective.name).reference
    if function is None:
        return tokens
    key = (config.objective.reference_hash, tokens.fingerprint, seq_len(config), compute.precision, compute.device.type)
    folder = cache.cache_folder(config.data.cache) / f"reference-{cache.key(config.objective.name, *key)}"

    def make(temporary: Path) -> dict[str, Any]:
        np.save(temporary / NUMBERS, _compute(load(function), objective, reference(), tokens, config, compute))
        return {}

    if not runtime.is_main:
        runtime.barrier()
    cache.entry(folder, make)
    if runtime.is_main:
        runtime.barrier()
    return tokens.with_reference(np.load(folder / NUMBERS))


@torch.inference_mode()
def _compute(
    function: Callable, objective: Objective, model: Any, tokens: Any, config: RunConfig, compute: Compute
) -> np.ndarray:
    """The numbers for all examples, in the precision of training, so that the first loss is exact."""

    def forward(inputs: dict[str, Tensor]) -> Output:
        with compute.autocast():
            output = model(**{name: tensor.to(compute.device) for name, tensor in inputs.items()})
        return Output(output.hidden, {name: logits.cpu() for name, logits in output.logits.items()})

    size = config.train.micro_batch or config.eval.batch
    examples = [tokens.row(i) for i in range(len(tokens))]
    training = model.training
    with without_adapter(model.eval()):
        parts = [function(objective, examples[i : i + size], forward) for i in range(0, len(examples), size)]
    model.train(training)
    return np.concatenate(parts)
