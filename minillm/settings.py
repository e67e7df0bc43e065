"""Placeholder until h-config's module is merged."""
from __future__ import annotations
import dataclasses
from typing import Any

def setting(default: Any, **rules: Any) -> Any:
    return dataclasses.field(default=default, metadata=rules)

def check(section: str, config: object) -> None:
    for f in dataclasses.fields(config):
        v, m = getattr(config, f.name), f.metadata
        bad = [w for w, b in ((f"at least {m.get('at_least')}", 'at_least' in m and not v >= m['at_least']), (f"above {m.get('above')}", 'above' in m and not v > m['above']), (f"below {m.get('below')}", 'below' in m and not v < m['below']), (f"at most {m.get('at_most')}", 'at_most' in m and not v <= m['at_most'])) if b]
        if bad: raise ValueError(f"{section}.{f.name} is {v!r}; it must be {' and '.join(bad)}")
