"""The model card: README.md with the metadata that the hub reads (Mitchell et al. 2019)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

UNCHOSEN = "License: not chosen yet. Fill it in here and in the header before you publish this model.\n\n"
CARD = """---
{metadata}
---

# {name}

{license}| | |
|---|---|
{table}

```python
from transformers import AutoTokenizer, {auto_class}

tokenizer = AutoTokenizer.from_pretrained("PATH")
model = {auto_class}.from_pretrained("PATH")
```

AutoTokenizer converts the name of a special token in a text, such as `{special}`, to that token. minillm, which wrote
these files, treats it as ordinary text.
"""


@dataclass(frozen=True)
class About:
    """What is known about a model besides its weights."""

    facts: Mapping[str, str] = field(default_factory=dict)
    """Rows of the card's table."""
    license: str | None = None
    """Identifier of the license, such as mit; None: not chosen."""
    language: str | None = None
    """ISO 639 code of the text, such as en; None: not known."""
    datasets: tuple[str, ...] = ()
    """Names of data sets on the hub."""
    source: str | None = None
    """The text that it was trained on."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Name -> value on the validation text."""


def metadata(name: str, about: About, *, pipeline: str, library: str) -> str:
    """The YAML of the card's header."""
    from huggingface_hub import EvalResult, ModelCardData  # slow to import

    results = None
    if about.metrics and about.source is not None:
        kind = about.datasets[0] if about.datasets else "text"
        results = [
            EvalResult(pipeline, kind, about.source, metric, value, dataset_split="validation")
            for metric, value in about.metrics.items()
        ]
    data = ModelCardData(
        library_name=library,
        license=about.license or "other",
        language=about.language,
        pipeline_tag=pipeline,
        datasets=list(about.datasets) or None,
        metrics=list(about.metrics) or None,
        tags=["minillm"],
        model_name=name,
        eval_results=results,
    )
    return data.to_yaml().strip()


def model_card(
    name: str,
    about: About,
    *,
    pipeline: str,
    library: str,
    auto_class: str,
    special: str,
    facts: Mapping[str, str],
) -> str:
    """The text of README.md; `facts` come first in its table, `special` is the name of a special token."""
    return CARD.format(
        metadata=metadata(name, about, pipeline=pipeline, library=library),
        name=name,
        license="" if about.license else UNCHOSEN,
        table="\n".join(f"| {key} | {value} |" for key, value in {**facts, **about.facts}.items()),
        auto_class=auto_class,
        special=special,
    )


def license_in(folder: Path) -> str | None:
    """The license in the header of a folder's model card; None if it names none."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    header = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found: Any = re.search(r"^license:[ \t]*['\"]?([\w.-]+)", header[1], re.MULTILINE) if header else None
    return None if found is None or found[1] == "other" else found[1]
