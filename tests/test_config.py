"""Layering, strictness and the round trip of a run's configuration."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm import config_files as config_module
from minillm.config import KEYS, SECTIONS, RunConfig, load_config, override, save_config
from minillm.config_files import find_config
from minillm.models.presets import PRESETS, preset


@pytest.fixture
def toml(tmp_path: Path):
    """Write a TOML file and return its path."""

    def write(text: str) -> Path:
        path = tmp_path / "my.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_flags_outdo_the_file_which_outdoes_the_preset_which_outdoes_the_defaults(toml):
    path = toml('[model]\npreset = "gpt2"\nnum_layers = 3\nd_model = 96\n[train]\nsteps = 7\n')
    config = load_config(path, {"model.num_layers": 2})
    assert config.model.num_layers == 2  # flag over file and preset
    assert config.model.d_model == 96  # file over preset
    assert config.model.max_seq_len == PRESETS["gpt2"]["max_seq_len"]  # preset over default
    assert (config.train.steps, config.train.seed) == (7, RunConfig().train.seed)


def test_another_preset_given_as_a_flag_replaces_the_files_model_section_and_no_other(toml):
    path = toml('[model]\npreset = "gpt2"\nd_model = 96\n[train]\nsteps = 7\n')
    config = load_config(path, {"model.preset": "llama-small"})
    assert (config.model, config.train.steps) == (preset("llama-small"), 7)
    assert load_config(path, {"model.preset": "gpt2"}).model.d_model == 96


def test_an_empty_file_is_the_default_run(toml):
    assert load_config(toml("")) == load_config(toml('[model]\npreset = "gpt-nano"\n'))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[train]\nstepz = 5", ["my.toml", "train.stepz", "train.steps"]),
        ("[train]\nlr = 5", ["my.toml", "train.lr", "optim.lr"]),
        ("[trian]\nsteps = 5", ["my.toml", "trian", "train"]),
        ("steps = 5", ["my.toml", "steps", "train.steps"]),
        ("[optim]\nqqqq = 5", ["optim.qqqq", "muon_lr"]),
        ("train = 5", ["my.toml", "train", "table", "5"]),
        ("[[train]]\nsteps = 5", ["my.toml", "train", "table"]),
        ('[train]\nsteps = "5"', ["my.toml", "train.steps", "an integer", "'5'"]),
        ("[train]\nsteps = true", ["train.steps", "an integer", "True"]),
        ("[train]\nsteps = 1.0", ["train.steps", "an integer", "1.0"]),
        ("[train.steps]\nx = 1", ["train.steps", "an integer"]),
        ("[optim]\nlr = nan", ["optim.lr", "a number", "nan"]),
        ("[optim]\nlr = inf", ["optim.lr", "a number", "inf"]),
        ("[optim]\nlr = true", ["optim.lr", "a number", "True"]),
        ('[optim]\nname = "adam"', ["optim.name", "adamw, muon", "'adam'"]),
        ("[model]\nbias = 1", ["model.bias", "true or false", "1"]),
        ('[model]\nd_ff = "auto"', ["model.d_ff", "an integer or none", "'auto'"]),
        ("[data]\nsource = 5", ["data.source", "text", "5"]),
        ('[sample]\nstop = "a"', ["sample.stop", "a list of strings", "'a'"]),
        ("[sample]\nstop = [1]", ["sample.stop", "a list of strings", "[1]"]),
        ('[model]\npreset = "gpt3"', ["my.toml", "model.preset", "gpt3", "gpt2"]),
        ("[model]\nd_model = 9", ["my.toml", "model.d_model", "model.num_heads"]),
        ("[train", ["my.toml", "not valid TOML", "table declaration"]),
        ("x = " + "[" * 5000, ["my.toml", "not valid TOML"]),
        ("[train]\nsteps = " + "9" * 5000, ["my.toml"]),
        ("[optim]\nlr = " + "9" * 400, ["my.toml", "optim.lr", "a number"]),
    ],
)
def test_a_mistake_in_the_file_is_one_line_that_names_file_key_and_remedy(toml, text: str, words: list[str]):
    with pytest.raises(ValueError) as caught:
        load_config(toml(text))
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message and len(message) < 500


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("train.steps", "12", 12),
        ("optim.lr", "1e-3", 1e-3),
        ("optim.lr", 1, 1.0),
        ("model.bias", "false", False),
        ("model.d_ff", "none", None),
        ("model.d_ff", None, None),
        ("data.validation", "own.txt", "own.txt"),
        ("data.source", "12", "12"),
        ("sample.stop", ["a", "b"], ("a", "b")),
        ("sample.prompt", "none", "none"),
    ],
)
def test_an_override_may_be_a_value_or_its_text(key: str, value: object, read: object):
    section, _, name = key.partition(".")
    found = getattr(getattr(load_config(overrides={key: value}), section), name)
    assert found == read and type(found) is type(read)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("train.stepz", 1, "unknown key train.stepz; did you mean train.steps?"),
        ("train.steps", "many", "train.steps: expected an integer, got 'many'"),
        ("train.steps", "1.5", "train.steps: expected an integer, got '1.5'"),
        ("optim.lr", "nan", "optim.lr: expected a number, got 'nan'"),
        ("model.bias", "yes", "model.bias: expected true or false, got 'yes'"),
        ("train.device", "gpu", "train.device: expected one of auto, cpu, cuda, mps, got 'gpu'"),
        ("data.source", "\udcff", "data.source: expected text, got '\\udcff'"),
    ],
)
def test_a_mistake_in_an_override_names_the_key_and_what_was_expected(key: str, value: object, words: str):
    with pytest.raises(ValueError) as caught:
        load_config(overrides={key: value})
    assert str(caught.value) == words


def test_a_value_out_of_range_is_blamed_on_the_flag_or_the_file_that_holds_it(toml):
    path = toml("[train]\nsteps = 5\nlog_every = 0\n")
    with pytest.raises(ValueError, match=r"my\.toml: train\.log_every is 0"):
        load_config(path, {"train.steps": 9})
    with pytest.raises(ValueError, match=r"^train\.steps is 0"):
        load_config(path, {"train.steps": 0, "train.log_every": 1})
    with pytest.raises(ValueError, match=r"^train\.steps is 0"):
        load_config(toml("[train]\nsteps = 5\nseed = 3\n"), {"train.steps": "0"})


def test_a_name_that_is_no_config_gets_the_nearest():
    with pytest.raises(ValueError, match=r"'gpt-nanu'; did you mean gpt-nano\?"):
        find_config("gpt-nanu")
    with pytest.raises(ValueError, match=r"--model\.preset gpt2-xl"):
        find_config("gpt2-xl")


def test_a_path_that_does_not_exist_or_is_no_text_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.toml.*gpt-nano"):
        find_config(tmp_path / "nowhere.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"binary\.toml: not UTF-8"):
        load_config(tmp_path / "binary.toml")


def test_configs_are_found_in_a_wheel_and_in_a_checkout_but_not_among_strangers(tmp_path: Path, monkeypatch):
    package = tmp_path / "site" / "minillm"
    package.mkdir(parents=True)
    monkeypatch.setattr(config_module, "__file__", str(package / "config.py"))
    beside = tmp_path / "site" / "configs"
    beside.mkdir()
    (beside / "gpt-nano.toml").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="no config named"):
        find_config("gpt-nano")  # site-packages/configs is another package's
    (tmp_path / "site" / "pyproject.toml").write_text("", encoding="utf-8")
    assert find_config("gpt-nano") == beside / "gpt-nano.toml"
    (package / "configs").mkdir()
    (package / "configs" / "gpt-nano.toml").write_text("", encoding="utf-8")
    assert find_config("gpt-nano") == package / "configs" / "gpt-nano.toml"


def test_override_changes_only_the_named_keys_of_a_loaded_config():
    config = load_config(overrides={"train.steps": 5})
    changed = override(config, {"sample.top_k": "3"})
    assert changed == replace(config, sample=replace(config.sample, top_k=3))


@pytest.mark.parametrize("name", PRESETS)
def test_the_saved_copy_rebuilds_every_preset(tmp_path: Path, name: str):
    config = load_config(overrides={"model.preset": name})
    save_config(config, tmp_path / "config.toml")
    assert load_config(tmp_path / "config.toml") == config


def test_the_saved_copy_keeps_a_none_that_the_preset_would_fill(tmp_path: Path):
    config = load_config(overrides={"model.preset": "llama-small", "model.num_kv_heads": "none"})
    save_config(config, tmp_path / "config.toml")
    assert load_config(tmp_path / "config.toml").model.num_kv_heads is None


TEXT = st.text(st.characters(codec="utf-8"), max_size=12)


@settings(max_examples=40, deadline=None)
@given(
    prompt=TEXT,
    stop=st.lists(TEXT.filter(bool), max_size=3),
    lr=st.floats(1e-9, 1e9),
    steps=st.integers(1),
)
def test_the_saved_copy_rebuilds_any_values(tmp_path_factory, prompt: str, stop: list[str], lr: float, steps: int):
    path = tmp_path_factory.mktemp("run") / "config.toml"
    given_values = {"sample.prompt": prompt, "sample.stop": stop, "optim.lr": lr, "train.steps": steps}
    config = load_config(overrides=given_values)
    save_config(config, path)
    assert load_config(path) == config
    assert (config.sample.prompt, config.sample.stop) == (prompt, tuple(stop))


def test_every_key_has_a_default_of_its_own_type():
    defaults: dict[str, Any] = {
        f"{section}.{f.name}": f.default for section, owner in SECTIONS.items() for f in fields(owner)
    }
    assert set(defaults) == set(KEYS)
    assert override(RunConfig(), defaults) == RunConfig()
