"""Continues a run from its last checkpoint."""

import math
import shlex
from dataclasses import fields
from pathlib import Path

from minillm.config import RunConfig, load_config
from minillm.run.folder import CONFIG, require_same_text
from minillm.run.report import Say
from minillm.training.checkpoint import Checkpoint, newest_good
from minillm.training.config import OptimConfig
from minillm.training.schedule import lr_scale
from minillm.training.trainer import Trainer

CONTENT = {"source", "validation", "cache"}
"""Keys of [data] that may change in a resumed run, because the data is compared by content."""
LOSS = {"label_smoothing", "z_loss", "reference"}
"""Keys of [objective] that may change: they affect neither targets nor validation loss."""

RATES = ("lr", "embedding_lr", "head_lr", "vector_lr")
"""Settings of AdamW's learning rates; None is `lr`."""


def require_same_run(saved: RunConfig, config: RunConfig, where: object) -> None:
    """ValueError if a resumed run changes a key that must stay the same."""
    compared = {"model": set(), "tokenizer": set(), "data": CONTENT, "objective": LOSS, "adapter": {"base"}}
    keys = [(section, f.name) for section in compared for f in fields(getattr(saved, section))]
    keys = [(section, key) for section, key in keys if key not in compared[section]] + [("train", "seed")]
    for section, key in keys:
        was, now = (getattr(getattr(run, section), key) for run in (saved, config))
        if was != now:
            raise ValueError(
                f"--resume cannot change {section}.{key}: it is {was!r} in {where}, now {now!r}; "
                "leave it as it was, or start a new run"
            )


def last_checkpoint(folder: Path, say: Say) -> Checkpoint | None:
    """The checkpoint to resume from; None before the first."""
    last = newest_good(folder, say)
    if last is not None and last.state.imported:
        raise ValueError(
            f"{folder} was imported or merged, not trained, so there is nothing to resume; start a new run from its "
            f"weights with: minillm train --init-from {shlex.quote(str(folder))}"
        )
    return last


def restore(trainer: Trainer, config: RunConfig, fingerprint: str, last: Checkpoint | None, say: Say) -> None:
    """Continue from the last checkpoint; ValueError if model, tokenizer or text have changed.

    `fingerprint` is that of the text now.
    """
    folder = trainer.folder
    saved = load_config(folder / CONFIG)
    require_same_run(saved, config, folder / CONFIG)
    if last is None:
        say(f"{folder} has no checkpoint yet: starting at step 0")
        return
    if last.step > config.train.steps:
        epochs = config.train.epochs
        given = f"train.steps is {config.train.steps}" if epochs is None else f"train.epochs is {epochs}"
        raise ValueError(f"{given}, but {folder} is at step {last.step} already: raise it")
    require_same_text(last, fingerprint, config.data.source)
    trainer.restore(last, global_batch=saved.train.global_batch)
    say(f"resuming {folder} at step {last.step} of {config.train.steps}")
    _say_changed_rates(saved, config, last.step + 1, say)


def _say_changed_rates(saved: RunConfig, config: RunConfig, step: int, say: Say) -> None:
    """Report learning rates that jump at `step`, the first one after the checkpoint."""
    before, now = _peaks(saved.optim), _peaks(config.optim)
    old, new = (lr_scale(min(step, run.train.steps), run.schedule, run.train.steps) for run in (saved, config))
    for key in (key for key in now if key in before):
        if key != "lr" and math.isclose(now[key] * before["lr"], before[key] * now["lr"]):
            continue  # it changes by the same factor as optim.lr
        was, rate = before[key] * old, now[key] * new
        if abs(rate - was) > 0.05 * max(rate, was):
            say(
                f"{'the learning rate' if key == 'lr' else f'optim.{key}'} is {rate:.2e} from here; with the original "
                f"config it would be {was:.2e} (train.steps, [schedule] or optim.{key} has changed)"
            )


def _peaks(optim: OptimConfig) -> dict[str, float]:
    """The peak learning rates by setting."""
    rates = {key: optim.lr if getattr(optim, key) is None else getattr(optim, key) for key in RATES}
    return rates | ({"muon_lr": optim.muon_lr} if optim.name == "muon" else {})
