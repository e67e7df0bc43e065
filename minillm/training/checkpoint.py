"""Checkpoints that survive a crash at any instant and never run code when they are read.

`step-000500/` holds model.safetensors, optimizer.safetensors and state.json. It is written under another name,
its manifest (sizes and SHA-256) last, everything is forced to disk, and only then the folder is renamed into
place: a folder with this name is whole. It is renamed again before it is deleted. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

MODEL, OPTIMIZER, STATE, MANIFEST = "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
_TEMPORARY, _REPLACED = ".writing-", ".replaced-"
_NAME = re.compile(rf"({re.escape(_REPLACED)})?step-(\d{{6,}})")
_REMEDY = "delete this checkpoint folder to fall back on the one before"


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    path: Path
    step: int

    @property
    def state(self) -> dict[str, Any]:
        """Everything small: counters, the best validation loss, hashes; ValueError where the file is damaged."""
        self.verify(STATE)
        return json.loads((self.path / STATE).read_text(encoding="utf-8"))

    def verify(self, *names: str) -> None:
        """Compare the named files, or all of them, with the manifest.

        Raises:
            ValueError: a file is missing, cut short, or has other bytes than were written.
        """
        written = self._manifest()
        for name in names or written:
            size, digest = written[name]
            file = self.path / name
            if not file.is_file():
                raise ValueError(f"{file} is missing; {_REMEDY}")
            if file.stat().st_size != size:
                raise ValueError(f"{file} has {file.stat().st_size} bytes, {size} were written; {_REMEDY}")
            if sha256(file) != digest:
                raise ValueError(f"{file} is damaged: its SHA-256 is not the one that was written; {_REMEDY}")

    def _manifest(self) -> dict[str, tuple[int, str]]:
        """Size in bytes and SHA-256 of each file."""
        file = self.path / MANIFEST
        try:
            entries = json.loads(file.read_text(encoding="utf-8"))["files"]
            return {name: (entries[name]["size"], entries[name]["sha256"]) for name in (MODEL, OPTIMIZER, STATE)}
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(f"{file} is missing or damaged; {_REMEDY}") from None

    def load_model(self, model: nn.Module) -> None:
        """Fill `model` from this checkpoint; every parameter exactly once.

        Raises:
            ValueError: the names or shapes are not the model's.
        """
        load_weights(model, self.model_weights(), where=self.path / MODEL)

    def model_weights(self) -> dict[str, Tensor]:
        """The model's weights by name, tied ones once."""
        return current_names(load_file(self.path / MODEL))

    def load_optimizer(self) -> dict[str, Tensor]:
        """Optimizer state by parameter name."""
        return current_names(load_file(self.path / OPTIMIZER))


def current_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under today's names of parameters; checkpoints of format 1 had their heads elsewhere."""
    pooled = "heads.pair." if any(name.startswith("pair_head.proj.") for name in tensors) else "heads.pooler."
    old = {"head.": "heads.lm.", "pair_head.": pooled, "embed.types.": "embed.token_types."}

    def renamed(name: str) -> str:
        prefix = next((prefix for prefix in old if name.startswith(prefix)), "")
        return old.get(prefix, "") + name.removeprefix(prefix)

    return {renamed(name): tensor for name, tensor in tensors.items()}


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; tied ones once, under their first name."""
    shared = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    shared -= {name for name, _ in model.named_parameters()}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in shared}


def load_weights(model: nn.Module, tensors: dict[str, Tensor], *, where: Path) -> None:
    """Copy `tensors` into `model`, strictly.

    Raises:
        ValueError: a name is missing or unknown, or a shape differs.
    """
    own = weights(model)
    if wrong := sorted(own.keys() ^ tensors.keys()):
        raise ValueError(f"{where} does not fit the model: {len(wrong)} names differ, such as {wrong[0]}")
    with torch.no_grad():
        for name, tensor in own.items():
            if tensor.shape != tensors[name].shape:
                found, expected = list(tensors[name].shape), list(tensor.shape)
                raise ValueError(f"{where}: {name} has shape {found}, the model needs {expected}")
            tensor.copy_(tensors[name])


def checkpoints(run: Path) -> list[Checkpoint]:
    """Whole checkpoints of a run folder, oldest first."""
    found: dict[int, Checkpoint] = {}
    # one that was being replaced comes first, and gives way to the one that has the step's own name
    for path in sorted(run.glob("*step-*")):
        match = _NAME.fullmatch(path.name)
        if match and (path / MANIFEST).is_file():
            found[int(match[2])] = Checkpoint(path, int(match[2]))
    return [found[step] for step in sorted(found)]


def save_checkpoint(
    run: Path, step: int, *, model: dict[str, Tensor], optimizer: dict[str, Tensor], state: dict[str, Any]
) -> Checkpoint:
    """Write `step-{step}/` so that a crash at any instant leaves either the whole checkpoint or none.

    Raises:
        OSError: it cannot be written; what was written of it is deleted, and all other checkpoints are as they were.
    """
    final, temporary = run / f"step-{step:06d}", run / f"{_TEMPORARY}step-{step:06d}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(_on_cpu(model), temporary / MODEL)
        save_file(_on_cpu(optimizer), temporary / OPTIMIZER)
        (temporary / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
        _seal(temporary)
        replaced = run / f"{_REPLACED}{final.name}"
        if final.exists():  # the same step again: the old one steps aside until the new one stands
            shutil.rmtree(replaced, ignore_errors=True)
            final.rename(replaced)
        temporary.rename(final)
        _force_to_disk(run)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            f"cannot write the checkpoint {final}: {reason}; mend that (free disk space?) and go on with --resume"
        ) from error
    return Checkpoint(final, step)


def _seal(folder: Path) -> None:
    """Force every file to disk, and with them a manifest of sizes and hashes, written last."""
    files = {}
    for name in (MODEL, OPTIMIZER, STATE):
        _force_to_disk(folder / name)
        files[name] = {"size": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")
    _force_to_disk(folder / MANIFEST)
    _force_to_disk(folder)


def remove_old(run: Path, *, keep: int, best_step: int | None) -> None:
    """Delete all but the newest `keep` checkpoints and the best one, and what crashes left half written."""
    found = checkpoints(run)
    for leftover in (*run.glob(f"{_TEMPORARY}*"), *run.glob(f"{_REPLACED}*")):
        if leftover.is_file():
            leftover.unlink()
        elif leftover not in {checkpoint.path for checkpoint in found}:
            shutil.rmtree(leftover, ignore_errors=True)
    for old in found[: -max(1, keep)]:
        if old.step != best_step:
            doomed = old.path.rename(run / f"{_TEMPORARY}{old.path.name}")
            shutil.rmtree(doomed, ignore_errors=True)


def write_atomically(file: Path, text: str) -> None:
    """Replace a small text file so that a reader sees the old one or the new one, whole."""
    temporary_for(file).write_text(text, encoding="utf-8")
    move_into_place(file)


def temporary_for(file: Path) -> Path:
    """Where to write what `move_into_place` then makes `file`."""
    return file.with_name(f"{_TEMPORARY}{file.name}")


def move_into_place(file: Path) -> None:
    """Let the finished temporary file be `file`, in one step that outlives a power cut."""
    temporary = temporary_for(file)
    _force_to_disk(temporary)
    temporary.replace(file)
    _force_to_disk(file.parent)


def sha256(file: Path) -> str:
    """Hex digest of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}


def _force_to_disk(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders; its rename is journalled
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
