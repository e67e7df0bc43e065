"""Training: from a RunConfig to a run folder."""

import json
import shlex
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from minillm.adapters.lora import init_adapter
from minillm.config import RunConfig, load_config, save_config
from minillm.data.datasets.corpus import Corpus
from minillm.distributed.parallelize import build_mesh, materialize, parallelize
from minillm.distributed.runtime import Runtime, start
from minillm.evaluation.evaluator import Measurement
from minillm.objectives.base import Objective
from minillm.registry import load, objective_spec
from minillm.run import report
from minillm.run.build import build_evaluator, build_source, prepare_corpus, run_parts, validation_batches
from minillm.run.folder import (
    CONFIG,
    CURVE,
    METRICS,
    SAMPLES,
    best_or_last,
    claim,
    claim_new,
    find_checkpoint,
    find_run_to_resume,
    load_own_tokenizer,
    write_start,
)
from minillm.run.preview import next_command, preview
from minillm.run.reference import with_reference
from minillm.run.report import Say
from minillm.run.resolve import require_family, require_parent, resolve
from minillm.run.resume import last_checkpoint, restore
from minillm.run.scoring import score
from minillm.run.warm_start import adopt_weights
from minillm.run.weights import (
    adapted_model,
    find_base,
    find_reference,
    keep_parent,
    load_whole,
    name_parent,
    whole_weights,
)
from minillm.storage import writing
from minillm.training import precision
from minillm.training.checkpoint import MODEL, Checkpoint
from minillm.training.metrics import plot_curve, read_metrics
from minillm.training.progress import say_on
from minillm.training.state import Outcome
from minillm.training.trainer import Trainer


def train(
    config: RunConfig,
    out: Path | str | None = None,
    *,
    resume: bool = False,
    init_from: Path | str | None = None,
    fresh: bool = False,
) -> Path:
    """As `train_run`; returns the run folder."""
    return train_run(config, out, resume=resume, init_from=init_from, fresh=fresh).folder


def train_run(
    config: RunConfig,
    out: Path | str | None = None,
    *,
    resume: bool = False,
    init_from: Path | str | None = None,
    fresh: bool = False,
) -> Outcome:
    """Train a run.

    Args:
        config: with `resume`, it must have the model, tokenizer and text of the run.
        out: the run folder; None: a new one under runs/, or with `resume` the latest one.
        resume: continue from the last checkpoint of the run.
        init_from: a run or checkpoint that provides weights and tokenizer; `finetune_config` makes the config.
        fresh: use shape and tokenizer of `init_from`, but new weights, as a control experiment.

    Raises:
        ValueError: the folder holds another run, the run cannot be resumed with this config, or (TrainingDiverged)
            loss or gradients stayed non-finite.
        OSError: the text cannot be read or the folder cannot be written.
    """
    out, init_from = (None if path is None else Path(path) for path in (out, init_from))
    require_family(config)  # before the text is read
    require_parent(config, init_from, resume=resume, fresh=fresh)
    compute = precision.choose(config.train)
    runtime = start(config.parallel, compute.device)
    try:
        # the config stores the choice of `auto`, so that other ranks and resumed runs use the same
        config = replace(config, train=replace(config.train, precision=runtime.broadcast(compute.precision)))
        compute = precision.choose(config.train).on(runtime.device)
        say = say_on(runtime.rank)
        parent = None if init_from is None else find_checkpoint(init_from, say)
        # claimed before the text is read, so that two runs that start at once use different folders
        with _claim(config, out, resume=resume) if runtime.is_main else nullcontext() as claimed:
            folder = runtime.broadcast(claimed)
            assert folder is not None, "the first rank has claimed it"
            config = keep_parent(config, load_config(folder / CONFIG)) if resume else name_parent(config, parent)
            return _Session(folder, compute, runtime, say, parent, resume, fresh).run(config)
    finally:
        runtime.close()


def _claim(config: RunConfig, out: Path | None, *, resume: bool) -> AbstractContextManager[Path]:
    return claim(find_run_to_resume(out), resume=True) if resume else claim_new(config, out)


