"""A run as data: one frozen dataclass composed of its parts' own, read strictly from TOML and flags, saved whole.

Values are layered, weakest first: the dataclasses' defaults, the model preset, the TOML file, the overrides (flags).
The command line and Python come through here alike, so a mistake reads the same wherever it is made.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import tomli_w

from minillm.data.config import DataConfig
from minillm.distributed.config import ParallelConfig
from minillm.generation.config import SampleConfig
from minillm.models.presets import PRESETS, preset
from minillm.nn.config import ModelConfig
from minillm.objectives.config import ObjectiveConfig
from minillm.storage import write_text
from minillm.tokenizers.config import TokenizerConfig
from minillm.training.config import EvalConfig, OptimConfig, SaveConfig, ScheduleConfig, TrainConfig

DEFAULT_CONFIG, FINETUNE_CONFIG = "gpt-nano", "finetune"


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run. A section belongs to the room that reads it; only `run.py` sees them all."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """How text becomes ids."""
    data: DataConfig = field(default_factory=DataConfig)
    """The text."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """What is predicted."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The update rule."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """The learning rate over time."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The loop."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Measuring on the validation text."""
    save: SaveConfig = field(default_factory=SaveConfig)
    """Checkpoints."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """Several processes."""
    sample: SampleConfig = field(default_factory=SampleConfig)
    """Generation."""


SECTIONS: dict[str, type] = get_type_hints(RunConfig)
"""Section name -> the dataclass that holds it."""
KEYS: dict[str, Any] = {f"{s}.{k}": hint for s, owner in SECTIONS.items() for k, hint in get_type_hints(owner).items()}
"""Dotted key -> its type, for every key of every section."""


class _Given(NamedTuple):
    """A value as somebody wrote it, and the file it stands in as a prefix for messages; empty where there is none."""

    value: object
    source: str


def load_config(config: str | Path = DEFAULT_CONFIG, overrides: Mapping[str, object] | None = None) -> RunConfig:
    """The run that `config` describes, refined by `overrides`.

    `config` is a name in configs/ or the path of a TOML file. `overrides` maps dotted keys to values, such as
    {"train.steps": 100}; a string is read as on the command line, "none" meaning None. Where they name another
    model.preset than the file, the file's [model] section, which refines its own preset, does not apply.
    Raises ValueError naming file and key for anything unknown, of the wrong type or contradictory, OSError for a file
    that cannot be read.
    """
    path = find_config(config)
    given, flags = _read_toml(path), _flatten(overrides or {})
    if (
        "model.preset" in flags
        and flags["model.preset"].value != given.get("model.preset", flags["model.preset"]).value
    ):
        given = {key: value for key, value in given.items() if not key.startswith("model.")}
    given |= flags
    chosen = given.get("model.preset", _Given(ModelConfig.preset, ""))
    name = _convert("model.preset", chosen)
    try:
        shape = preset(name)
    except ValueError as error:
        raise ValueError(f"{chosen.source}{error}") from error
    return _apply(RunConfig(model=shape), given)


def override(config: RunConfig, overrides: Mapping[str, object]) -> RunConfig:
    """A loaded config with some keys changed, by the same rules and messages as `load_config`.

    A preset is not looked up again: `model.preset` by itself changes nothing but its name.
    """
    return _apply(config, _flatten(overrides))


def save_config(config: RunConfig, path: Path) -> None:
    """Write the resolved config as TOML, from which `load_config` rebuilds an equal one.

    TOML has no null: a key that is None is left out, or is "none" where the preset would otherwise fill it.
    """
    shape = PRESETS.get(config.model.preset, {})
    document: dict[str, dict[str, object]] = {}
    for section in SECTIONS:
        part = getattr(config, section)
        table = document[section] = {}
        for key in (f.name for f in fields(part)):
            value = getattr(part, key)
            if value is not None:
                table[key] = list(value) if isinstance(value, tuple) else value
            elif section == "model" and shape.get(key) is not None:
                table[key] = "none"
    write_text(path, tomli_w.dumps(document))


def find_config(name: str | Path) -> Path:
    """The TOML file of that name: one of configs/ (`gpt-nano`), or a path (`my.toml`, `folder/my.toml`).

    Raises ValueError with the nearest names where there is none, FileNotFoundError for a path that does not exist.
    """
    path = Path(name)
    if path.suffix == ".toml" or len(path.parts) > 1:
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no such config file; give a TOML file or one of {', '.join(config_names())}"
            )
        return path
    for folder in _config_folders():
        if (folder / f"{name}.toml").is_file():
            return folder / f"{name}.toml"
    hint = f"a model of that name is --model.preset {name}; " if str(name) in PRESETS else ""
    raise ValueError(f"no config named {str(name)!r}; {hint}{_nearest(str(name), config_names())} Or give a TOML file.")


def config_names() -> list[str]:
    """Names of the configs that come with the package, in alphabetical order."""
    return sorted({path.stem for folder in _config_folders() for path in folder.glob("*.toml")})


def _config_folders() -> list[Path]:
    """configs/ inside the package (a wheel) or else beside it (a checkout); never a stranger's in site-packages."""
    package = Path(__file__).resolve().parent
    inside, beside = package / "configs", package.parent / "configs"
    if inside.is_dir():
        return [inside]
    return [beside] if (package.parent / "pyproject.toml").is_file() else []


