"""The config of a run: a frozen dataclass of sections, read strictly from TOML and flags.

Precedence: overrides (flags) > TOML file > model preset > defaults of the dataclasses.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import tomli_w

from minillm.adapters.config import AdapterConfig
from minillm.config_files import find_config, flatten, nearest_key, read_toml, without_replaced
from minillm.data.config import DataConfig
from minillm.distributed.config import ParallelConfig
from minillm.generation.config import EmbedConfig, SampleConfig
from minillm.models.presets import preset
from minillm.nn.config import ModelConfig
from minillm.nn.families import why_unread
from minillm.registry import OBJECTIVES, load, objective_spec, readers_of
from minillm.settings import convert, hints, parse, shown, unread
from minillm.storage import write_text
from minillm.tokenizers.config import TokenizerConfig
from minillm.training.config import EvalConfig, OptimConfig, SaveConfig, ScheduleConfig, TrainConfig

DEFAULT_CONFIG, FINETUNE_CONFIG = "gpt-nano", "finetune"
DEFAULT_OBJECTIVE = "clm"


def objective_class(name: str) -> type:
    """The dataclass of the [objective] section for this objective; its module imports torch."""
    return load(objective_spec(name).config)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that determines a run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The model."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """Conversion of text to token ids."""
    data: DataConfig = field(default_factory=DataConfig)
    """The text."""
    objective: Any = field(default_factory=lambda: objective_class(DEFAULT_OBJECTIVE)())
    """What is predicted; each objective in minillm/registry.py has its own dataclass."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """What is trained instead of all weights."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimizer."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """The learning-rate schedule."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The training loop."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Evaluation on the validation text."""
    save: SaveConfig = field(default_factory=SaveConfig)
    """Checkpoints."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """Distributed training."""
    sample: SampleConfig = field(default_factory=SampleConfig)
    """Generation."""
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    """Sentence embeddings."""


SECTIONS: dict[str, Any] = get_type_hints(RunConfig)
"""Section name -> its dataclass; Any for [objective], which has a dataclass for each objective."""
KEYS: dict[str, Any] = {
    f"{section}.{key}": hint
    for section, owner in SECTIONS.items()
    for key, hint in ({"name": str} if owner is Any else hints(owner)).items()
}
"""Dotted key -> its type, for all keys except those that only some objectives have."""
_SAVED = {"model", "tokenizer", "data", "objective", "optim", "schedule", "train", "eval", "save", "parallel", "sample"}
"""Sections of every config.toml in a run folder, including those of older versions."""


class _Given(NamedTuple):
    """A value from a file or an override, and the file's name as a prefix for messages; "" for an override."""

    value: object
    source: str


def load_config(config: str | Path = DEFAULT_CONFIG, overrides: Mapping[str, object] | None = None) -> RunConfig:
    """Load a config and apply `overrides`.

    Args:
        config: a name in configs/ or the path of a TOML file.
        overrides: values by dotted key, {"train.steps": 100}, or by section, {"train": {"steps": 100}}. Strings are
            parsed as on the command line; "none" means None. If they change model.preset, the file's [model] section is
            ignored, because it modifies the file's preset. If they change model.preset or set optim.lr, the file's
            learning rates for embeddings, heads and vectors are ignored.

    Raises:
        ValueError: a key is unknown or has no effect, or a value has the wrong type, is out of range or contradictory.
        OSError: the file cannot be read.
    """
    path = find_config(config)
    in_file, in_flags = read_toml(path), flatten(overrides or {})
    is_copy = {key.partition(".")[0] for key in in_file} >= _SAVED
    own, name = (str(found.get("objective.name", DEFAULT_OBJECTIVE)) for found in (in_file, in_file | in_flags))
    if is_copy:  # older versions wrote the keys of all objectives
        in_file = {key: value for key, value in in_file.items() if own in _readers(key) or not _readers(key)}
    written, flags = _known(in_file, f"{path}: ", own), _known(in_flags, "", name)
    if own != name:
        written = {key: item for key, item in written.items() if not key.startswith("objective.")}
    written = without_replaced(written, flags)
    given = written | flags
    chosen = given.get("model.preset", _Given(ModelConfig.preset, ""))
    section = objective_class(name)()
    try:
        base = RunConfig(model=preset(_convert("model.preset", chosen, KEYS)), objective=section)
    except ValueError as error:
        raise ValueError(f"{chosen.source}{error}") from error
    loaded = _apply(base, given)
    _require_effect(flags, loaded)
    if not is_copy:  # the copy in a run folder holds every key, with or without effect
        before, after = _values(base), _values(loaded)
        changes = {key: item for key, item in written.items() if key not in flags and before[key] != after[key]}
        # a flag may remove the effect of a key in the file
        alone = before | {key: item.value for key, item in written.items()} | {"objective.name": own}
        _require_effect(changes, loaded, alone)
    return loaded