@dataclass(frozen=True)
class _Session:
    """One training run in a claimed folder."""

    folder: Path
    compute: precision.Compute
    runtime: Runtime
    say: Say
    parent: Checkpoint | None
    resume: bool
    fresh: bool

    def run(self, config: RunConfig) -> Outcome:
        """Prepare the data, resolve the config, build all parts, train, evaluate."""
        last = last_checkpoint(self.folder, self.say) if self.resume else None
        known = self.parent or last
        home = known.path.parent if known else self.folder
        own = load_own_tokenizer(home, known) if self.resume or self.parent else None
        corpus = prepare_corpus(config, own, self.runtime)
        resumed, inherited = last.state.train if last else None, self.parent is not None
        config, objective = resolve(config, corpus, inherited=inherited, say=self.say, resumed=resumed)
        model = self._model(config)
        corpus = self._with_reference(config, corpus, objective, model)
        trainer = self._trainer(config, corpus, objective, model)
        if self.resume:
            restore(trainer, config, corpus.info.fingerprint, last, self.say)
        if self.parent is not None:
            trainer.save()  # before config.toml, so that the run can be resumed from these weights at any time
        if self.runtime.is_main:
            about = report.about_run(corpus, model, self.compute, self.runtime)
            if self.parent is not None and not self.fresh:
                about["init_from"] = str(self.parent.path)
            write_start(self.folder, config, corpus.tokenizer, about, resume=self.resume)
        report.announce(self.say, self.folder, corpus, model, self.compute, self.runtime)
        try:
            outcome = trainer.fit()
        finally:
            trainer.source.close()
        if self.runtime.is_main and outcome.state.step:
            loss = "loss (nats per token)" if objective.unit == "tokens" else "loss"
            plot_curve(self.folder / METRICS, self.folder / CURVE, title=self.folder.name, loss=loss)
        if outcome.reason == "interrupted":
            command = f"minillm train --resume --out {shlex.quote(str(self.folder))}"
            self.say(f"stopped at step {outcome.state.step}, all saved; continue with: {command}")
        else:
            self._conclude(trainer, config, corpus, objective, outcome)
        return replace(outcome, folder=self.folder)

    def _model(self, config: RunConfig) -> Any:
        """The model on this rank, initialized, then with the weights of the parent, or of an adapter's base."""
        start = find_base(config, self.folder) if config.adapter.on else self.parent
        given = {} if start is None or self.fresh else whole_weights(start)
        model = adapted_model(config, given)
        parallelize(model, build_mesh(self.runtime), config.parallel, compile=self.compute.compile)

        def fill() -> None:
            generator = torch.Generator().manual_seed(config.train.seed)
            model.init_weights(generator)
            init_adapter(model, generator)
            if start is not None and given:
                adopt_weights(model, given, where=start.path / MODEL, say=self.say)

        materialize(model, self.compute.device, fill)
        return model

    def _with_reference(self, config: RunConfig, corpus: Corpus, objective: Objective, model: Any) -> Corpus:
        """The corpus with what the reference model says; a new run's own model is that, apart from its adapter."""

        def reference() -> Any:
            if self.resume:
                return load_whole(find_reference(config, self.folder))[1].to(self.compute.device)
            return model

        add = partial(with_reference, config, objective, reference, compute=self.compute, runtime=self.runtime)
        return replace(corpus, train=add(corpus.train), validation=add(corpus.validation))

    def _trainer(self, config: RunConfig, corpus: Corpus, objective: Objective, model: Any) -> Trainer:
        parts = run_parts(config, model, corpus.tokenizer, objective, self.compute, self.runtime, self.folder)
        return Trainer(
            model=model,
            objective=objective,
            source=build_source(config, corpus.train, parts),
            evaluator=build_evaluator(config, corpus.validation, parts),
            recipe=parts.recipe,
            compute=self.compute,
            runtime=self.runtime,
            folder=self.folder,
            identity={"tokenizer": corpus.tokenizer.hash, "data": corpus.info.fingerprint},
            on_evaluation=partial(self._keep_sample, model, corpus, config, objective),
        )

    def _conclude(
        self, trainer: Trainer, config: RunConfig, corpus: Corpus, objective: Objective, outcome: Outcome
    ) -> None:
        """Evaluate the best checkpoint on the whole validation text, and print a preview."""
        best = best_or_last(self.folder, self.say)
        best.load_model(trainer.model)
        batches = partial(validation_batches, config, corpus.validation, objective, Runtime(), max_tokens=0)
        parts = (trainer.model, corpus.tokenizer, objective, self.compute)
        whole = score(Measurement(*parts, corpus.validation, corpus.train, batches), config, self.runtime)
        if tune := objective_spec(config.objective.name).tune:
            config = replace(config, objective=load(tune)(config.objective, whole.task))
        if self.runtime.is_main:
            more = next_command(trainer.model, corpus.tokenizer, self.folder)
            save_config(config, self.folder / CONFIG)
            report.conclude(self.say, self.folder, corpus, outcome, best.step, whole, more)
            self._preview(trainer.model, corpus, config, objective)

    def _preview(self, model: Any, corpus: Corpus, config: RunConfig, objective: Objective) -> str:
        """Print what the model writes; returns it."""
        try:
            with self.compute.autocast():
                shown = preview(model, corpus.tokenizer, config.sample, objective)
        except ValueError as error:  # a prompt that is too long must not end training
            shown = f"sample.prompt cannot be shown: {error}"
        if shown:
            self.say(report.indent(shown))
        return shown

    def _keep_sample(self, model: Any, corpus: Corpus, config: RunConfig, objective: Objective) -> None:
        """Print a preview, and add it to samples.jsonl with the step that metrics.jsonl has just logged."""
        if shown := self._preview(model, corpus, config, objective):
            step = max((line["step"] for line in read_metrics(self.folder / METRICS)), default=0)
            with writing(self.folder / SAMPLES), (self.folder / SAMPLES).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "text": shown}) + "\n")
