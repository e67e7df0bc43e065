"""`minillm train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from minillm.cli.flags import overrides, with_flags
from minillm.config import DEFAULT_CONFIG, FINETUNE_CONFIG, SECTIONS, load_config
from minillm.training.state import Outcome


@with_flags(*SECTIONS)
def train(
    config: str | None = None,
    /,
    *,
    data: Annotated[str | None, Parameter(metavar="SOURCE")] = None,
    out: Annotated[Path | None, Parameter(metavar="DIR")] = None,
    resume: bool = False,
    init_from: Annotated[Path | None, Parameter(metavar="RUN")] = None,
    **given: str,
) -> int:
    """Train a model and keep everything it needs in a run folder. Flags outdo the config, the config the preset,
    the preset the defaults shown here.

    Parameters
    ----------
    config
        A name in configs/ or a TOML file; gpt-nano if left out, with --init-from finetune, with --resume the run's own.
    data
        Text to train on, short for --data.source.
    out
        Run folder; a new one under runs/ if left out, with --resume the latest.
    resume
        Go on from the last checkpoint of the run.
    init_from
        Start a new run from the weights of this one, trained here or imported; its shape and tokenizer come with it,
        and its objective unless CONFIG or --objective.name gives another.
    """
    keys = overrides(given)
    if data is not None:
        if "data.source" in keys:
            raise ValueError("--data is short for --data.source; give one of them")
        keys["data.source"] = data

    if init_from is not None:
        return start_from(init_from, config, keys, out, resume=resume)
    source: str | Path = config or DEFAULT_CONFIG
    if resume and config is None:
        from minillm.run import CONFIG, find_run

        folder = find_run(out)
        out, source = out or folder, folder / CONFIG
    settings = load_config(source, keys)  # before torch is imported: a mistake answers at once

    from minillm import run
    from minillm.run.checks import require_read

    require_read(keys, settings)
    return exit_code(run.train_run(settings, out, resume=resume))


def start_from(parent: Path, config: str | None, keys: dict[str, object], out: Path | None, *, resume: bool) -> int:
    """Train a new run from the weights of `parent`."""
    if resume:
        raise ValueError("--init-from starts a new run, --resume goes on with one; give one of them")
    # without a config the flags refine the parent's objective, which they may not fit before it is known
    settings = load_config(config, keys) if config else load_config(FINETUNE_CONFIG)

    from minillm import run
    from minillm.run.checks import require_read
    from minillm.run.warm_start import inherit

    folder = run.find_run(parent)
    settings = inherit(settings, load_config(folder / run.CONFIG), keys, own_objective=config is not None)
    require_read(keys, settings)
    return exit_code(run.train_run(settings, out, init_from=parent))


def exit_code(outcome: Outcome) -> int:
    """0, or 128 and the number of the signal that stopped the training."""
    return 128 + outcome.signal if outcome.signal else 0
