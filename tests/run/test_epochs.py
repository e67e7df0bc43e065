"""train.epochs: as many steps as the passes over the data need."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from minillm import RunConfig, load_config, override, train
from minillm.cli import main
from minillm.training.checkpoint import checkpoints


def test_the_steps_suit_the_text_and_a_resume_goes_on_to_them(config: RunConfig, tmp_path: Path):
    text = Path(config.data.source).read_text(encoding="utf-8")
    (tmp_path / "long.txt").write_text(2 * text, encoding="utf-8")
    own = override(config, {"train.epochs": 0.25, "schedule.name": "constant"})
    short, long = (
        train(override(own, {"data.source": str(source)}), tmp_path / name)
        for name, source in (("short", config.data.source), ("long", tmp_path / "long.txt"))
    )
    steps = load_config(short / "config.toml").train.steps
    tokens = json.loads((short / "run.json").read_text(encoding="utf-8"))["text"]["train"]["tokens"]
    windows = math.ceil(tokens / config.model.max_seq_len)
    assert steps == math.ceil(0.25 * windows / config.train.global_batch) == checkpoints(short)[-1].step
    assert load_config(long / "config.toml").train.steps in (2 * steps - 1, 2 * steps)
    train(override(load_config(short / "config.toml"), {"train.epochs": 0.5}), short, resume=True)
    assert checkpoints(short)[-1].step in (2 * steps - 1, 2 * steps)


def test_a_resumed_run_with_another_batch_size_reads_as_much_as_it_would_have_read(
    copy_of_run: Callable[[], Path], config: RunConfig
):
    run, more = copy_of_run(), {"train.global_batch": 2, "eval.every": 0}
    tokens = json.loads((run / "run.json").read_text(encoding="utf-8"))["text"]["train"]["tokens"]
    windows = math.ceil(tokens / config.model.max_seq_len)
    before = checkpoints(run)[-1].state.train.examples
    assert before is not None and before < 0.5 * windows
    with pytest.raises(ValueError, match=r"train\.epochs is 0\.001, but .* is at step 6 already: raise it"):
        train(override(load_config(run / "config.toml"), more | {"train.epochs": 0.001}), run, resume=True)
    train(override(load_config(run / "config.toml"), more | {"train.epochs": 0.5}), run, resume=True)
    assert 0 <= checkpoints(run)[-1].state.train.examples - 0.5 * windows < 2


def test_a_flag_replaces_the_steps_of_a_recipe_but_one_file_has_one_of_them(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert load_config("gpt-nano", {"train.epochs": 2}).train.epochs == 2
    recipe = tmp_path / "both.toml"
    recipe.write_text("[train]\nsteps = 7\nepochs = 2\n", encoding="utf-8")
    assert main(["train", str(recipe)]) == 2
    assert f"{recipe}: train.steps has no effect with train.epochs 2" in capsys.readouterr().err
    assert main(["train", "--train.epochs", "2", "--train.steps", "7"]) == 2
    said = capsys.readouterr().err
    assert "train.steps has no effect with train.epochs 2.0; leave it out, or set train.epochs to none" in said


def test_an_objective_that_makes_its_own_data_has_no_epochs(
    run_of: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"{n} and", "answer": "7"}) + "\n" for n in range(9)))
    flags = ["--init-from", str(run_of("llama")), "--data", str(prompts), "--data.cache", str(tmp_path / "cache")]
    assert main(["train", "grpo", *flags, "--out", str(tmp_path / "run"), "--train.epochs", "2"]) == 2
    assert "set train.steps instead" in capsys.readouterr().err
