"""`minillm report`: one page about one run or several."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minillm import train
from minillm.cli import main
from minillm.config import RunConfig, override
from minillm.models.presets import preset
from minillm.models.profile import count_operations, profile
from minillm.run.run_page import facts_of
from minillm.training.metrics import read_metrics


def data_of(page: Path) -> dict[str, Any]:
    """The data in a page."""
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text and not re.search(r"https?://|src=|href=|import |fetch\(", text)
    found = re.search(r"^const data = (.*);$", text, re.MULTILINE)
    assert found is not None
    return json.loads(found[1])


def test_a_page_holds_what_the_run_is_and_did(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", str(finished), "--out", str(tmp_path / "r.html")]) == 0
    assert capsys.readouterr().out == f"written: {tmp_path / 'r.html'}\n"
    (run,) = data_of(tmp_path / "r.html")["runs"]
    lines = list(read_metrics(finished / "metrics.jsonl"))
    assert run["curves"]["val_loss"] == [[x["step"], x["val_loss"]] for x in lines if "val_loss" in x]
    assert run["curves"]["loss"] == [[x["step"], x["loss"]] for x in lines if "loss" in x]
    assert {"lr", "grad_norm", "bits_per_byte", "tokens per second"} <= set(run["curves"])
    assert run["about"]["steps"] == "6 of 6" and run["about"]["objective"] == "clm"
    assert run["config"]["train.steps"] == 6 and run["config"]["model.heads"] == ["lm"]
    assert run["cost"]["memory"]["optimizer_state"] == 2 * run["cost"]["memory"]["weights"]
    assert [sample["step"] for sample in run["samples"]] == [2, 4, 6] and all(x["text"] for x in run["samples"])


def test_a_repeated_step_shows_its_last_sample(copy_of_run: Callable[[], Path]):
    run = copy_of_run()
    with (run / "samples.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 4, "text": "later"}\n{"step": 5, "te')
    assert [(s["step"], s["text"]) for s in facts_of(run)["samples"]][1] == (4, "later")
    assert len(facts_of(run)["samples"]) == 3


def test_several_runs_stand_side_by_side(finished: Path, config: RunConfig, tmp_path: Path):
    other = train(override(config, {"train.seed": 5, "train.steps": 2}), tmp_path / "other")
    assert main(["report", str(finished), str(other)]) == 0
    runs = data_of(finished / "report.html")["runs"]
    (finished / "report.html").unlink()
    assert [run["name"] for run in runs] == [str(finished), str(other)]
    assert [run["config"]["train.seed"] for run in runs] == [1337, 5]


@pytest.mark.parametrize("name", ["gpt2", "bert-base", "t5-small", "t5-v1.1-small", "vit-base", "mlp-digits"])
def test_the_operations_of_all_parts_are_those_of_the_model(name: str):
    parts = count_operations(preset(name))
    assert sum(parts.values()) == profile(preset(name)).flops_per_token
    assert min(parts.values()) >= 0 and parts["head"] > 0
    assert (parts["scores"] > 0) == ("attention" in parts)


def test_a_damaged_run_file_leaves_the_rest(copy_of_run: Callable[[], Path]):
    run = copy_of_run()
    (run / "run.json").write_text("{", encoding="utf-8")
    facts = facts_of(run)
    assert facts["curves"]["loss"] and "started" not in facts["about"]


def test_mistakes_are_one_line(finished: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", str(finished), "--out", "r.pdf"]) == 2
    assert "--out r.pdf must end in .html" in capsys.readouterr().err
    assert main(["report", "nowhere"]) == 2
    assert "there is no run folder nowhere" in capsys.readouterr().err
