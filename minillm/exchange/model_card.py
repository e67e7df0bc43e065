"""The model card: a README.md with the header that the hub reads."""

from __future__ import annotations

from collections.abc import Mapping


def model_card(name: str, auto_class: str, facts: Mapping[str, str], *, special: str) -> str:
    """The card as Markdown; the license is left to fill in.

    Args:
        name: of the model.
        auto_class: class of transformers that loads it.
        facts: rows of its table.
        special: the name of one of its special tokens.
    """
    table = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    return f"""---
library_name: transformers
license: other
---

# {name}

License: not chosen yet. Fill it in here and in the header before you publish this model.

| | |
|---|---|
{table}

```python
from transformers import AutoTokenizer, {auto_class}

tokenizer = AutoTokenizer.from_pretrained("PATH")
model = {auto_class}.from_pretrained("PATH")
```

AutoTokenizer turns the name of a special token in a text, such as `{special}`, into that token. minillm, which wrote
these files, treats it as ordinary text.
"""
