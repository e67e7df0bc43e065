"""Images and numbers from the command line: trained, evaluated and predicted like everything else."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minillm.cli import main
from minillm.run import predict as run_predict
from minillm.run.run_page import facts_of

QUICK = ["--train.device", "cpu"]


def predict(run: Path, text: str) -> dict:
    (result,) = run_predict(run, [text])
    return result


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Upright and level bars, light on dark, 8 x 8 pixels."""
    folder, rng = tmp_path_factory.mktemp("bars"), np.random.default_rng(0)
    for kind in ("level", "upright"):
        (folder / kind).mkdir()
        for i in range(24):
            pixels = rng.integers(0, 60, (8, 8), np.uint8)
            pixels[2 + i % 4] = 220
            Image.fromarray(pixels.T if kind == "upright" else pixels).save(folder / kind / f"{i}.png")
    return folder


SHAPES = {
    "mlp": ["--model.preset", "mlp-digits", "--model.hidden-sizes", "16", "--model.hidden-sizes", "8"],
    "vit": ["--model.preset", "vit-digits", "--model.d-model", "16", "--model.patch-size", "4"],
}


@pytest.mark.parametrize("family", SHAPES)
def test_images_are_learned_resumed_evaluated_and_predicted(
    family: str, bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("minillm.training.progress.PLAIN_INTERVAL", 0.0)
    start = ["train", "mlp-digits", "--data", str(bars), *SHAPES[family], *QUICK, "--out", str(tmp_path / "run")]
    start += ["--train.global-batch", "16", "--objective.turn", "0", "--objective.shift", "0"]
    assert main([*start, "--train.steps", "100", "--save.every", "50", "--optim.lr", "0.005"]) == 0
    said = capsys.readouterr().err
    assert "images of 8 x 8 pixels to train on" in said and "whole validation data" in said
    assert re.search(r"step 7/100: loss [\d.]+, [\d,]+ examples/s, ", said) and "tokens/s" not in said
    curves = facts_of(tmp_path / "run")["curves"]
    assert "examples per second" in curves and "tokens per second" not in curves
    assert main(["eval", str(tmp_path / "run"), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["accuracy"] == 1.0 and "no tokenizer" in captured.err

    Image.fromarray(np.array(Image.open(bars / "upright" / "1.png").resize((80, 80)))).save(tmp_path / "large.png")
    found = predict(tmp_path / "run", str(tmp_path / "large.png"))
    assert found["label"] == "upright" and sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    Image.fromarray(255 - np.array(Image.open(bars / "level" / "3.png"))).save(tmp_path / "dark.png")
    found = predict(tmp_path / "run", str(tmp_path / "dark.png"))
    assert found["label"] == "level" and found["inverted"]
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "dark.png"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] == "level"
    assert main(["predict", str(tmp_path / "run"), "--data", str(bars / "upright")]) == 0
    assert capsys.readouterr().out.count("label: upright") == 24
    assert main(["predict", str(tmp_path / "run"), "nowhere.png"]) == 2
    assert "nowhere.png: No such file" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 2
    assert f"a {family} model cannot be exported" in capsys.readouterr().err

    assert main(["train", "--resume", "--out", str(tmp_path / "run"), "--train.steps", "102"]) == 0
    assert "at step 100 of 102" in capsys.readouterr().err


@pytest.fixture(scope="module")
def flats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The price is a linear function of area and age; whether it is high is the class."""
    path, draw = tmp_path_factory.mktemp("flats") / "flats.csv", random.Random(0)
    lines = ["area,age,price,high"]
    for _ in range(200):
        area, age = draw.randint(20, 150), draw.randint(0, 60)
        price = 3000 * area - 1000 * age + 20_000
        lines.append(f"{area},{age},{price},{'yes' if price > 250_000 else 'no'}")
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def on_numbers(flats: Path, out: Path, objective: str, label: str) -> list[str]:
    start = ["train", "linear", "--data", str(flats), "--objective.name", objective, "--out", str(out), *QUICK]
    return [*start, "--data.label-field", label, "--data.columns", "area", "--data.columns", "age"]


def test_linear_regression_finds_the_line(flats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(on_numbers(flats, tmp_path / "run", "regress_numbers", "price")) == 0
    assert f"more with: minillm predict {tmp_path / 'run'}\n" in capsys.readouterr().err
    assert main(["eval", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["r2"] > 0.9999 and found["rmse"] < 1000 and found["mean_loss"] == pytest.approx(1, abs=0.6)
    assert predict(tmp_path / "run", "100, 10")["number"] == pytest.approx(310_000, rel=0.005)
    with pytest.raises(ValueError, match="is not a row of 2 numbers: give area, age"):
        predict(tmp_path / "run", "100")


def test_logistic_regression_finds_the_class(flats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(on_numbers(flats, tmp_path / "run", "classify_numbers", "high")) == 0
    assert "accuracy 1.0" in capsys.readouterr().err
    assert predict(tmp_path / "run", "140,5")["label"] == "yes"
    assert predict(tmp_path / "run", "40,5")["label"] == "no"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.num_heads", "2"], "model.num_heads has no effect with model.family mlp"),
        (["--model.patch_size", "2"], "model.patch_size has no effect with model.family mlp"),
        (["--tokenizer.kind", "byte"], "tokenizer.kind has no effect with objective.name classify_images"),
        (["--data.seq_len", "9"], "data.seq_len has no effect with objective.name classify_images"),
        (["--sample.prompt", "x"], "sample.prompt has no effect with objective.name classify_images"),
        (["--model.input_shape", "64"], "has examples of shape [1, 8, 8], but the model reads [64]"),
        (["--model.hidden_sizes", "many"], "expected a list of integers"),
        (["--objective.name", "clm"], "objective.name clm needs a model of family gpt"),
        (["--data", "nowhere"], "no file or folder nowhere"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(
    flags: list[str], message: str, bars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = [] if "--data" in flags else ["--data", str(bars)]
    assert main(["train", "mlp-digits", *data, *flags, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("area", "big", "field 'area' of "), ("price", "dear", "has the label 'dear', which is not a number")],
)
def test_a_cell_that_is_no_number_is_named(
    field: str, value: str, message: str, flats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    lines = flats.read_text(encoding="utf-8").splitlines()
    cells = dict(zip(lines[0].split(","), lines[5].split(","), strict=True)) | {field: value}
    lines[5] = ",".join(cells.values())
    (tmp_path / "bad.csv").write_text("\n".join(lines), encoding="utf-8")
    assert main(on_numbers(tmp_path / "bad.csv", tmp_path / "run", "regress_numbers", "price")) == 2
    said = capsys.readouterr().err
    assert message in said and "line 6" in said
