"""Checkpoints that survive a crash at any time. Loading one never runs code, because nothing is pickled.

`step-000500/` holds model.safetensors, optimizer.safetensors and state.json. It is written under a temporary name, its
manifest (sizes and SHA-256) last. The folder is renamed only after everything is on disk, so a folder with this name is
complete. Before deletion it is renamed again.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minillm.nn.kernels.quantized import QuantizedWeight, dequantized, split_quantized
from minillm.storage import MANIFEST, TEMPORARY, find_damage, force_to_disk, seal, temporary_for
from minillm.training.state import CheckpointState

MODEL, OPTIMIZER, STATE = FILES = "model.safetensors", "optimizer.safetensors", "state.json"
SOURCE = "source.safetensors"
"""State of the source of batches; most sources have none, and then there is no such file."""
_REPLACED = ".replaced-"
_NAME = re.compile(rf"({re.escape(_REPLACED)})?step-(\d{{6,}})")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk; it may be damaged."""

    path: Path
    step: int

    @property
    def state(self) -> CheckpointState:
        """Counters, best validation loss and hashes; ValueError if the file is damaged."""
        self.verify(STATE)
        return CheckpointState.read(self.path / STATE)

    def verify(self, *names: str) -> None:
        """ValueError unless the named files, by default all, match the manifest."""
        if damage := find_damage(self.path, *(names or self._files())):
            raise ValueError(f"{damage}; name {self.path.parent} to use its newest undamaged checkpoint")

    def damage(self) -> str | None:
        """What is wrong with the checkpoint; None if it is undamaged."""
        damage = find_damage(self.path, *self._files())
        if damage is None:
            try:
                self.state  # noqa: B018 - read for its errors
            except ValueError as error:
                return str(error)
        return damage

    def load_model(self, model: nn.Module) -> None:
        """Copy the weights into `model`, all but frozen ones; ValueError if names or shapes differ."""
        load_weights(model, self.model_weights(), where=self.path / MODEL)

    def model_weights(self) -> dict[str, Tensor]:
        """Weights by name, tied ones once; quantized ones as the values that their bits stand for."""
        return current_names(dequantized(load_file(self.path / MODEL)))

    def quantized_weights(self) -> dict[str, QuantizedWeight]:
        """The weights of 8 and 4 bits by name; usually none."""
        return split_quantized(load_file(self.path / MODEL))[1]

    def load_source(self) -> dict[str, Tensor]:
        """State of the source of batches; usually empty."""
        return load_file(self.path / SOURCE) if SOURCE in self._files() else {}

    def _files(self) -> tuple[str, ...]:
        return (*FILES, SOURCE) if (self.path / SOURCE).exists() else FILES

    def load_optimizer(self) -> dict[str, Tensor]:
        """Optimizer state by parameter name."""
        return current_names(load_file(self.path / OPTIMIZER))


def current_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename parameters from checkpoints of format 1, whose heads and token types had other names."""
    pooled = "heads.pair." if any(name.startswith("pair_head.proj.") for name in tensors) else "heads.pooler."
    old = {"head.": "heads.lm.", "pair_head.": pooled, "embed.types.": "embed.token_types."}

    def renamed(name: str) -> str:
        prefix = next((prefix for prefix in old if name.startswith(prefix)), "")
        return old.get(prefix, "") + name.removeprefix(prefix)

    return {renamed(name): tensor for name, tensor in tensors.items()}


def weights(model: nn.Module, *, frozen: bool = False) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; tied ones once, under the first name.

    Frozen parameters belong to another run, so they are left out unless `frozen`.
    """
    own = {name for name, p in model.named_parameters() if frozen or p.requires_grad}
    left_out = {name for name, _ in model.named_parameters(remove_duplicate=False)} - own
    return {name: tensor for name, tensor in model.state_dict().items() if name not in left_out}


