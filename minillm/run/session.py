"""Training as one call: from a RunConfig to a run folder."""

from __future__ import annotations

import shlex
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from minillm import report
from minillm.config import RunConfig, load_config, override
from minillm.data.corpus import Corpus
from minillm.distributed.parallelize import compile_blocks
from minillm.distributed.runtime import Runtime, start
from minillm.generation.config import SampleConfig
from minillm.models.build import build_model
from minillm.objectives.base import Objective
from minillm.report import Say
from minillm.run.build import (
    as_writer,
    baseline_for,
    build_loader,
    build_objective,
    build_recipe,
    prepare_corpus,
    validation_batches,
    with_heads,
    with_vocab_size,
)
from minillm.run.checks import require_enough, require_prompt, say_what_is_cut
from minillm.run.folder import (
    CONFIG,
    CURVE,
    METRICS,
    best_or_last,
    claim,
    claim_new,
    find_checkpoint,
    find_run_to_resume,
    load_own_tokenizer,
    require_same_run,
    require_same_text,
    write_start,
)
from minillm.run.loaded import bytes_of_ids
from minillm.run.show import example_of, next_command
from minillm.run.warm_start import adopt_weights
from minillm.tokenizers.base import Tokenizer
from minillm.training import precision
from minillm.training.checkpoint import Checkpoint, newest_good
from minillm.training.evaluate import evaluate as evaluate_model
from minillm.training.metrics import plot_curve
from minillm.training.progress import say_on
from minillm.training.state import Outcome
from minillm.training.trainer import Trainer


def train(
    config: RunConfig, out: Path | str | None = None, *, resume: bool = False, init_from: Path | str | None = None
) -> Path:
    """As `train_run`, but returns the run folder alone."""
    return train_run(config, out, resume=resume, init_from=init_from).folder


def train_run(
    config: RunConfig, out: Path | str | None = None, *, resume: bool = False, init_from: Path | str | None = None
) -> Outcome:
    """Train as `config` says, and leave a run folder.

    Args:
        config: everything; with `resume` it must describe the run's own model, tokenizer and text.
        out: the run folder; None: a new one under runs/, or with `resume` the latest one.
        resume: continue from the folder's last undamaged checkpoint.
        init_from: a run, or a checkpoint in it, whose weights and tokenizer a new run starts with; `parent.inherit`
            makes the config for it.

    Returns:
        How training ended, and the run folder.

    Raises:
        ValueError: the folder holds another run, or the run cannot be resumed with this config; TrainingDiverged:
            loss or gradients stayed non-finite.
        OSError: the text cannot be read, or the folder not be written.
    """
    out, init_from = (None if path is None else Path(path) for path in (out, init_from))
    config = with_heads(config)  # a contradiction in the config answers before the text is read
    compute = precision.choose(config.train)
    runtime = start(config.parallel, compute.device)
    try:
        # what `auto` chose goes into the run's config: another rank or a resumed run must not choose anew
        config = override(config, {"train.precision": runtime.broadcast(compute.precision)})
        compute = precision.choose(config.train)
        parent = None if init_from is None else find_checkpoint(init_from, say_on(runtime.rank))
        # claimed before the text is read, so that two runs that start at once do not prepare for the same folder
        with _claim(config, out, resume=resume) if runtime.is_main else nullcontext() as claimed:
            folder = runtime.broadcast(claimed)
            assert folder is not None, "the first rank has claimed it"
            return _train(config, folder, compute.on(runtime.device), runtime, parent, resume=resume)
    finally:
        runtime.close()


def _claim(config: RunConfig, out: Path | None, *, resume: bool) -> AbstractContextManager[Path]:
    return claim(find_run_to_resume(out), resume=True) if resume else claim_new(config, out)


