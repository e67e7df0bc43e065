"""`minillm data`."""

from typing import Any

from minillm.cli.flags import overrides, with_flags
from minillm.cli.output import show
from minillm.config import RunConfig, override
from minillm.data.config import DataConfig

TASK_FIELDS = {"data.input_field", "data.target_field"}
MAX_TASKS = 20
"""Maximum number of tasks shown; the largest come first."""


@with_flags("data", prefix=False, only=("data.field", *sorted(TASK_FIELDS)))
@with_flags("tokenizer")
def data(source: str = DataConfig().source, /, *, json: bool = False, **given: str) -> None:
    """Show how a source is read and tokenized: documents, bytes, tokens, bytes per token, a sample, and what is left
    out. With --input-field or --target-field: the same for text-to-text examples.

    Args:
        source: Text file, folder, glob, .jsonl(.gz), .json, .csv, .tsv, .parquet, hf:NAME or builtin:NAME, where NAME
            is python-docs, python-stdlib or python-tasks.
        json: Print one JSON object instead of lines.
    """
    keys = overrides(given)
    fields: dict[str, Any] = {key[5:]: value for key, value in keys.items() if key.startswith("data.")}
    config = DataConfig(source=source, **fields)
    tokenizer = override(RunConfig(), {key: keys[key] for key in keys if key.startswith("tokenizer.")}).tokenizer

    from minillm.data.describe import describe, describe_tasks
    from minillm.data.sources.builtin_tasks import NAME as TASKS
    from minillm.tokenizers.load import build_tokenizer

    of_tasks = bool(TASK_FIELDS & keys.keys()) or source == TASKS
    if of_tasks and "data.field" in keys:
        raise ValueError("--field is for plain text, --input-field and --target-field are for text-to-text: choose one")
    read = describe_tasks if of_tasks else describe
    found = read(config, lambda texts, _: build_tokenizer(tokenizer, texts), progress=True)
    shown: dict[str, object] = {"source": found.source, "examples" if of_tasks else "documents": found.documents}
    shown |= {"bytes": found.bytes, "tokens": found.tokens, "bytes_per_token": found.bytes_per_token}
    if found.tasks is not None:
        shown["tasks"] = {name or "(no prefix)": number for name, number in list(found.tasks.items())[:MAX_TASKS]}
    if found.notes:
        shown["notes"] = list(found.notes) if json else "\n".join(("", *found.notes))
    show(shown | {"sample": found.sample}, json=json)