def override(config: RunConfig, overrides: Mapping[str, object]) -> RunConfig:
    """Change keys of a loaded config, with the checks of `load_config`.

    `model.preset` changes only the name; its values are not loaded. A key without effect may repeat its present value
    or its default.
    """
    flat = flatten(overrides)
    given = _known(flat, "", str(flat.get("objective.name", config.objective.name)))
    changed = _apply(config, given)
    default, after = _values(RunConfig(objective=type(changed.objective)())), _values(changed)
    before = default | _values(config)
    changes = {key: item for key, item in given.items() if after[key] not in (before[key], default[key])}
    _require_effect(changes, changed)
    return changed


def save_config(config: RunConfig, path: Path) -> None:
    """Write the config as TOML, from which `load_config` restores an equal one.

    TOML has no null. None is written as "none" in [model], where the preset may have another value, and omitted in
    other sections.
    """
    document: dict[str, dict[str, object]] = {}
    for section in SECTIONS:
        table = document[section] = {}
        for key, value in vars(getattr(config, section)).items():
            if value is not None:
                table[key] = list(value) if isinstance(value, tuple) else value
            elif section == "model":
                table[key] = "none"
    write_text(path, tomli_w.dumps(document))


def keys_of(objective: str) -> dict[str, Any]:
    """Dotted key -> its type, for all keys of a run with this objective."""
    return KEYS | {f"objective.{key}": hint for key, hint in hints(objective_class(objective)).items()}


def _known(values: Mapping[str, object], source: str, objective: str) -> dict[str, _Given]:
    """The values with their source; ValueError if a key does not exist or this objective does not have it."""
    known = KEYS if all(key in KEYS for key in values) else keys_of(objective)
    for key, value in values.items():
        if key in SECTIONS and value != {}:
            raise ValueError(f"{source}{key}: expected a table of its keys, got {shown(value)}")
        if key not in known and key not in SECTIONS:
            if readers := " or ".join(_readers(key)):
                only = f"objective.name {objective}, only with {readers}"
                raise ValueError(f"{source}{key} has no effect with {only}; leave it out")
            raise ValueError(f"{source}unknown key {key}; {nearest_key(key, known, SECTIONS)}")
    return {key: _Given(value, source) for key, value in values.items() if key in known}


def _readers(key: str) -> list[str]:
    """The objectives whose section has a key; empty for a key of all objectives or of none."""
    if not key.startswith("objective.") or key in KEYS:
        return []
    return [name for name in OBJECTIVES if key.partition(".")[2] in hints(objective_class(name))]


def _apply(config: RunConfig, given: Mapping[str, _Given]) -> RunConfig:
    """The config with the given keys converted and set."""
    sections: dict[str, dict[str, object]] = {}
    name = given.get("objective.name", _Given(config.objective.name, "")).value
    known = keys_of(str(name))
    if name != config.objective.name:
        config = replace(config, objective=objective_class(str(name))())
    for key, item in given.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = _convert(key, item, known)
    changed = {}
    for section, values in sections.items():
        try:
            changed[section] = replace(getattr(config, section), **values)
        except ValueError as error:
            raise ValueError(f"{_source_of(str(error), section, given)}{error}") from error
    return replace(config, **changed)


def _values(config: RunConfig) -> dict[str, object]:
    """Every value of the config by its dotted key."""
    return {f"{section}.{key}": value for section in SECTIONS for key, value in vars(getattr(config, section)).items()}


def _require_effect(given: Mapping[str, _Given], config: RunConfig, alone: Mapping[str, object] | None = None) -> None:
    """ValueError for a given key that has no effect, neither in `config` nor, if passed, with the values `alone`."""
    for key, item in given.items():
        owner = type(getattr(config, key.partition(".")[0]))
        reason = _why_unread(key, owner, _values(config))
        if reason and (alone is None or _why_unread(key, owner, alone)):
            raise ValueError(f"{item.source}{reason}")


def _why_unread(key: str, owner: type, values: Mapping[str, object]) -> str | None:
    """Why nothing reads a key: another setting, or the objective and its data set; None if it is read."""
    section, _, field_name = key.partition(".")
    datasets = owner.__dataclass_fields__[field_name].metadata.get("datasets")  # type: ignore[attr-defined]
    name, readers, reason = values["objective.name"], readers_of(key, datasets), unread(key, owner, values)
    if section == "model":
        reason = reason or why_unread(field_name, str(values["model.family"]))
    if reason or name in readers:
        return reason
    return f"{key} has no effect with objective.name {name}, only with {' or '.join(readers)}; leave it out"


def _source_of(message: str, section: str, given: Mapping[str, _Given]) -> str:
    """The source of the value that an error message names: a file, or "" for an override."""
    own = {key: item.source for key, item in given.items() if key.startswith(f"{section}.")}
    sources = [source for key, source in own.items() if re.search(rf"{re.escape(key)}\b", message)] or own.values()
    return min(sources, key=bool)


def _convert(key: str, given: _Given, known: Mapping[str, Any]) -> Any:
    """The value as the type of the key; ValueError if it has another type."""
    value = parse(given.value, known[key]) if isinstance(given.value, str | list) and not given.source else given.value
    try:
        return convert(value, known[key])
    except ValueError as error:
        raise ValueError(f"{given.source}{key}: expected {error}, got {shown(given.value)}") from None
