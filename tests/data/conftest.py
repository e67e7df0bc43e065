"""Small texts on disk, as the data room's own reader lays them down."""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import pytest

from minillm.data.config import DataConfig
from minillm.data.datasets.text import Text, read_text


@pytest.fixture(scope="session")
def jsonl_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], Path]:
    """Documents to a .jsonl file in a folder of its own."""
    root = tmp_path_factory.mktemp("texts")

    def write(documents: list[str]) -> Path:
        path = Path(mkdtemp(dir=root)) / "documents.jsonl"
        path.write_text("".join(json.dumps({"text": d}) + "\n" for d in documents), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def text_of(jsonl_of: Callable[[list[str]], Path]) -> Callable[[list[str]], Text]:
    """Documents to a Text in a cache of its own."""

    def read(documents: list[str]) -> Text:
        path = jsonl_of(documents)
        return read_text(str(path), DataConfig(), path.parent / "cache")

    return read
