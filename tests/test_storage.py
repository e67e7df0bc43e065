"""Files that are written safely: whole or not at all, damage is found, and a full disk is one line with a name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from minillm import RunConfig, save_config
from minillm.data.cache import entry
from minillm.storage import MANIFEST, find_damage, read_manifest, seal, write_text
from minillm.tokenizers.byte import ByteTokenizer
from minillm.training.checkpoint import save_checkpoint, weights
from minillm.training.metrics import MetricsLog, plot_curve
from minillm.training.state import CheckpointState, TrainState

pytestmark = pytest.mark.skipif(
    os.name == "nt", reason="Windows has no limit on a file's size that stands for a full disk"
)


@contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """No file can grow past `num_bytes`; the error is the one of a full disk but for its number."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def log(file: Path) -> None:
    metrics = MetricsLog(file)
    try:
        for step in range(99):
            metrics.write(step=step, loss=1.0)
    finally:
        metrics.close()


def cached(write: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def make(folder: Path) -> dict[str, Any]:
        write(folder)
        return {}

    return lambda folder: entry(folder / "entry", make)


STATE = CheckpointState(TrainState(), scaler={}, tokenizer="t", data="d")
WRITERS: dict[str, Callable[[Path], Any]] = {
    "config.toml": lambda file: save_config(RunConfig(), file),
    "tokenizer.json": lambda file: ByteTokenizer().save(file.parent),
    "metrics.jsonl": log,
    "curve.png": lambda file: plot_curve(file.parent / "none.jsonl", file, title="run"),
    "step-000001": lambda file: save_checkpoint(
        file.parent, 1, model=weights(nn.Linear(50, 50)), optimizer={}, state=STATE
    ),
    "cache": cached(lambda folder: (folder / "text.bin").write_bytes(bytes(999))),
    "array": cached(lambda folder: np.save(folder / "ids.npy", np.zeros(999))),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_that_names_the_file_and_the_remedy(tmp_path: Path, name: str):
    file = tmp_path / name
    WRITERS["curve.png"](tmp_path / "warm.png")  # the library writes caches of its own at its first use
    with full_disk(200), pytest.raises(OSError, match=r"cannot write .*; (free some disk|fix this)") as caught:
        WRITERS[name](file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    WRITERS[name](file)
    assert file.exists(), "what was left behind is not in the way"


def test_an_error_of_reading_is_not_taken_for_a_full_disk(tmp_path: Path):
    def refused(folder: Path) -> None:
        raise ConnectionResetError(104, "Connection reset by peer")

    with pytest.raises(ConnectionResetError):
        cached(refused)(tmp_path)


def test_a_file_is_replaced_or_stays(tmp_path: Path):
    write_text(tmp_path / "a", "old")
    with full_disk(10), pytest.raises(OSError, match="cannot write"):
        write_text(tmp_path / "a", "new" * 99)
    assert (tmp_path / "a").read_text(encoding="utf-8") == "old" and os.listdir(tmp_path) == ["a"]


def test_a_sealed_folder_knows_its_files_and_its_facts(tmp_path: Path):
    (tmp_path / "a.bin").write_bytes(b"123")
    (tmp_path / "b.bin").write_bytes(b"")
    seal(tmp_path, facts={"count": 3})
    assert find_damage(tmp_path) is None and read_manifest(tmp_path)["facts"] == {"count": 3}
    assert "does not list c.bin" in str(find_damage(tmp_path, "c.bin"))
    (tmp_path / "a.bin").write_bytes(b"124")
    assert f"{tmp_path / 'a.bin'} is damaged" in str(find_damage(tmp_path))
    assert find_damage(tmp_path, "b.bin") is None
    (tmp_path / "a.bin").unlink()
    assert str(find_damage(tmp_path)) == f"{tmp_path / 'a.bin'} is missing"


def test_a_manifest_of_the_cache_from_before_it_had_a_version_is_read(tmp_path: Path):
    (tmp_path / "a.bin").write_bytes(b"123")
    seal(tmp_path, facts={})
    content = json.loads((tmp_path / MANIFEST).read_text(encoding="utf-8"))
    (entry,) = content["files"].values()
    old = {"facts": {}, "files": {"a.bin": {"bytes": entry["size"], "sha256": entry["sha256"]}}}
    (tmp_path / MANIFEST).write_text(json.dumps(old), encoding="utf-8")
    assert find_damage(tmp_path) is None
    (tmp_path / "a.bin").write_bytes(b"1234")
    assert "has 4 bytes, but 3 were written" in str(find_damage(tmp_path))


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"files": []}', '{"files": {"a": 1}}', '{"files": {"a": {}}}', "\x00"]
)
def test_a_damaged_manifest_is_one_line(tmp_path: Path, content: str):
    (tmp_path / MANIFEST).write_text(content, encoding="utf-8")
    assert find_damage(tmp_path) == f"{tmp_path / MANIFEST} is missing or damaged"
