"""Predictions of a run for new texts or other inputs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minillm.config import override
from minillm.generation.adapters import evaluating
from minillm.nn.output import Output
from minillm.objectives.base import Predictor
from minillm.registry import DATASETS, OBJECTIVES, load, objective_spec
from minillm.run.inference import LoadedRun, load_run


def predict(
    run: LoadedRun | Path | str | None,
    texts: Sequence[str] = (),
    *,
    source: Path | str | None = None,
    fields: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """What the run predicts for each of `texts`, or for each example of `source`: JSON values, in the same order.

    Args:
        run: a loaded run, or as in `load_run`.
        texts: inputs, as the run's data set reads them.
        source: a file or another source as in `minillm train --data`; labels in it are not read.
        fields: keys of [data] that name the fields of `source`, such as {"field": "body"}.

    Raises:
        OSError: the source does not exist.
        ValueError: the run's objective predicts nothing of this kind, there is no input, or an input cannot be read.
    """
    loaded = run if isinstance(run, LoadedRun) else load_run(run)
    spec = objective_spec(loaded.config.objective.name)
    read = DATASETS[spec.dataset].inputs
    if spec.predict is None or read is None:
        able = [name for name, row in OBJECTIVES.items() if row.predict]
        raise ValueError(
            f"{loaded.folder} has the objective {loaded.config.objective.name}; predict needs a run with "
            f"{', '.join(able)}; instead: {loaded.next_command()}"
        )
    if bool(texts) == (source is not None):
        raise ValueError("give either texts or --data with a file")
    config = override(loaded.config, {f"data.{key}": value for key, value in (fields or {}).items()})
    inputs = load(read)(list(texts), None if source is None else str(source), config.data)
    if not inputs:
        raise ValueError(f"{source} has no examples: add some")
    with evaluating(loaded.model):
        return load(spec.predict)(Predictor(loaded.objective, loaded.tokenizer, _forward(loaded)), inputs)


def text_scorer(run: Path | str) -> Callable[[Sequence[str]], list[float]]:
    """A function that scores texts with the model of a run; ValueError if the run predicts no score."""
    loaded = load_run(run)
    if "score" not in predict(loaded, ["a"])[0]:
        raise ValueError(f"{loaded.folder} has the objective {loaded.config.objective.name}, which predicts no score")
    return lambda texts: [found["score"] for found in predict(loaded, texts)]


def _forward(loaded: LoadedRun) -> Any:
    """Runs the model as `Predictor.forward` describes."""
    device = loaded.compute.device

    @torch.inference_mode()
    def forward(inputs: dict[str, Tensor]) -> Output:
        with loaded.compute.autocast():
            output = loaded.model(**{name: tensor.to(device) for name, tensor in inputs.items()})
        return Output(output.hidden.float().cpu(), {name: x.float().cpu() for name, x in output.logits.items()})

    return forward
