"""What a run prints at its start and end, and the content of run.json."""

import os
import platform
import subprocess
import textwrap
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import nn

from minillm.data.datasets.corpus import Corpus
from minillm.distributed.runtime import Runtime
from minillm.generation.printable import printable
from minillm.models.profile import training_bytes
from minillm.tokenizers.base import Tokenizer
from minillm.training.evaluation import Evaluation
from minillm.training.precision import Compute
from minillm.training.state import Outcome

Say = Callable[[str], None]
XZ_LIMIT = 32_000_000
"""Larger validation texts, in bytes, are not compared with xz, which compresses about a megabyte per second."""


def announce(say: Say, folder: Path, corpus: Corpus, model: nn.Module, compute: Compute, runtime: Runtime) -> None:
    """Print text, model, device and run folder."""
    say(corpus.info.describe())
    for note in corpus.notes:
        say(f"note: {note}")
    processes = "1 process" if runtime.world_size == 1 else f"{runtime.world_size} processes"
    say(f"model: {describe_parameters(model)}; {compute.describe()}, {processes}")
    say(f"run folder: {folder}")


def about_run(corpus: Corpus, model: nn.Module, compute: Compute, runtime: Runtime) -> dict[str, Any]:
    """The content of run.json: text, machine, versions and git commit."""
    return {
        "text": asdict(corpus.info),
        "compute": compute.describe(),
        "processes": runtime.world_size,
        **about_program(model, corpus.tokenizer),
    }


def about_program(model: nn.Module, tokenizer: Tokenizer) -> dict[str, Any]:
    """The part of run.json that trained and imported runs have in common."""
    packages = ("minillm", "torch", "numpy", "tiktoken", "tokenizers", "safetensors")
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "parameters": num_parameters(model),
        "trained_parameters": num_parameters(model, trained=True),
        "tokenizer": tokenizer.hash,
        "machine": {"system": platform.platform(), "processors": os.cpu_count()},
        "versions": {"python": platform.python_version()} | {name: installed(name) for name in packages},
        "git": git_state(),
    }


def conclude(
    say: Say, folder: Path, corpus: Corpus, outcome: Outcome, best_step: int, whole: Evaluation, more: str
) -> None:
    """Print the evaluation of the best checkpoint with baselines; `more` is the command that shows more."""
    state = outcome.state
    why = " (stopped early: no better validation loss)" if outcome.reason == "early" else ""
    say(
        f"trained {state.step:,} steps, read {state.tokens:,} {corpus.info.unit or 'tokens'} in {state.seconds:.0f} s"
        f"{why}; best checkpoint: step {best_step}"
        + (f"; {state.skipped} steps were not finite and not applied" if state.skipped else "")
    )
    say(f"whole validation {'data' if corpus.info.unit else 'text'}: {whole.describe()}")
    if whole.baselines:
        figures = [f"{name.replace('_', ' ')} {value:.4f}" for name, value in whole.baselines.items()]
        say(f"baseline: {', '.join(figures)}")
    if whole.bits_per_byte is not None and corpus.info.validation.bytes <= XZ_LIMIT:
        text = corpus.validation_text_bytes()
        xz = xz_bits_per_byte(text)
        if xz is not None:
            say(f"xz -9e needs {xz:.3f} bits per byte for the same {len(text):,} bytes by themselves")
    say(f"loss curve: {folder / 'curve.png'}; more with: {more}")


def xz_bits_per_byte(text: bytes) -> float | None:
    """Bits per byte of `text` compressed by `xz -9e`; None if it is empty or Python has no lzma."""
    try:
        import lzma  # absent from some Python builds
    except ImportError:
        return None
    return 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text) if text else None


def num_parameters(model: nn.Module, *, trained: bool = False) -> int:
    """Number of parameters, tied ones counted once; with `trained`, without frozen ones."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained)


def describe_parameters(model: nn.Module) -> str:
    """Such as `0.90 M parameters`; with frozen ones also how many are trained, and the memory for all that."""
    total, trained = num_parameters(model), num_parameters(model, trained=True)
    text = f"{total / 1e6:.2f} M parameters"
    if trained == total:
        return text
    memory, whole = (training_bytes(total, number) / 1e6 for number in (trained, total))
    share = f"{trained / 1e6:.2f} M of them trained ({100 * trained / total:.1f} %)"
    return f"{text}, {share}, {memory:,.0f} MB with gradients and optimizer state (all trained: {whole:,.0f} MB)"


def installed(package: str) -> str | None:
    """Version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_state() -> str | None:
    """Git commit of this package, `-dirty` if it has changes; None if it is not in a git checkout."""
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def indent(text: str) -> str:
    """Indent a preview."""
    return textwrap.indent(printable(text).strip("\n"), "  | ", lambda _: True)