def _train(
    config: RunConfig,
    folder: Path,
    compute: precision.Compute,
    runtime: Runtime,
    parent: Checkpoint | None,
    *,
    resume: bool,
) -> Outcome:
    say = say_on(runtime.rank)
    last = _last(folder, say) if resume else None
    known = parent or last
    own = load_own_tokenizer(known.path.parent if known else folder, known) if resume or parent else None
    corpus = prepare_corpus(config, own, runtime)
    tokenizer = corpus.tokenizer
    require_prompt(config.sample.prompt, tokenizer)
    if parent is None:  # the table of a parent may be larger than its tokenizer
        config = with_vocab_size(config, tokenizer)
    require_enough(config, corpus)
    objective = build_objective(config, tokenizer)
    say_what_is_cut(corpus, objective, say)
    model = build_model(config.model)
    model.init_weights(torch.Generator().manual_seed(config.train.seed))
    if parent is not None:
        adopt_weights(model, parent, say)
    model.to(compute.device)
    if compute.compile:
        compile_blocks(model)
    trainer = Trainer(
        model=model,
        objective=objective,
        loader=build_loader(config, corpus.train, objective, runtime),
        validation=partial(validation_batches, config, corpus.validation, objective, runtime),
        token_bytes=bytes_of_ids(tokenizer, compute),
        recipe=build_recipe(config),
        compute=compute,
        runtime=runtime,
        folder=folder,
        identity={"tokenizer": tokenizer.hash, "data": corpus.info.fingerprint},
        on_evaluation=partial(_show_sample, as_writer(model, config.objective), tokenizer, config.sample, compute, say),
    )
    if resume:
        _restore(trainer, config, corpus, last, say)
    if parent is not None:
        trainer.save()  # before it is a run, which then continues from these weights wherever it is stopped
    if runtime.is_main:
        about = report.about_run(config, corpus, model, compute, runtime)
        about |= {} if parent is None else {"init_from": str(parent.path)}
        write_start(folder, config, tokenizer, about, resume=resume)
    report.announce(say, folder, corpus, model, compute, runtime)
    outcome = trainer.fit()
    if runtime.is_main and outcome.state.step:
        plot_curve(folder / METRICS, folder / CURVE, title=folder.name)
    if outcome.reason == "interrupted":
        command = f"minillm train --resume --out {shlex.quote(str(folder))}"
        say(f"stopped at step {outcome.state.step}, all saved; continue with: {command}")
    else:
        _conclude(trainer, config, corpus, objective, outcome, say)
    return outcome


def _last(folder: Path, say: Say) -> Checkpoint | None:
    """The checkpoint that a run continues from; None before the first."""
    last = newest_good(folder, say)
    if last is not None and last.state.imported:
        raise ValueError(
            f"{folder} was imported, not trained, so there is nothing to resume; start a new run from its weights "
            f"with: minillm train --init-from {shlex.quote(str(folder))}"
        )
    return last


def _restore(trainer: Trainer, config: RunConfig, corpus: Corpus, last: Checkpoint | None, say: Say) -> None:
    """Continue from the last checkpoint, if the run is still about the same model and text."""
    folder = trainer.folder
    require_same_run(load_config(folder / CONFIG), config, folder)
    if last is None:
        say(f"{folder} has no checkpoint yet: starting at step 0")
        return
    if last.step > config.train.steps:
        raise ValueError(f"train.steps is {config.train.steps}, but {folder} is at step {last.step} already: raise it")
    require_same_text(last, corpus.info.fingerprint, config.data.source)
    trainer.restore(last)
    say(f"resuming {folder} at step {last.step} of {config.train.steps}")


def _conclude(
    trainer: Trainer, config: RunConfig, corpus: Corpus, objective: Objective, outcome: Outcome, say: Say
) -> None:
    """Measure the best checkpoint on the whole validation text, and let it write."""
    best = best_or_last(trainer.folder, say)
    best.load_model(trainer.model)
    whole = evaluate_model(
        trainer.model,
        validation_batches(config, corpus.validation, objective, trainer.runtime, max_tokens=0),
        objective,
        compute=trainer.compute,
        runtime=trainer.runtime,
        token_bytes=trainer.token_bytes,
    )
    if trainer.runtime.is_main:
        whole = replace(whole, guess=baseline_for(config, corpus, objective))
        report.conclude(
            say, trainer.folder, corpus, outcome, best.step, whole, next_command(trainer.model, trainer.folder)
        )
        writer = as_writer(trainer.model, config.objective)
        _show_sample(writer, corpus.tokenizer, config.sample, trainer.compute, say)


def _show_sample(model: Any, tokenizer: Tokenizer, config: SampleConfig, compute: precision.Compute, say: Say) -> None:
    try:
        with compute.autocast():
            shown = example_of(model, tokenizer, config)
    except ValueError as error:  # a prompt that is too long; no reason to end a training
        shown = f"sample.prompt cannot be shown: {error}"
    if shown:
        say(report.indent(shown))
