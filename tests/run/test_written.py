"""Runs of an encoder-decoder, from training to sampling, beams and scores; nothing is good yet, but all of it fits."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from minillm import LoadedRun, RunConfig, evaluate, load_config, load_run, override, preset, sample, train
from minillm.cli import main
from minillm.evaluation import text_to_text
from minillm.generation.config import BeamConfig
from minillm.generation.text import source_ids
from minillm.run import search

SHAPE: dict[str, object] = {"model.num_layers": 1, "model.d_ff": 32, "objective.name": "seq2seq"}


@pytest.fixture(scope="module")
def run_of_tasks(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for a moment to double and to echo."""
    folder = tmp_path_factory.mktemp("tasks")
    records = [{"input": f"double: {n}", "target": f"{n}{n}"} for n in range(30)]
    records += [{"input": f"echo: {n} times", "target": f"{n} times"} for n in range(30)]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    here = {"data.source": str(folder / "tasks.jsonl"), "data.split": "auto", "sample.prompt": "double: 7"}
    shape = preset("t5-mini", d_model=16, num_heads=2, max_seq_len=16)
    return train(
        override(
            RunConfig(model=shape, **{k: getattr(config, k) for k in ("tokenizer", "data", "train")}), SHAPE | here
        ),
        folder / "run",
    )


def scores_of(run: LoadedRun | Path, source: str | None = None) -> dict[str, text_to_text.TaskScore]:
    """The scores of each task."""
    tasks = evaluate(run, source, thorough=True).more["tasks"]
    return {name: text_to_text.TaskScore(**figures) for name, figures in tasks.items()}


