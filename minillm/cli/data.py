"""`minillm data`."""

from __future__ import annotations

from minillm.cli.flags import overrides, with_flags
from minillm.cli.output import show
from minillm.config import RunConfig, override


@with_flags("data", prefix=False, only=("data.field",))
@with_flags("tokenizer")
def data(source: str = RunConfig().data.source, /, *, json: bool = False, **given: str) -> None:
    """Read a text and cut it into tokens as training would: documents, bytes, tokens, bytes per token, a sample.

    Parameters
    ----------
    source
        Text file, folder, glob, .jsonl(.gz), .csv, .parquet, hf:NAME, builtin:python-docs or builtin:python-stdlib.
    json
        Print one JSON object instead of lines.
    """
    config = override(RunConfig(), {"data.source": source} | overrides(given))

    from minillm.data.describe import describe
    from minillm.tokenizers.load import build_tokenizer

    found = describe(config.data, lambda texts, _: build_tokenizer(config.tokenizer, texts), progress=True)
    keys = ("source", "documents", "bytes", "tokens", "bytes_per_token", "sample")
    show({key: getattr(found, key) for key in keys}, json=json)
