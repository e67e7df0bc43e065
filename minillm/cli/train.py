"""`minillm train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from minillm.cli.flags import overrides, print_help, with_flags
from minillm.config import DEFAULT_CONFIG, SECTIONS, load_config
from minillm.training.state import Outcome

SHOWN = {
    *("model.preset", "model.num_layers", "model.d_model", "model.num_heads", "model.max_seq_len", "model.dropout"),
    *("tokenizer.kind", "tokenizer.vocab_size", "data.validation", "objective.name", "optim.name", "optim.lr"),
    *("train.steps", "train.global_batch", "train.micro_batch", "train.precision", "train.device", "train.seed"),
    *("eval.every", "save.every", "sample.prompt"),
}
"""Keys that --help lists; --help-all lists all of them."""


@with_flags(*SECTIONS, show=SHOWN)
def train(
    config: str | None = None,
    /,
    *,
    data: Annotated[str | None, Parameter(metavar="SOURCE")] = None,
    out: Annotated[Path | None, Parameter(metavar="DIR")] = None,
    resume: bool = False,
    init_from: Annotated[Path | None, Parameter(metavar="RUN")] = None,
    help_all: bool = False,
    **given: str,
) -> int:
    """Train a model and write everything it needs to a run folder. Precedence: flags > config > preset > the defaults
    shown here.

    Args:
        config: Name in configs/ or a TOML file. Default: gpt-nano; finetune with --init-from; the run's with --resume.
        data: Training text: file, folder, glob, .jsonl(.gz), .csv, .parquet, hf:NAME, builtin:NAME; like --data.source.
        out: Run folder. Default: a new one under runs/; the latest run with --resume.
        resume: Continue from the run's last checkpoint.
        init_from: Start a new run from the weights of this one, which was trained here or imported. Its shape,
            tokenizer and objective are used unless CONFIG or --objective.name gives another objective.
        help_all: Show the flags of all config keys.
    """
    if help_all:
        from minillm.cli import build_app

        print_help(build_app(), "train", train)
        return 0
    keys = overrides(given)
    if data is not None:
        if "data.source" in keys:
            raise ValueError("--data and --data.source are the same; give one of them")
        keys["data.source"] = data

    if init_from is not None:
        return start_from(init_from, config, keys, out, resume=resume)
    source: str | Path = config or DEFAULT_CONFIG
    if resume and config is None:
        from minillm.run import CONFIG, find_run

        folder = find_run(out)
        out, source = out or folder, folder / CONFIG
    settings = load_config(source, keys)  # before torch is imported, so that a mistake is reported at once

    from minillm import run

    return exit_code(run.train_run(settings, out, resume=resume))


def start_from(parent: Path, config: str | None, keys: dict[str, object], out: Path | None, *, resume: bool) -> int:
    """Train a new run from the weights of `parent`."""
    if resume:
        raise ValueError("--init-from starts a new run, --resume continues one; give one of them")
    from minillm import run

    settings = run.finetune_config(parent, keys, config=config)
    return exit_code(run.train_run(settings, out, init_from=parent))


def exit_code(outcome: Outcome) -> int:
    """0, or 128 and the number of the signal that stopped the training."""
    return 128 + outcome.signal if outcome.signal else 0
