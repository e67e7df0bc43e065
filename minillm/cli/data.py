"""`minillm data`."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from minillm.cli.eval import INPUT_FIELDS, TARGET_FIELDS
from minillm.cli.flags import overrides, with_flags
from minillm.cli.output import show
from minillm.config import RunConfig, override
from minillm.data.config import DataConfig
from minillm.registry import DATASETS, OBJECTIVES, load, objective_spec

TASK_FIELDS = {"data.input_field", "data.target_field"}
FIELDS = (*INPUT_FIELDS, *TARGET_FIELDS, "data.label_separator", "data.tag_scheme")
MAX_TASKS = 20
"""Maximum number of tasks shown; the largest come first."""


@with_flags("data", prefix=False, only=FIELDS)
@with_flags("tokenizer")
def data(
    source: str = DataConfig().source,
    /,
    *,
    objective: Annotated[str | None, Parameter(metavar="NAME")] = None,
    run: Path | None = None,
    json: bool = False,
    **given: str,
) -> None:
    """Show how a source is read and tokenized: documents, bytes, tokens, bytes per token, a sample, and what is left
    out. With --input-field or --target-field: the same for text-to-text examples.

    Args:
        source: Text file, folder, glob, .jsonl(.gz), .json, .csv, .tsv, .parquet, hf:NAME or builtin:NAME, where NAME
            is python-docs, python-stdlib or python-tasks.
        objective: Show the data as this objective reads it, such as classify, tag, extract, chat, seq2seq, reward, dpo
            or grpo. Default: as plain text.
        run: Use the tokenizer and the chat template of this run.
        json: Print one JSON object instead of lines.
    """
    keys = overrides(given)
    if run is not None and (wanted := [key for key in keys if key.startswith("tokenizer.")]):
        raise ValueError(f"--{wanted[0]} has no effect: --run brings its own tokenizer")

    from minillm.data.sources.builtin_tasks import NAME as TASKS
    from minillm.tokenizers.load import build_tokenizer, load_tokenizer

    of_tasks = bool(TASK_FIELDS & keys.keys()) or source == TASKS
    if of_tasks and "data.field" in keys:
        raise ValueError("--field is for plain text, --input-field and --target-field are for text-to-text: choose one")
    kind = objective_spec(objective).dataset if objective else "tasks" if of_tasks else "text"
    describe = DATASETS[kind].describe
    if describe is None:
        raise ValueError(f"the data of objective {objective} cannot be shown; minillm train prints how it reads them")
    reader = objective or next(name for name, row in OBJECTIVES.items() if row.dataset == kind)
    config = override(RunConfig(), {"objective.name": reader, "data.source": source} | keys)
    if run is None:
        tokenizer: Any = lambda texts, _: build_tokenizer(config.tokenizer, texts)  # noqa: E731
    else:
        from minillm.run import find_run

        tokenizer = load_tokenizer(find_run(run))
    found = load(describe)(config.data, tokenizer, progress=True)
    shown: dict[str, object] = {"source": found.source, "documents" if kind == "text" else "examples": found.documents}
    shown |= {"bytes": found.bytes, "tokens": found.tokens, "bytes_per_token": found.bytes_per_token} | found.figures
    if found.tasks is not None:
        shown["tasks"] = {name or "(no prefix)": number for name, number in list(found.tasks.items())[:MAX_TASKS]}
    if found.notes:
        shown["notes"] = list(found.notes) if json else "\n".join(("", *found.notes))
    show(shown | {"sample": found.sample}, json=json)
