"""Finds and reads config files; key names of older versions are translated."""

import difflib
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from minillm.models.presets import PRESETS
from minillm.settings import shown

RENAMED = {"model.num_segments": "model.num_token_types", "sample.read_ahead": "sample.num_draft_tokens"}
"""Old name of a key -> new name."""
BESIDE_LR = ("optim.embedding_lr", "optim.head_lr", "optim.vector_lr")
"""Learning rates that a recipe chose to suit its optim.lr and its model."""
OLD_HEADS = {"model.lm_head": True, "model.pair_head": False, "model.pooler": False}
"""Old key for an output head -> its default; together these keys became model.heads."""


def find_config(name: str | Path) -> Path:
    """The TOML file for a name in configs/ (`gpt-nano`) or a path (`my.toml`, `folder/my.toml`)."""
    path, own = Path(name), own_configs()
    if path.suffix == ".toml" or len(path.parts) > 1:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such config file; give a TOML file or one of {', '.join(own)}")
        return path
    if str(name) in own:
        return own[str(name)]
    hint = f"a model of that name is --model.preset {name}; " if str(name) in PRESETS else ""
    near = difflib.get_close_matches(str(name), own, n=1)
    nearest = f"did you mean {near[0]}?" if near else f"there are: {', '.join(own)}."
    raise ValueError(f"no config named {str(name)!r}; {hint}{nearest} Or give a TOML file.")


def own_configs() -> dict[str, Path]:
    """Name -> path of the configs that come with the package, in alphabetical order."""
    package = Path(__file__).resolve().parent
    folder = package / "configs"  # in a wheel; in a checkout, configs/ is next to the package
    if not folder.is_dir() and (package.parent / "pyproject.toml").is_file():
        folder = package.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_toml(path: Path) -> dict[str, object]:
    """The file's values by dotted key, not checked yet; old keys are translated."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text; a config is a TOML file") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid TOML: {error}") from error
    try:
        return _with_new_names(flatten(document))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def flatten(values: Mapping[str, object]) -> dict[str, object]:
    """Values by dotted key, from values by dotted key or section; ValueError for a duplicate key."""
    flat: dict[str, object] = {}
    for name, value in values.items():
        table = {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, Mapping) else {}
        for key, inner in (table or {name: value}).items():
            if key in flat:
                raise ValueError(f"{key} is given twice; leave one of them out")
            flat[key] = inner
    return flat


def without_replaced(written: dict[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a file, by dotted key, without those that were chosen to suit a value that a flag replaces."""
    chosen = flags.get("model.preset")
    other_model = chosen and chosen.value != written.get("model.preset", chosen).value
    dropped = BESIDE_LR if other_model or "optim.lr" in flags else ()
    dropped += ("model.",) if other_model else ()
    return {key: item for key, item in written.items() if not key.startswith(dropped)}


def _with_new_names(values: dict[str, object]) -> dict[str, object]:
    """The values with old keys translated."""
    new = {RENAMED[key]: values.pop(key) for key in RENAMED if key in values}
    if OLD_HEADS.keys() & values.keys():
        heads = {key: values.pop(key, default) for key, default in OLD_HEADS.items()}
        if wrong := [key for key, value in heads.items() if not isinstance(value, bool)]:
            raise ValueError(f"{wrong[0]}: expected true or false, got {shown(heads[wrong[0]])}")
        new["model.heads"] = [key[6:].removesuffix("_head") for key, value in heads.items() if value]
    if twice := sorted(values.keys() & new.keys()):
        raise ValueError(f"{twice[0]} is given twice, once by its old name; leave the old one out")
    return values | new


def nearest_key(key: str, keys: Collection[str], sections: Collection[str]) -> str:
    """Advice for an unknown key: the same name in another section, the nearest name, or all names."""
    section, _, name = key.rpartition(".")
    namesakes = [known for known in keys if known.partition(".")[2] == name]
    if namesakes:
        return "did you mean " + " or ".join(namesakes) + "?"
    if section in sections and not difflib.get_close_matches(key, keys, n=1, cutoff=0.75):
        return f"[{section}] has " + ", ".join(k.partition(".")[2] for k in keys if k.startswith(f"{section}."))
    near = difflib.get_close_matches(key, [*sections, *keys], n=1)
    return f"did you mean {near[0]}?" if near else "the sections are " + ", ".join(sections)
