"""`minillm train`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from minillm.cli.flags import overrides, print_help, with_flags
from minillm.config import DEFAULT_CONFIG, SECTIONS, load_config

SHOWN = {
    *("model.preset", "model.num_layers", "model.d_model", "model.num_heads", "model.max_seq_len", "model.dropout"),
    *("tokenizer.kind", "tokenizer.vocab_size", "data.validation", "objective.name", "optim.name", "optim.lr"),
    *("train.steps", "train.epochs", "train.global_batch", "train.micro_batch", "train.precision", "train.device"),
    *("train.seed", "eval.every", "save.every", "sample.prompt"),
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
    """Train a model and save it in a run folder. Precedence: flags > config > preset > the defaults shown here.

    Args:
        config: Name in configs/ or a TOML file. Default: gpt-nano; finetune with --init-from; the run's with --resume.
        data: Training text: file, folder, glob, .jsonl(.gz), .json, .csv, .tsv, .parquet, hf:NAME or builtin:NAME.
        out: Run folder. Default: a new one under runs/; the latest run with --resume.
        resume: Continue from the run's last checkpoint.
        init_from: Start a new run from the weights of this run. Its shape and tokenizer are kept, and its objective
            too, unless CONFIG or --objective.name gives another one.
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

    source: str | Path = config or DEFAULT_CONFIG
    if init_from is not None:
        if resume:
            raise ValueError("--init-from starts a new run, --resume continues an existing one; give one of them")
        from minillm.run import finetune_config

        settings = finetune_config(init_from, keys, config=config)
    else:
        if resume and config is None:
            from minillm.run import CONFIG, find_run

            folder = find_run(out)
            out, source = out or folder, folder / CONFIG
        settings = load_config(source, keys)  # before torch is imported, so that mistakes are reported at once

    from minillm import run

    outcome = run.train_run(settings, out, resume=resume, init_from=init_from)
    return 128 + outcome.signal if outcome.signal else 0
