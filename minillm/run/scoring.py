"""Measures a run: on its validation data or on other data, as its objective or as another, or with the harness."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from minillm.config import RunConfig, override
from minillm.distributed.runtime import Runtime
from minillm.evaluation.evaluator import Measurement
from minillm.registry import load, objective_spec
from minillm.run.build import build_evaluator, prepare_corpus, read_data, run_parts, validation_batches
from minillm.run.folder import require_same_text
from minillm.run.inference import Run, loaded_run
from minillm.run.reference import with_reference
from minillm.run.weights import find_reference, load_whole
from minillm.training.evaluation import Evaluation


def evaluate(
    run: Run,
    source: Path | str | None = None,
    *,
    objective: str | None = None,
    fields: Mapping[str, str] | None = None,
    thorough: bool = False,
) -> Evaluation:
    """Evaluate on all of `source`; None: on the validation split of the run, with baselines.

    Args:
        objective: evaluate as this objective instead of the run's, such as "clm" for the bits per byte that a chat
            model needs for plain text; needs a `source`.
        fields: keys of [data] that name the fields of `source`, such as {"field": "body"}.
        thorough: whether to run the objective's slow evaluators, such as the scores of each text-to-text task.

    Raises:
        OSError: the text does not exist.
        ValueError: the text of the run has changed, or a character is outside its vocabulary.
    """
    loaded = loaded_run(run)
    loaded.require_head()
    if objective is not None:
        if source is None:
            raise ValueError("another objective has no effect on the run's own data; give --data too")
        loaded = loaded.for_objective(objective)
    config = override(loaded.config, {f"data.{key}": value for key, value in (fields or {}).items()})
    runtime = Runtime(device=loaded.compute.device)
    if source is None:
        corpus = prepare_corpus(config, loaded.tokenizer, runtime)
        require_same_text(loaded.checkpoint, corpus.info.fingerprint, config.data.source)
        tokens, train, notes = corpus.validation, corpus.train, corpus.notes
    else:
        tokens, train = read_data(config, str(source), loaded.tokenizer), None
        notes = tokens.notes
    tokens = with_reference(
        config,
        loaded.objective,
        lambda: load_whole(find_reference(config, loaded.folder))[1].to(loaded.compute.device),
        tokens,
        compute=loaded.compute,
        runtime=runtime,
    )
    batches = partial(validation_batches, config, tokens, loaded.objective, Runtime(), max_tokens=0)
    parts = (loaded.model, loaded.tokenizer, loaded.objective, loaded.compute)
    measured = Measurement(*parts, tokens, train, batches)
    evaluation = replace(score(measured, config, runtime), notes=notes)
    if thorough:
        more = [load(name)(measured) for name in objective_spec(config.objective.name).evaluators]
        evaluation = replace(evaluation, more={key: value for figures in more for key, value in figures.items()})
    return evaluation


def score(measured: Measurement, config: RunConfig, runtime: Runtime) -> Evaluation:
    """Evaluate on all of `measured.tokens`, shared between ranks; the first rank adds the baselines."""
    parts = run_parts(config, measured.model, measured.tokenizer, measured.objective, measured.compute, runtime)
    evaluation = build_evaluator(config, measured.tokens, parts, max_tokens=0)(measured.model)
    if measured.train is None or not runtime.is_main:
        return evaluation
    baselines = [load(name)(measured) for name in objective_spec(config.objective.name).baselines]
    return replace(evaluation, baselines={key: value for figures in baselines for key, value in figures.items()})


def score_harness(run: Run, tasks: Sequence[str]) -> dict[str, dict[str, float]]:
    """As `run_harness`; ValueError if the model is not a decoder."""
    from minillm.evaluation.harness import run_harness  # needs an optional package

    loaded = loaded_run(run)
    if loaded.model.writes != "continuation":
        family = loaded.config.model.family
        raise ValueError(f"{loaded.folder} is a {family} model; the tasks of lm-evaluation-harness need a gpt")
    return run_harness(loaded.model, loaded.tokenizer, tasks, prefix=loaded.objective.prefix_prompts)