def load_weights(model: nn.Module, tensors: dict[str, Tensor], *, where: Path, frozen: bool = False) -> None:
    """Copy `tensors` into `weights(model, frozen=frozen)`; ValueError if a name is missing or unknown, or a shape
    differs.
    """
    own = weights(model, frozen=frozen)
    if wrong := sorted(own.keys() ^ tensors.keys()):
        raise ValueError(f"{where} does not fit the model: {len(wrong)} names differ, such as {wrong[0]}")
    with torch.no_grad():
        for name, tensor in own.items():
            if tensor.shape != tensors[name].shape:
                shape, expected = list(tensors[name].shape), list(tensor.shape)
                raise ValueError(f"{where}: {name} has shape {shape}, the model needs {expected}")
            tensor.copy_(tensors[name])


def checkpoints(run: Path) -> list[Checkpoint]:
    """All checkpoints of a run folder, oldest first, damaged ones included."""
    found: dict[int, Checkpoint] = {}
    # `.replaced-step-*` sorts before `step-*`, which takes its place in the dictionary
    for path in sorted(run.glob("*step-*")):
        match = _NAME.fullmatch(path.name)
        if match and path.is_dir() and (not match[1] or (path / MANIFEST).is_file()):
            found[int(match[2])] = Checkpoint(path, int(match[2]))
    return [found[step] for step in sorted(found)]


def newest_good(run: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest undamaged checkpoint of a run folder, or None if it has no checkpoints; damage is reported to `say`.

    ValueError if all checkpoints are damaged.
    """
    problems = []
    for checkpoint in reversed(checkpoints(run)):
        if (damage := checkpoint.damage()) is None:
            for problem in problems:
                say(f"{problem}; left as it is, using {checkpoint.path.name} instead")
            return checkpoint
        problems.append(damage)
    if problems:
        raise ValueError(f"{run} has no undamaged checkpoint: {problems[0]}; restore it from a copy, or train again")
    return None


def best_good(run: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The checkpoint with the best evaluation, or the newest one if that is damaged, deleted or does not exist.

    None and ValueError as in `newest_good`.
    """
    newest = newest_good(run, say)
    if newest is None:
        return None
    best_step = newest.state.train.best_step
    best = next((c for c in checkpoints(run) if c.step == best_step), newest)
    if best == newest or (damage := best.damage()) is None:
        return best
    say(f"the best checkpoint is damaged: {damage}; left as it is, using {newest.path.name} instead")
    return newest


def save_checkpoint(
    run: Path,
    step: int,
    *,
    model: dict[str, Tensor],
    optimizer: dict[str, Tensor],
    state: CheckpointState,
    source: dict[str, Tensor] | None = None,
) -> Checkpoint:
    """Write `step-{step}/`. After a crash at any time, the checkpoint is either complete or absent.

    If writing fails, the partial checkpoint is deleted, other checkpoints stay, and OSError is raised.
    """
    final, temporary = run / f"step-{step:06d}", temporary_for(run / f"step-{step:06d}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(_on_cpu(model), temporary / MODEL)
        save_file(_on_cpu(optimizer), temporary / OPTIMIZER)
        if source:
            save_file(_on_cpu(source), temporary / SOURCE)
        (temporary / STATE).write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
        seal(temporary)
        replaced = run / f"{_REPLACED}{final.name}"
        if final.exists():  # the step was saved before: rename the old folder until the new one is in place
            shutil.rmtree(replaced, ignore_errors=True)
            final.rename(replaced)
        temporary.rename(final)
        force_to_disk(run)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"cannot write the checkpoint {final}: {reason}; fix this (is the disk full?), then continue with --resume"
        ) from error
    return Checkpoint(final, step)


def remove_old(run: Path, *, keep: int, best_step: int | None, step: int) -> None:
    """Delete old checkpoints except the best one and the newest `keep`, and partial files left by crashes.

    Checkpoints after the current `step` and incomplete ones stay.
    """
    found = checkpoints(run)
    for leftover in (*run.glob(f"{TEMPORARY}*"), *run.glob(f"{_REPLACED}*")):
        if leftover.is_file():
            leftover.unlink()
        elif leftover not in {checkpoint.path for checkpoint in found}:
            shutil.rmtree(leftover, ignore_errors=True)
    whole = [c for c in found if c.step <= step and all((c.path / name).is_file() for name in (*FILES, MANIFEST))]
    for old in whole[: -max(1, keep)]:
        if old.step != best_step:
            doomed = old.path.rename(run / f"{TEMPORARY}{old.path.name}")
            shutil.rmtree(doomed, ignore_errors=True)


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