def test_each_task_is_scored_beside_the_first_words_of_the_source(run_of_tasks: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(text_to_text, "MAX_EXAMPLES", 2)
    scores = scores_of(run_of_tasks)
    assert list(scores) == ["double", "echo"]
    assert scores["echo"].first_words_rouge_l == 1.0 and scores["double"].first_words_rouge_l == 0.0
    assert all(0 <= s.exact_match <= s.rouge_l <= 1 and 1 <= s.examples <= 2 for s in scores.values())
    assert all(0 <= s.token_accuracy <= 1 for s in scores.values())


def test_the_command_line_answers_searches_and_scores(run_of_tasks: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["sample", str(run_of_tasks), "--prompt", "double: 4", "--max-new-tokens", "3"]) == 0
    assert "double" not in capsys.readouterr().out
    assert (
        main(["sample", str(run_of_tasks), "--num-beams", "3", "--num-best", "2", "--max-new-tokens", "3", "--json"])
        == 0
    )
    found = json.loads(capsys.readouterr().out)["completions"]
    assert len(found) == 2 and found[0]["score"] >= found[1]["score"]
    assert main(["eval", str(run_of_tasks), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["tasks"]["echo"]["examples"] >= 1 and 0 <= figures["token_accuracy"] <= 1


def test_another_source_is_evaluated_too(run_of_tasks: Path, tmp_path: Path):
    (tmp_path / "more.jsonl").write_text('{"input": "double: 99", "target": "9999"}\n', encoding="utf-8")
    assert evaluate(load_run(run_of_tasks), str(tmp_path / "more.jsonl")).targets == 5
    assert scores_of(run_of_tasks, str(tmp_path / "more.jsonl"))["double"].examples == 1


def test_a_target_that_is_longer_than_the_model_is_said_and_scored_whole(
    run_of_tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    records = [{"input": f"copy: {n}{'i' * n}", "target": "y" * 30} for n in range(20)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    config = load_config(run_of_tasks / "config.toml", {"data.source": str(tmp_path / "long.jsonl"), "train.steps": 60})
    # a prompt that is too long for the model does not end a training either
    config = override(config, {"sample.prompt": "copy: " + "i" * 30, "optim.lr": 0.03})
    folder = train(config, tmp_path / "run")
    said = capsys.readouterr()
    for split in ("training", "validation"):
        for side in ("inputs", "targets"):
            line = rf"{split}: \d+ of \d+ {side} are longer than 16 tokens and are truncated"
            assert re.search(line, said.err)
    assert "sample.prompt cannot be shown" in said.out + said.err
    score = scores_of(folder)["copy"]
    assert score.token_accuracy == 1.0 and score.exact_match == 0.0  # it has learned the half that it saw


def test_the_first_words_of_an_input_without_a_prefix_are_its_first_words(run_of_tasks: Path, tmp_path: Path):
    (tmp_path / "none.jsonl").write_text('{"input": "a b 5:30 c", "target": "a b 5:30 c"}\n', encoding="utf-8")
    assert scores_of(run_of_tasks, str(tmp_path / "none.jsonl"))["(no prefix)"].first_words_rouge_l == 1.0


def test_a_prompt_that_an_encoder_cannot_read_is_named(
    run_of_tasks: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    assert main(["sample", str(run_of_tasks), "--prompt", "double: " + "4" * 20]) == 2
    assert "a prompt has 29 tokens, including EOS, and this model reads 16; shorten it" in capsys.readouterr().err
    tokenizer = load_run(run_of_tasks).tokenizer
    monkeypatch.setattr(tokenizer, "extra_ids", (7, 8))
    with pytest.raises(ValueError, match=r"has <\|extra_id_2\|>, but this tokenizer has 2 such tokens"):
        source_ids(tokenizer, "a <|extra_id_2|>")


def test_the_length_of_examples_is_a_setting_here_too(run_of_tasks: Path, tmp_path: Path):
    config = load_config(run_of_tasks / "config.toml", {"data.seq_len": 4})
    short = load_run(train(config, tmp_path / "short"))
    assert evaluate(short).targets < evaluate(load_run(run_of_tasks)).targets  # targets are cut at four tokens


def test_half_a_corrupted_text_fits_on_both_sides(config: RunConfig, tmp_path: Path):
    shape = preset("t5-mini", d_model=16, num_heads=2, max_seq_len=16)
    half = {"objective.name": "span", "objective.span_density": 0.5, "sample.prompt": ""}
    whole = override(replace(config, model=shape), SHAPE | half)
    folder = train(whole, tmp_path / "run")
    with pytest.raises(ValueError, match=r"--resume cannot change objective\.name: it is 'span'"):
        train(override(load_config(folder / "config.toml"), {"objective.name": "prefix_lm"}), folder, resume=True)


def test_a_text_that_beam_search_finds_ends_at_a_stop_string_or_with_a_whole_character(
    run_of_tasks: Path, monkeypatch: pytest.MonkeyPatch
):
    loaded = load_run(run_of_tasks)
    (found,) = search(loaded, "double: 7", BeamConfig(max_new_tokens=6))
    for ids, stop, text, reason in (
        ([*b"a#b"], ("#",), "a", "stop"),
        ([*"aд".encode()][:-1], (), "a", "length"),
    ):
        done = replace(found, ids=ids, finish_reason="length")
        monkeypatch.setattr("minillm.generation.text.beam_search", lambda *_, done=done, **__: [done])
        (one,) = search(loaded, "double: 7", BeamConfig(stop=stop))
        assert (one.text, one.finish_reason) == (text, reason)


def test_a_beam_of_one_is_the_greedy_answer(run_of_tasks: Path):
    loaded = load_run(run_of_tasks)
    greedy = override(loaded.config, {"sample.temperature": 0, "sample.max_new_tokens": 6}).sample
    (one,) = sample(loaded, greedy)
    (other,) = search(loaded, greedy.prompt or "", BeamConfig(num_beams=1, max_new_tokens=6))
    assert one.ids == other.ids and one.text == other.text


def test_span_corruption_runs_and_answers_with_its_sentinels(config: RunConfig, tmp_path: Path):
    shape = preset("t5-mini", d_model=16, num_heads=2, max_seq_len=16)
    spans = {"objective.name": "span", "sample.prompt": "<|extra_id_0|> and <|extra_id_1|>"}
    loaded = load_run(train(override(replace(config, model=shape), SHAPE | spans), tmp_path / "run"))
    found = evaluate(loaded, thorough=True)
    assert found.bits_per_byte is None and 0 <= found.accuracies["lm"] <= 1 and found.more == {}
    chosen = override(loaded.config, {"sample.max_new_tokens": 40, "sample.temperature": 1.5}).sample
    assert "<|extra_id_" in sample(loaded, chosen)[0].text


@pytest.mark.parametrize(("family", "objective"), [("gpt2", "span"), ("t5-mini", "clm"), ("gpt2", "seq2seq")])
def test_an_objective_that_the_model_cannot_learn_is_refused_by_name(
    config: RunConfig, tmp_path: Path, family: str, objective: str
):
    wrong = override(RunConfig(model=preset(family)), {"objective.name": objective, "train.device": "cpu"})
    with pytest.raises(ValueError, match=f"objective.name {objective} needs a model of family"):
        train(wrong, tmp_path / "run")
