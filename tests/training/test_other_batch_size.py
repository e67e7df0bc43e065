"""A resumed run may change the size of its batches: it reads on exactly where it stopped."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minillm import load_config, override, train
from minillm.data.loader import Loader, Row
from minillm.storage import seal
from minillm.training.checkpoint import checkpoints
from minillm.training.metrics import read_metrics
from minillm.training.trainer import Trainer

Make = Callable[..., Trainer]


def stream(make_trainer: Make, folder: Path) -> list[Row]:
    """The rows that a run with batches of one row reads, in turn; 42 of them are an epoch."""
    source = make_trainer(folder, train={"global_batch": 1}).source
    assert isinstance(source, Loader)
    return [row for step in range(300) for row in source.rows(step)]


def fit(make_trainer: Make, folder: Path, steps: int, global_batch: int, *, saved: int | None = None) -> list[Row]:
    """Train up to step `steps`, from the folder's last checkpoint if there is one; the rows that were read."""
    trainer = make_trainer(folder, train={"steps": steps, "global_batch": global_batch}, eval={"every": 0})
    if found := checkpoints(folder):
        trainer.restore(found[-1], global_batch=saved)
    source, read = trainer.source, []
    assert isinstance(source, Loader)
    make = source.batches

    def batches(step: int) -> Any:
        read.extend(source.rows(step))
        return make(step)

    source.batches = batches  # type: ignore[method-assign]
    assert trainer.fit().state.step == steps
    return read


def test_changing_the_batch_size_skips_and_repeats_no_example(make_trainer: Make, tmp_path: Path):
    run, expected = tmp_path / "run", stream(make_trainer, tmp_path / "whole")
    read = fit(make_trainer, run, 5, 16)
    read += fit(make_trainer, run, 11, 4)
    read += fit(make_trainer, run, 14, 16)
    read += fit(make_trainer, run, 16, 16)  # nothing changes, and the origin is remembered
    assert len(read) == 80 + 24 + 48 + 32 and read == expected[: len(read)]
    assert checkpoints(run)[-1].state.train.examples == len(read)


def test_old_checkpoints_derive_the_number_of_examples_from_the_batch_size(make_trainer: Make, tmp_path: Path):
    run, expected = tmp_path / "run", stream(make_trainer, tmp_path / "whole")
    fit(make_trainer, run, 5, 16)
    forget_examples(checkpoints(run)[-1].path)
    assert checkpoints(run)[-1].state.train.examples is None
    assert fit(make_trainer, run, 9, 4, saved=16) == expected[80:96]


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
def test_a_resumed_run_continues_with_the_next_example(copy_of_run: Callable[[], Path], old: bool):
    run = copy_of_run()
    if old:
        forget_examples(checkpoints(run)[-1].path)
    train(override(load_config(run / "config.toml"), {"train.steps": 8, "train.global_batch": 2}), run, resume=True)
    assert checkpoints(run)[-1].state.train.examples == 6 * 4 + 2 * 2
    train(override(load_config(run / "config.toml"), {"train.steps": 9, "train.global_batch": 6}), run, resume=True)
    assert checkpoints(run)[-1].state.train.examples == 6 * 4 + 2 * 2 + 6


def forget_examples(checkpoint: Path) -> None:
    """Write a checkpoint's state as version 1 did, and seal it again."""
    file = checkpoint / "state.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    for key in ("version", "imported"):
        del content[key]
    for key in ("examples", "best_value", "start_loss"):
        del content["train"][key]
    file.write_text(json.dumps(content), encoding="utf-8")
    seal(checkpoint)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"train.seed": 7}, r"cannot change train\.seed: it is 1337 in .*config\.toml, now 7; leave it as it was"),
        ({"data.seq_len": 8}, r"cannot change data\.seq_len: it is None in .*config\.toml, now 8; leave it as it was"),
        ({"data.packing": "documents"}, r"cannot change data\.packing"),
        ({"model.dropout": 0.2}, r"cannot change model\.dropout"),
        ({"objective.name": "prefix_lm"}, r"cannot change objective\.name"),
    ],
    ids=str,
)
def test_changes_that_make_it_another_run_raise_with_the_key(
    copy_of_run: Callable[[], Path], change: dict[str, object], line: str
):
    run = copy_of_run()
    changed = override(load_config(run / "config.toml"), {"train.steps": 8} | change)
    with pytest.raises(ValueError, match=f"--resume {line}"):
        train(changed, run, resume=True)
    assert checkpoints(run)[-1].step == 6


def test_a_jump_of_the_learning_rate_is_reported(copy_of_run: Callable[[], Path], capsys: pytest.CaptureFixture[str]):
    run = copy_of_run()
    same = load_config(run / "config.toml")
    train(same, run, resume=True)
    assert "learning rate" not in capsys.readouterr().err
    train(override(same, {"train.steps": 60}), run, resume=True)
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "learning rate" in line)
    now, before = (float(number) for number in re.findall(r"\d\.\d\de-\d+", line))
    logged = {line["step"]: line["lr"] for line in read_metrics(run / "metrics.jsonl") if "lr" in line}
    assert now == pytest.approx(logged[7], rel=0.01) and before == pytest.approx(logged[6], rel=0.01)
    assert "train.steps" in line
