"""Thirty steps of training give the losses that were recorded: nothing changes the arithmetic unnoticed."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

HERE = Path(__file__).parent

# fp32 sums in another order, as other processors and thread counts have it, differ by 1e-7 at first; thirty steps of
# training multiply that to some 1e-5. A thousandth leaves room for both and none for a changed rule.
TOLERANCE = 1e-3


# How far thirty steps bring the training loss, as a share of where it began.
LEARNED = {"clm": 0.6, "mlm": 0.75, "span": 0.75, "prefix_lm": 0.7, "seq2seq": 0.75, "chat": 0.75}


@pytest.mark.parametrize("objective", LEARNED)
def test_an_objective_follows_its_golden_curve(tmp_path: Path, objective: str):
    golden = json.loads((HERE / f"{objective}.json").read_text(encoding="utf-8"))
    found = runpy.run_path(str(HERE / "record.py"))["curve"](tmp_path, objective)
    assert found["loss"] == pytest.approx(golden["loss"], rel=TOLERANCE)
    assert found["val_loss"] == pytest.approx(golden["val_loss"], rel=TOLERANCE)
    share = golden["loss"][-1] / golden["loss"][0]
    assert len(golden["loss"]) == 30 and share < LEARNED[objective], "it is a curve that learns"
