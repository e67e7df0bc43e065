"""Imports and exports name every setting that they leave out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from minillm.config import override
from minillm.exchange.generation_settings import unused_gguf_settings, unused_settings, unwritten_settings
from minillm.exchange.task_heads import unused_dropout
from minillm.generation.config import SampleConfig
from minillm.run import export_model, import_model, load_run


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"num_beams": 4, "no_repeat_ngram_size": 3}, "num_beams = 4, no_repeat_ngram_size = 3"),
        ({"temperature": 0.7, "top_k": 50}, "temperature = 0.7"),  # transformers reads it with do_sample only
        ({"suppress_tokens": [1, 9]}, "suppress_tokens = [1, 9]"),
        ({"suppress_tokens": [[1]]}, "suppress_tokens = [[1]]"),
        ({"some_new_setting": "a\nb"}, "some_new_setting = 'a\\nb'"),
        ({"num_beams": 1, "length_penalty": 1.0, "use_cache": True, "early_stopping": False}, None),
        ({"do_sample": True, "temperature": 0.7, "min_p": 0.1, "max_new_tokens": 9, "eos_token_id": [1, 2]}, None),
        (
            {"suppress_tokens": [1], "transformers_version": "5", "_from_model_config": True, "constraints": None},
            None,
        ),
    ],
    ids=str,
)
def test_entries_without_a_counterpart_are_named(content: dict[str, Any], named: str | None, tmp_path: Path):
    (tmp_path / "generation_config.json").write_text(json.dumps(content), encoding="utf-8")
    line = unused_settings(tmp_path, never={1})
    assert (line and line.partition("no such setting: ")[2]) == named
    fields = {f"general.sampling.{key}": value for key, value in content.items()} | {"general.name": "x"}
    in_gguf = unused_gguf_settings(fields, tmp_path / "x.gguf")
    assert named is None or (in_gguf is not None and named.partition(" = ")[0] in in_gguf)
    assert unused_gguf_settings({"general.sampling.temp": 0.5, "general.name": "x"}, tmp_path / "x.gguf") is None


def test_an_export_names_the_settings_that_the_format_lacks():
    assert unwritten_settings(SampleConfig(temperature=0.1, seed=3), gguf=True) is None
    line = unwritten_settings(SampleConfig(stop=("\n",), num_samples=2, max_new_tokens=9), gguf=False)
    assert line is not None and line.endswith("config.json has no such setting: sample.num_samples, sample.stop")
    line = unwritten_settings(SampleConfig(max_new_tokens=9), gguf=True)
    assert line is not None and line.endswith("a GGUF file has no such setting: sample.max_new_tokens")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"qa_dropout": 0.3}, "qa_dropout is 0.3; minillm trains the head for answers without dropout"),
        ({}, "qa_dropout is 0.1; "),
        ({"qa_dropout": 0.0}, None),
        ({"architectures": ["DistilBertForMaskedLM"]}, None),
        ({"model_type": "bert"}, None),
    ],
    ids=str,
)
def test_a_dropout_that_our_head_lacks_is_named(config: dict[str, Any], says: str | None):
    line = unused_dropout({"model_type": "distilbert", "architectures": ["DistilBertForQuestionAnswering"]} | config)
    assert line is None if says is None else (line or "").startswith(says)


def test_import_and_export_say_these_lines_once(
    run_of: Callable[[str], Path], exported: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = exported("gpt2")
    capsys.readouterr()
    import_model(folder, tmp_path / "own")
    assert "not used" not in capsys.readouterr().out  # our own export has nothing that we do not read
    settings = folder / "generation_config.json"
    settings.write_text(settings.read_text(encoding="utf-8").replace("{", '{"num_beams": 4,', 1), encoding="utf-8")
    import_model(folder, tmp_path / "in")
    assert capsys.readouterr().out.count("num_beams = 4\n") == 1
    loaded, said = load_run(run_of("gpt2")), list[str]()
    stopping = replace(loaded, config=override(loaded.config, {"sample.stop": ["x"]}))
    export_model(stopping, tmp_path / "x.gguf", say=said.append)
    assert said[0] == "not exported, because a GGUF file has no such setting: sample.stop"
