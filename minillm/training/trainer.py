"""The training loop for any model, objective, device and number of ranks."""

import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minillm.data.prefetch import BatchSource, SourceError
from minillm.distributed.parallelize import replicate, whole
from minillm.distributed.runtime import Runtime
from minillm.objectives.base import Batch, Objective
from minillm.training.average import WeightAverage
from minillm.training.checkpoint import Checkpoint, remove_old, save_checkpoint, weights
from minillm.training.config import Recipe
from minillm.training.divergence import DivergenceWatch, name_bad_step, warning
from minillm.training.evaluation import Evaluator
from minillm.training.interrupt import StopRequest
from minillm.training.memory import kept_memory
from minillm.training.metrics import MetricsLog, write_samples
from minillm.training.optim import Optimizer
from minillm.training.precision import Compute, is_out_of_memory
from minillm.training.progress import Progress
from minillm.training.schedule import lr_scale
from minillm.training.state import CheckpointState, Outcome, TrainState
from minillm.training.step import StepFunction, StepResult


class Trainer:
    """Trains `model` on `source`; writes metrics and checkpoints to `folder`."""

    def __init__(
        self,
        *,
        model: nn.Module,
        objective: Objective,
        source: BatchSource[Batch],
        evaluator: Evaluator,
        recipe: Recipe,
        compute: Compute,
        runtime: Runtime,
        folder: Path,
        identity: dict[str, Any],
        on_evaluation: Callable[[], None] | None = None,
    ) -> None:
        """`identity` (hashes) is stored in each checkpoint; the first rank calls `on_evaluation` after evaluations."""
        self.model, self.source, self.evaluator = model, source, evaluator
        self.recipe, self.compute, self.runtime, self.folder = recipe, compute, runtime, folder
        self.identity, self.on_evaluation = identity, on_evaluation
        self.state = TrainState()
        self.optimizer = Optimizer(model, recipe.optim, dtype=compute.dtype)
        self.average = WeightAverage(self.optimizer.names, recipe.optim.average)
        self.take_step = StepFunction(
            replicate(model, runtime),
            objective,
            self.optimizer,
            compute=compute,
            runtime=runtime,
            clip=recipe.optim.clip,
            seed=recipe.train.seed,
        )
        self.log: MetricsLog | None = None
        self.progress = Progress(total=recipe.train.steps, start=0, silent=True)
        self._saved_step: int | None = None
        self.watch = DivergenceWatch(self.take_step.scaler)

    def restore(self, checkpoint: Checkpoint, *, global_batch: int | None = None) -> None:
        """Continue from `checkpoint`, with the example after the last one that was read.

        Checkpoints of version 1 do not store the number of examples; it is step * `global_batch`, the run's setting
        until now. ValueError if the checkpoint is damaged or belongs to another model or optimizer.
        """
        checkpoint.verify()
        checkpoint.load_model(self.model)
        self.optimizer.load_state_dict(self.average.load_state_dict(checkpoint.load_optimizer()))
        saved = checkpoint.state
        self.state = saved.train
        if saved.scaler:  # empty unless the run was in fp16
            self.take_step.scaler.load_state_dict(saved.scaler)
        if self.state.examples is None and global_batch is not None:
            self.state.examples = self.state.step * global_batch
        if self.state.examples is not None:
            self.source.go_on(self.state.step, self.state.examples)
        self.source.load_state_dict(checkpoint.load_source())
        self._saved_step = self.state.step

    def fit(self) -> Outcome:
        """Train until the last step, a stop request, or the end of patience.

        TrainingDiverged if several steps in a row were not finite; ValueError if not even one sequence fits into
        memory; OSError if metrics or a checkpoint cannot be written.
        """
        main = self.runtime.is_main
        self.log = MetricsLog(self.folder / "metrics.jsonl", resume_step=self.state.step) if main else None
        unit = self.take_step.objective.unit
        self.progress = Progress(total=self.recipe.train.steps, start=self.state.step, unit=unit, silent=not main)
        self.model.train()
        try:
            with StopRequest() as stop, kept_memory(self.compute.device):
                reason = self._train_to_the_end(stop)
                self.save()
                reason, number = self._reason_and_signal(reason, stop)
        finally:
            self.progress.close()
            if self.log is not None:
                self.log.close()
        return Outcome(self.state, reason, number, self.folder)

    def _reason_and_signal(self, reason: str, stop: StopRequest) -> tuple[str, int | None]:
        """Why training ended, the same on every rank. A signal after the last step counts too."""
        signals = self.runtime.sum([stop.requested, stop.signal == signal.SIGINT, stop.signal == signal.SIGTERM])
        number = signal.SIGINT if signals[1] else signal.SIGTERM if signals[2] else None
        return "interrupted" if signals[0] else reason, number

    def _train_to_the_end(self, stop: StopRequest) -> str:
        """Returns `Outcome.reason`."""
        last = self.recipe.train.steps
        if self.state.step == 0 and self.recipe.eval.at_start:
            self._evaluate_and_keep_best()
        while self.state.step < last:
            if not self._train_one(stop):
                return "interrupted"
            if self.state.step == last or self._is_due(self.recipe.eval.every):
                with self.average.swapped():
                    self._evaluate_and_keep_best()
                if self.state.step < last and 0 < self.recipe.train.patience <= self.state.stale:
                    return "early"
            if self._is_due(self.recipe.save.every):
                self.save()
        return "finished"

    def _train_one(self, stop: StopRequest) -> bool:
        """Take the next step; False, without a step, if any rank received a stop request."""
        began = time.perf_counter()
        state, step = self.state, self.state.step + 1
        batches = self._or_save(self.source.batches, step - 1)  # the source counts from 0
        names = list(batches[0].counts)
        local = [sum(batch.counts[name] for batch in batches) for name in names]
        tokens = sum(batch.num_tokens for batch in batches)
        *sums, read, stopping = self.runtime.sum([*local, tokens, stop.requested])  # ranks stop at the same step
        if stopping:
            return False
        scale = lr_scale(step, self.recipe.schedule, self.recipe.train.steps)
        total = self._gradient_within_memory(step, batches, dict(zip(names, sums, strict=True)))
        result = self.take_step.update(total, lr_scale=scale)
        self.average.update(step)
        state.step, state.examples = step, self.source.examples_before(step)
        state.tokens += int(read)
        state.seconds += time.perf_counter() - began
        self._note(result, lr=scale * self.recipe.optim.lr)
        return True

    def _or_save(self, call: Callable[[Any], Any], argument: Any) -> Any:
        """The result of a source or an evaluator; its SourceError ends training after all progress is saved."""
        try:
            return call(argument)
        except SourceError:
            self.save()
            raise

    def _gradient_within_memory(self, step: int, batches: list[Batch], counts: dict[str, float]) -> Tensor:
        """The gradient of the step. If memory runs out, micro-batches are halved; the gradient stays the same."""
        while True:
            try:
                return self.take_step.gradient(step, batches, counts=counts)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                micro = self.source.halve_micro_batch() if self.runtime.world_size == 1 else None
                if micro is None:
                    rows = max(len(next(iter(batch.inputs.values()))) for batch in batches)
                    raise ValueError(
                        f"out of memory with train.micro_batch {rows}; "
                        "set a smaller train.micro_batch, model.max_seq_len or model"
                    ) from None
            torch.cuda.empty_cache()
            self.progress.write(
                f"out of memory: train.micro_batch is now {micro}, accumulated to the same global batch"
            )
            batches = self.source.batches(step - 1)

    def _note(self, result: StepResult, *, lr: float) -> None:
        """Log and show a step; TrainingDiverged after too many bad steps in a row."""
        state = self.state
        if self.watch.is_bad(result):
            state.skipped += 1
            self.progress.write(name_bad_step(state.step, result, self.source.describe(state.step - 1), state.skipped))
        elif result.applied:
            first = not math.isfinite(state.train_loss)
            state.train_loss = result.loss if first else 0.9 * state.train_loss + 0.1 * result.loss
            state.start_loss = result.loss if first else state.start_loss
        if self.log is not None and (self._is_due(self.recipe.train.log_every) or not result.applied):
            self.log.write(
                step=state.step,
                tokens=state.tokens,
                seconds=round(state.seconds, 3),
                loss=result.loss,
                lr=lr,
                grad_norm=result.grad_norm,
                **result.figures,
                **({} if result.applied else {"skipped": state.skipped}),
            )
        left = (self.recipe.train.steps - state.step) * state.seconds / state.step
        speed = state.tokens / max(state.seconds, 1e-9)
        self.progress.update(state.step, loss=result.loss, speed=speed, seconds_left=left)
        self.watch.give_up(state.step, self._saved_step, self.folder)

    def _is_due(self, every: int) -> bool:
        return bool(every) and self.state.step % every == 0

    def _evaluate_and_keep_best(self) -> None:
        state = self.state
        result = self._or_save(self.evaluator, self.model)
        if self.log is not None:
            self.log.write(step=state.step, seconds=round(state.seconds, 3), val_loss=result.loss, **result.figures())
        trained = f"; training loss {state.train_loss:.4f}" if math.isfinite(state.train_loss) else ""
        self.progress.write(f"step {state.step}: validation {result.describe()}{trained}")
        if result.samples and self.runtime.is_main:
            for line in write_samples(self.folder / "samples.jsonl", state.step, result.samples):
                self.progress.write(line)
        if result.beats(state.best):
            state.best_loss, state.best_value, state.best_step, state.stale = result.loss, result.value, state.step, 0
            self.save()
        else:
            state.stale += 1
            if advice := None if result.samples else warning(state, result.loss):  # a reward does not overfit
                self.progress.write(advice)
        if self.on_evaluation is not None and self.runtime.is_main and not result.samples:
            self.on_evaluation()

    def save(self) -> None:
        """Save a checkpoint unless this step has one, and delete old ones. Collective: all ranks call it."""
        step = self.state.step
        if self._saved_step == step:
            return
        with self.average.swapped():
            model, training = weights(self.model), self.optimizer.state_dict() | self.average.state_dict()
            model, training, source = whole(model), whole(training), self.source.state_dict()
            if self.log is not None:
                self.log.force_to_disk()
            if self.runtime.is_main:
                state = CheckpointState(self.state, self.take_step.scaler.state_dict(), **self.identity)
                save_checkpoint(self.folder, step, model=model, optimizer=training, state=state, source=source)
                remove_old(self.folder, keep=self.recipe.save.keep, best_step=self.state.best_step, step=step)
        self._saved_step = step
        self.runtime.barrier()
