"""metrics.jsonl and the picture of the curve."""

from __future__ import annotations

import json
import math
from pathlib import Path

from minillm.training.metrics import MetricsLog, plot_curve, read_metrics


def steps(file: Path) -> list[int]:
    return [line["step"] for line in read_metrics(file)]


def test_each_line_is_flushed(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    log = MetricsLog(file)
    log.write(step=1, loss=2.5)
    assert json.loads(file.read_text(encoding="utf-8")) == {"step": 1, "loss": 2.5}
    log.force_to_disk()
    log.close()


def test_unknown_lines_are_skipped(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1, "loss": 2.5}\n\xff\x00{\n[1]\n{}\n3\n{"step": "2"}\n{"step": 2, "loss": 2.0}\n')
    MetricsLog(file, resume_step=2).close()
    assert steps(file) == [1, 2]


def test_a_number_that_is_not_finite_is_null_in_strict_json(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    log = MetricsLog(file)
    log.write(step=1, loss=math.nan, grad_norm=math.inf)
    log.close()
    line = json.loads(file.read_text(encoding="utf-8"), parse_constant=lambda word: 1 / 0)
    assert line == {"step": 1, "loss": None, "grad_norm": None}


def test_resuming_drops_lines_of_repeated_steps_and_truncated_lines(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 0.1 + step / 3}) for step in range(1, 7)]
    file.write_text("\n".join(lines) + '\n{"step": 7, "lo', encoding="utf-8")
    log = MetricsLog(file, resume_step=4)
    log.write(step=5, loss=0.5)
    log.close()
    assert steps(file) == [1, 2, 3, 4, 5]
    assert file.read_text(encoding="utf-8").splitlines()[:4] == lines[:4], "digit for digit"


def test_a_new_run_starts_an_empty_file(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n', encoding="utf-8")
    MetricsLog(file).close()
    assert file.read_text(encoding="utf-8") == ""


def test_a_missing_file_has_no_metrics(tmp_path: Path):
    assert list(read_metrics(tmp_path / "none.jsonl")) == []


def test_the_curve_is_plotted_even_with_few_values_or_nulls(tmp_path: Path):
    cases = [
        [],
        [{"step": 1, "loss": 2.0}],
        [{"step": 1, "loss": None}, {"step": 2, "loss": 1.0}, {"step": 2, "val_loss": None}],
        [{"step": s, "loss": 1 / s, "val_loss": 2 / s} for s in range(1, 9)],
    ]
    for i, lines in enumerate(cases):
        file, picture = tmp_path / f"{i}.jsonl", tmp_path / f"{i}.png"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        plot_curve(file, picture, title="a run")
        assert picture.read_bytes().startswith(b"\x89PNG")
