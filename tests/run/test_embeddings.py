"""Sentence embeddings of a run: the command, and folders of sentence-transformers in and out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minillm import embed, load_config, load_run, save_config
from minillm.cli import main
from minillm.generation.config import EmbedConfig
from minillm.run import export_model, finetune_config, import_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

SETTINGS = EmbedConfig(
    pooling="cls", normalize=True, max_tokens=20, similarity="dot", prompts=("query=Q: a=b ", "text=T: "), prompt="text"
)
TEXTS = ["7 and 7 make 14", "so it is", "12 and 12 make 24", "8 and 8 make 16"]


@pytest.fixture
def imported(exported: Callable[[str], Path], tmp_path: Path) -> Path:
    """A run with these settings."""
    run = import_model(exported("bert"), tmp_path / "imported")
    save_config(replace(load_config(run / "config.toml"), embed=SETTINGS), run / "config.toml")
    return run


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def test_what_is_exported_for_sentence_transformers_comes_back_bit_for_bit(imported, tmp_path):
    before = load_run(imported)
    out = export_model(before, tmp_path / "out", say=lambda _: None)
    after = load_run(import_model(out, tmp_path / "again"))
    assert after.config.embed == before.config.embed == SETTINGS
    assert torch.equal(embed(before, TEXTS), embed(after, TEXTS))
    again = export_model(after, tmp_path / "out2", say=lambda _: None)
    for path in out.rglob("*.json"):
        assert (again / path.relative_to(out)).read_bytes() == path.read_bytes(), path
    assert (again / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_a_run_that_starts_from_it_keeps_the_settings(imported):
    assert finetune_config(imported).embed == SETTINGS
    assert finetune_config(imported, {"embed.pooling": "max"}).embed == replace(SETTINGS, pooling="max")


def test_without_pooling_a_folder_has_no_files_of_sentence_transformers(exported, tmp_path):
    folder = exported("bert")
    assert not (folder / "modules.json").exists()
    assert load_run(import_model(folder, tmp_path / "run")).config.embed == EmbedConfig()


def test_a_folder_in_the_layout_of_version_6_or_of_the_first_versions_is_read(exported, tmp_path):
    folder = exported("bert")
    kinds = ["base.modules.transformer.Transformer", "sentence_transformer.modules.pooling.Pooling"]
    steps = zip(kinds, ("", "1"), strict=True)
    write(folder, "modules.json", [{"type": f"sentence_transformers.{kind}", "path": path} for kind, path in steps])
    write(folder, "1/config.json", {"embedding_dimension": 32, "pooling_mode": "lasttoken", "include_prompt": True})
    write(folder, "config_sentence_transformers.json", {"prompts": {"query": ""}, "similarity_fn_name": None})
    found = load_run(import_model(folder, tmp_path / "new")).config.embed
    assert found == EmbedConfig(pooling="last", max_tokens=64)  # the tokenizer's own maximum
    old = tmp_path / "old"
    old.mkdir()
    folder.rename(old / "0_Transformer")
    kinds = ["Transformer", "Pooling"]
    write(old, "modules.json", [{"type": f"models.{k}", "path": f"{i}_{k}"} for i, k in enumerate(kinds)])
    write(old, "1_Pooling/config.json", {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False})
    write(old / "0_Transformer", "sentence_roberta_config.json", {"max_seq_length": 11})
    assert load_run(import_model(old, tmp_path / "older")).config.embed == EmbedConfig(pooling="max", max_tokens=11)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "modules.json",
            [{"type": "x.Transformer", "path": ""}, {"type": "x.Dense", "path": "1"}],
            "Transformer, Dense",
        ),
        ("modules.json", [{"type": "x.Transformer", "path": "../x"}], "'../x' is not a folder next to it"),
        ("modules.json", {"a": 1}, "modules.json is damaged"),
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, "its pooling is cls with mean; only one of cls"),
        ("1_Pooling/config.json", {"include_prompt": False}, "include_prompt is false"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case is true"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "odd"}, "embed.similarity is 'odd'"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(imported, tmp_path, name, content, message, capsys):
    out = export_model(load_run(imported), tmp_path / "out", say=lambda _: None)
    write(out, name, content)
    assert main(["import", str(out), str(tmp_path / "again")]) == 2
    assert message in capsys.readouterr().err


def test_the_command_prints_or_writes_vectors_and_ranks_texts(imported, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("\n".join([*TEXTS, "", " "]), encoding="utf-8")
    expected = embed(imported, [TEXTS[0], *TEXTS]).numpy()
    run, data = str(imported), str(tmp_path / "texts.txt")
    assert main(["embed", run, TEXTS[0], "--data", data, "--out", str(tmp_path / "x.npy")]) == 0
    assert np.array_equal(np.load(tmp_path / "x.npy"), expected)
    assert "5 vectors of 32 numbers written to" in capsys.readouterr().err
    assert main(["embed", run, *TEXTS[:2], "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["text"], second["text"]) == tuple(TEXTS[:2])
    assert np.allclose([first["vector"], second["vector"]], expected[1:3], atol=1e-6)
    assert main(["embed", run, "so it is"]) == 0
    assert capsys.readouterr().out.endswith("… (32 numbers)  so it is\n")
    assert main(["embed", run, "--data", data, "--similar", TEXTS[2], "--top-k", "2", "--json"]) == 0
    best, other = map(json.loads, capsys.readouterr().out.splitlines())
    assert best["text"] == TEXTS[2] and best["score"] == pytest.approx(1, abs=1e-6) and best["score"] > other["score"]


def test_the_command_reads_pairs_from_records(imported, tmp_path, capsys):
    (tmp_path / "pairs.csv").write_text("a,b\n7 and,7 make\n", encoding="utf-8")
    given = ["--data", str(tmp_path / "pairs.csv"), "--field", "a", "--pair-field", "b", "--json"]
    assert main(["embed", str(imported), *given]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["text"] == ["7 and", "7 make"]
    assert np.allclose(found["vector"], embed(imported, [("7 and", "7 make")])[0].numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "there is no text to embed"),
        (["a", "--field", "x"], "--field names a field of --data"),
        (["a", "--top-k", "0"], "--top-k is 0"),
        (["a", "--out", "x.txt"], "x.txt does not end in .npy"),
        (["a", "--prompt", "odd"], "embed.prompt is 'odd'; embed.prompts has query, text"),
        (["--data", "missing.txt"], "no file or folder missing.txt"),
    ],
)
def test_a_mistake_is_one_line(imported, given, message, capsys):
    assert main(["embed", str(imported), *given]) == 2
    said = capsys.readouterr().err.splitlines()
    assert message in said[-1] and said[-1].startswith("minillm: error: ")