def _read_toml(path: Path) -> dict[str, _Given]:
    """The file's keys with their values; every key known, values not yet checked."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text; a config is a TOML file") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid TOML: {error}") from error
    values: dict[str, object] = {}
    for section, table in document.items():
        if section in SECTIONS and not isinstance(table, dict):
            raise ValueError(f"{path}: {section}: expected a table [{section}], got {_shown(table)}")
        if section in SECTIONS:
            values |= {f"{section}.{key}": value for key, value in table.items()}
        else:
            values[section] = table
    return _flatten(values, source=f"{path}: ")


def _flatten(values: Mapping[str, object], source: str = "") -> dict[str, _Given]:
    """The values under their dotted keys, each with its source; raises ValueError at a key that does not exist."""
    for key in values:
        if key not in KEYS:
            raise ValueError(f"{source}unknown key {key}; {_nearest_key(key)}")
    return {key: _Given(value, source) for key, value in values.items()}


def _apply(config: RunConfig, given: Mapping[str, _Given]) -> RunConfig:
    """The config with every given key converted and set; the sections check what belongs together."""
    sections: dict[str, dict[str, object]] = {}
    for key, item in given.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = _convert(key, item)
    changed = {}
    for section, values in sections.items():
        try:
            changed[section] = replace(getattr(config, section), **values)
        except ValueError as error:
            raise ValueError(f"{_source_of(str(error), section, given)}{error}") from error
    return replace(config, **changed)


def _source_of(message: str, section: str, given: Mapping[str, _Given]) -> str:
    """Where the value that a section complains of was written: a file, or "" for a flag, which outdoes the file."""
    own = {key: item.source for key, item in given.items() if key.startswith(f"{section}.")}
    sources = [source for key, source in own.items() if re.search(rf"{re.escape(key)}\b", message)] or own.values()
    return min(sources, key=bool)


def _convert(key: str, given: _Given) -> Any:
    """The value as the key's type; raises ValueError with what was expected and what came."""
    hint = KEYS[key]
    value = _parse(given.value, hint) if not given.source else given.value
    allowed = _alternatives(hint)
    if NoneType in allowed and (value is None or value == "none"):
        return None
    for kind in allowed:
        if get_origin(kind) is Literal and isinstance(value, str) and value in get_args(kind):
            return value
        if kind is bool and isinstance(value, bool):
            return value
        if kind is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
            return float(value)
        if kind is str and _is_text(value):
            return value
        if get_origin(kind) is tuple and isinstance(value, list | tuple) and all(map(_is_text, value)):
            return tuple(value)
    raise ValueError(f"{given.source}{key}: expected {_described(hint)}, got {_shown(given.value)}")


def _parse(value: object, hint: Any) -> object:
    """A flag's text as the number or truth value that its key wants; anything else as it is."""
    if isinstance(value, str):
        allowed = _alternatives(hint)
        if bool in allowed:
            return {"true": True, "false": False}.get(value.lower(), value)
        for kind in (int, float):
            if kind in allowed:
                try:
                    return kind(value)
                except ValueError:
                    return value
    return value


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the one type itself."""
    return get_args(hint) if get_origin(hint) not in (Literal, tuple, None) else (hint,)


def _is_text(value: object) -> bool:
    """Whether it is a string that UTF-8 can store; an argument with broken bytes is not."""
    return isinstance(value, str) and value.encode("utf-8", "ignore").decode("utf-8") == value


def _described(hint: Any) -> str:
    """A type in a user's words."""
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text", NoneType: "none"}
    words = []
    for kind in _alternatives(hint):
        if get_origin(kind) is Literal:
            words.append("one of " + ", ".join(get_args(kind)))
        else:
            words.append(names.get(kind, "a list of strings"))
    return " or ".join(words)


def _shown(value: object) -> str:
    """The value on one short line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _nearest_key(key: str) -> str:
    """Advice for an unknown key: the same name in another section, the nearest, or all there are."""
    section, _, name = key.rpartition(".")
    namesakes = [known for known in KEYS if known.partition(".")[2] == name]
    if namesakes:
        return "did you mean " + " or ".join(namesakes) + "?"
    if section in SECTIONS and not difflib.get_close_matches(key, KEYS, n=1, cutoff=0.75):
        return f"[{section}] has " + ", ".join(f.name for f in fields(SECTIONS[section]))
    near = difflib.get_close_matches(key, [*SECTIONS, *KEYS], n=1)
    return f"did you mean {near[0]}?" if near else "the sections are " + ", ".join(SECTIONS)


def _nearest(name: str, known: Collection[str]) -> str:
    """The nearest known name, or all of them where none is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}."
