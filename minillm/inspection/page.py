"""Self-contained HTML pages: a template of this package with data in it, which loads nothing."""

from __future__ import annotations

import json
import math
from importlib import resources
from typing import Any


def fill_template(name: str, data: dict[str, Any]) -> str:
    """The page `name` with its data as one HTML text. Numbers that are not finite become null."""
    template = (resources.files(__package__ or "") / "pages" / name).read_text(encoding="utf-8")
    # "</script>" inside the data would end the script
    return template.replace("/*DATA*/ null", json.dumps(_finite(data)).replace("<", "\\u003c"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
