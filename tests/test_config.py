"""Layering, strictness and the round trip of a run's configuration."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm import config_files as config_module
from minillm.config import SECTIONS, RunConfig, keys_of, load_config, objective_class, override, save_config
from minillm.config_files import find_config
from minillm.models.presets import PRESETS, preset
from minillm.registry import OBJECTIVES


@pytest.fixture
def toml(tmp_path: Path):
    """Write a TOML file and return its path."""

    def write(text: str) -> Path:
        path = tmp_path / "my.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_flags_take_precedence_over_the_file_then_the_preset_then_the_defaults(toml):
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
    assert load_config(toml("")) == load_config(toml('[model]\npreset = "qwen3-nano"\n'))


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
        ("sample.prompt", "none", None),
        ("data.source", "none", "none"),
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


def test_the_saved_copy_does_not_depend_on_the_preset(tmp_path: Path, monkeypatch):
    config = load_config(overrides={"model.preset": "gpt2", "model.vocab_size": "none"})
    save_config(config, tmp_path / "config.toml")
    filled = {"vocab_size": 9, "d_ff": 8, "num_kv_heads": 1, "head_dim": 2, "attention_bias": "qkv", "embed_scale": 3.0}
    monkeypatch.setitem(PRESETS, "gpt2", {**PRESETS["gpt2"], **filled, "attention_dropout": 0.5, "num_layers": 1})
    assert load_config(tmp_path / "config.toml").model == config.model


def test_a_copy_of_an_older_version_which_leaves_out_what_is_none_loads_as_before(tmp_path: Path):
    config = load_config(overrides={"model.preset": "llama-small"})
    save_config(config, tmp_path / "config.toml")
    lines = (tmp_path / "config.toml").read_text(encoding="utf-8").splitlines()
    assert lines.count('vocab_size = "none"') == 1
    older = [line for line in lines if not line.endswith('= "none"') or line.startswith("rope_scaling")]
    (tmp_path / "config.toml").write_text("\n".join(older), encoding="utf-8")
    assert load_config(tmp_path / "config.toml") == config


NO_EFFECT: list[tuple[str, object, str, object, object]] = [
    ("optim.muon_lr", 0.05, "optim.name", "adamw", "muon"),
    ("optim.momentum", 0.9, "optim.name", "adamw", "muon"),
    ("schedule.final_ratio", 0.3, "schedule.name", "constant", "cosine"),
    ("schedule.final_ratio", 0.3, "schedule.name", "inverse_sqrt", "linear"),
    ("schedule.decay_fraction", 0.3, "schedule.name", "cosine", "wsd"),
    ("data.validation_fraction", 0.3, "data.validation", "own.txt", "none"),
    ("data.split", "tail", "data.validation", "own.txt", "none"),
    ("tokenizer.vocab_size", 300, "tokenizer.kind", "byte", "bpe"),
    ("tokenizer.train_bytes", 300, "tokenizer.kind", "char", "bpe"),
    ("model.rope_theta", 5.0, "model.position", "learned", "rotary"),
    ("model.rope_scaling", "linear", "model.position", "alibi", "rotary"),
    ("model.rope_factor", 2.0, "model.rope_scaling", "none", "linear"),
    ("model.rope_original_len", 64, "model.rope_scaling", "linear", "llama3"),
    ("model.rope_low_freq_factor", 2.0, "model.rope_scaling", "linear", "llama3"),
    ("model.rope_high_freq_factor", 8.0, "model.rope_scaling", "linear", "llama3"),
    ("model.relative_buckets", 16, "model.position", "rotary", "t5"),
    ("model.relative_max_distance", 64, "model.position", "rotary", "t5"),
    ("model.norm_bias", False, "model.norm", "rmsnorm", "layernorm"),
    ("model.ngram_rows", 64, "model.ngram_order", 1, 2),
    ("model.init_std", 0.1, "model.init", "fan_in", "normal"),
]


@pytest.mark.parametrize(("key", "value", "other", "without", "with_"), NO_EFFECT)
def test_a_setting_without_effect_is_refused_as_a_flag_and_in_a_file(toml, key, value, other, without, with_):
    words = rf"{key} has no effect with {other} {without}; leave it out, or set {other} to "
    section, _, name = key.partition(".")
    with pytest.raises(ValueError, match=f"^{words}"):
        load_config(overrides={key: value, other: without})
    with pytest.raises(ValueError, match=f"^{words}"):
        override(load_config(), {key: value, other: without})
    lines = f"[{section}]\n{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}\n"
    unread = f"{lines}{other.partition('.')[2]} = {without!r}\n"
    with pytest.raises(ValueError, match=rf"my\.toml: {words}"):
        load_config(toml(unread))

    allowed = load_config(overrides={key: value, other: with_})
    assert getattr(getattr(allowed, section), name) == value
    assert load_config(toml(unread), {other: with_}) == load_config(toml(lines), {other: with_})


def test_a_key_of_data_that_the_objective_does_not_read_is_refused_as_a_flag_in_a_file_and_in_python(toml):
    for key, text in (("mixing", "equal"), ("label_field", "class"), ("mixing_temperature", "3.0")):
        with pytest.raises(ValueError, match=rf"data\.{key} has no effect with objective\.name clm, only with "):
            load_config(
                overrides={f"data.{key}": text, "data.mixing": "temperature"} if "_t" in key else {f"data.{key}": text}
            )
    with pytest.raises(
        ValueError, match=r"my\.toml: data\.packing has no effect with objective\.name mlm, only with clm"
    ):
        load_config(toml('[model]\npreset = "bert-mini"\n[objective]\nname = "mlm"\n[data]\npacking = "documents"\n'))
    with pytest.raises(
        ValueError, match=r"data\.split has no effect with objective\.name seq2seq, only with clm or mlm"
    ):
        override(load_config("t5-tasks"), {"data.split": "tail"})
    with pytest.raises(
        ValueError, match=r"^data\.mixing_temperature has no effect with data\.mixing equal; leave it out"
    ):
        load_config("t5-tasks", {"data.mixing": "equal", "data.mixing_temperature": 3.0})


def test_a_flag_may_take_away_the_effect_of_what_the_file_holds(toml):
    path = toml('[optim]\nname = "muon"\nmuon_lr = 0.05\n')
    assert load_config(path, {"optim.name": "adamw"}).optim.name == "adamw"
    with pytest.raises(ValueError, match=r"^optim\.muon_lr has no effect"):
        load_config(path, {"optim.name": "adamw", "optim.muon_lr": 0.05})


def test_a_default_or_a_value_of_the_preset_is_no_mistake_in_a_file(toml):
    assert load_config(toml('[optim]\nname = "adamw"\nmuon_lr = 0.02\n')).optim == RunConfig().optim
    kept = load_config(toml('[model]\npreset = "gpt-nano"\nngram_order = 1\nngram_rows = 4096\n'))
    assert kept.model == preset("gpt-nano", ngram_order=1)
    with pytest.raises(ValueError, match=r"optim\.muon_lr"):
        load_config(toml(""), {"optim.name": "adamw", "optim.muon_lr": 0.02})  # somebody gave it, for this run


def test_a_flag_for_the_learning_rate_replaces_those_that_the_recipe_chose_beside_its_own(toml):
    recipe = toml("[optim]\nlr = 0.01\nembedding_lr = 0.03\nhead_lr = 0.02\nvector_lr = 0.05\n")
    assert load_config(recipe, {"optim.weight_decay": 0}).optim.embedding_lr == 0.03
    optim = load_config(recipe, {"optim.lr": 1e-3, "optim.head_lr": 2e-3}).optim
    assert (optim.lr, optim.embedding_lr, optim.head_lr, optim.vector_lr) == (1e-3, None, 2e-3, None)


def test_a_flag_for_another_model_replaces_them_too_because_it_may_have_no_embeddings():
    flags: dict[str, object] = {"objective.name": "classify_images"}
    assert load_config(overrides={"model.preset": "qwen3-nano"}).optim.embedding_lr == 0.03
    assert load_config(overrides=flags | {"model.preset": "mlp-digits"}).optim.embedding_lr is None


def test_a_runs_own_copy_loads_with_settings_that_have_no_effect(tmp_path: Path):
    given = {"optim.name": "muon", "optim.muon_lr": 0.05, "schedule.name": "linear", "schedule.final_ratio": 0.0}
    config = load_config(overrides=given)
    config = override(config, {"optim.name": "adamw", "schedule.name": "constant", "tokenizer.kind": "byte"})
    save_config(config, tmp_path / "config.toml")
    assert load_config(tmp_path / "config.toml") == config
    assert load_config(tmp_path / "config.toml", {"optim.lr": 1}).optim.muon_lr == 0.05
    with pytest.raises(ValueError, match=r"^optim\.momentum has no effect"):
        load_config(tmp_path / "config.toml", {"optim.momentum": 0.5})


@pytest.mark.parametrize(
    ("old", "heads"),
    [
        ("lm_head = true\npair_head = true\npooler = false", ("lm", "pair")),
        ("lm_head = false\npair_head = false\npooler = true", ("pooler",)),
        ("pair_head = true", ("lm", "pair")),
        ("pooler = true", ("lm", "pooler")),
        ("lm_head = true", ("lm",)),
    ],
)
def test_the_old_keys_of_the_output_heads_still_load(toml, old: str, heads: tuple[str, ...]):
    assert load_config(toml(f'[model]\npreset = "bert-tiny"\n{old}\n')).model.heads == heads


def test_old_names_of_keys_still_load_from_a_file(toml):
    text = '[model]\npreset = "bert-tiny"\nnum_segments = 3\n[sample]\nread_ahead = 4\n'
    config = load_config(toml(text))
    assert (config.model.num_token_types, config.sample.num_draft_tokens) == (3, 4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[sample]\nread_ahead = 1\nnum_draft_tokens = 1", r"my\.toml: sample\.num_draft_tokens is given twice"),
        ('[model]\nlm_head = true\nheads = ["lm"]', r"my\.toml: model\.heads is given twice"),
        ("[model]\npooler = 1", r"my\.toml: model\.pooler: expected true or false, got 1"),
        ('[sample]\nread_ahead = "x"', r"my\.toml: sample\.num_draft_tokens: expected an integer, got 'x'"),
    ],
)
def test_a_mistake_in_an_old_key_is_named(toml, text: str, words: str):
    with pytest.raises(ValueError, match=words):
        load_config(toml(text))


@pytest.mark.parametrize("key", ["model.num_segments", "model.lm_head", "sample.read_ahead"])
def test_old_names_are_not_accepted_as_flags(key: str):
    with pytest.raises(ValueError, match=f"^unknown key {key}"):
        load_config(overrides={key: 1})


def test_overrides_may_be_nested_by_section_and_mixed_with_dotted_keys():
    nested = {"train": {"steps": 5, "seed": "3"}, "optim.lr": 1e-2, "data": {"source": Path("my.txt")}, "eval": {}}
    dotted = {"train.steps": 5, "train.seed": 3, "optim.lr": 1e-2, "data.source": "my.txt"}
    assert load_config("gpt-nano", nested) == load_config("gpt-nano", dotted)
    assert override(RunConfig(), nested) == override(RunConfig(), dotted)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train": {"steps": 5}, "train.steps": 5}, "train.steps is given twice; leave one of them out"),
        ({"train": {"stepz": 5}}, "unknown key train.stepz; did you mean train.steps?"),
        ({"train": 5}, "train: expected a table of its keys, got 5"),
        ({"trian": {}}, "unknown key trian; did you mean train?"),
        ({"train": {"steps": {"x": 1}}}, "train.steps: expected an integer, got {'x': 1}"),
    ],
)
def test_a_mistake_in_nested_overrides_is_named(overrides: dict[str, object], message: str):
    with pytest.raises(ValueError) as caught:
        load_config(overrides=overrides)
    assert str(caught.value) == message


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
    default = RunConfig()
    for name in OBJECTIVES:
        config = override(default, {"objective.name": name})
        owners = SECTIONS | {"objective": objective_class(name)}
        defaults = {f"{section}.{f.name}": f.default for section, owner in owners.items() for f in fields(owner)}
        assert set(defaults) == set(keys_of(name))
        assert override(config, defaults) == config == replace(default, objective=objective_class(name)())
