"""A run of masked language modelling: from the config to gaps that are filled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minillm import RunConfig, SampleConfig, evaluate, fill, load_run, override, preset, sample, train
from minillm.cli import main
from minillm.data.datasets.corpus import Corpus
from minillm.distributed.runtime import Runtime
from minillm.evaluation.unigram_baseline import count_tokens
from minillm.run.build import build_objective, prepare_corpus, validation_batches
from minillm.run.resolve import resolve
from minillm.training.metrics import read_metrics

SETTINGS: dict[str, object] = {
    "model.d_model": 16,
    "model.num_layers": 1,
    "model.num_heads": 2,
    "model.max_seq_len": 24,
    "tokenizer.kind": "byte",
    "objective.name": "mlm",
    "objective.next_sentence": True,
    "optim.lr": 1e-2,
    "train.steps": 4,
    "train.global_batch": 4,
    "train.micro_batch": 3,
    "train.precision": "fp32",
    "train.device": "cpu",
    "eval.every": 2,
    "eval.max_tokens": 0,
    "sample.prompt": "3 and [MASK] make 6",
}


@pytest.fixture(scope="module")
def masked_config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Trains on forty short documents in a moment."""
    folder = tmp_path_factory.mktemp("masked")
    source = folder / "sums.jsonl"
    lines = [json.dumps({"text": f"{n} and {n} make {2 * n}; so it is.\n" * 2}) + "\n" for n in range(40)]
    source.write_text("".join(lines), encoding="utf-8")
    here = {"data.source": str(source), "data.cache": str(folder / "cache")}
    return override(RunConfig(model=preset("bert-tiny")), SETTINGS | here)


@pytest.fixture(scope="module")
def masked_run(masked_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps; not to be changed."""
    return train(masked_config, tmp_path_factory.mktemp("masked-run") / "run")


def test_the_log_has_accuracy_and_loss_by_label_set_and_no_bits_per_byte(masked_run: Path):
    lines = [line for line in read_metrics(masked_run / "metrics.jsonl") if "val_loss" in line]
    assert [line["step"] for line in lines] == [2, 4]
    figures = ["mlm_loss", "pair_loss", "mlm_accuracy", "pair_accuracy"]
    assert all(list(line) == ["step", "seconds", "val_loss", *figures] for line in lines)
    assert lines[0]["val_loss"] == pytest.approx(lines[0]["mlm_loss"] + lines[0]["pair_loss"])


def test_it_says_what_guessing_scores_and_shows_a_filled_gap(
    masked_config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    train(override(masked_config, {"train.steps": 1, "objective.next_sentence": False}), tmp_path / "run")
    said = capsys.readouterr().err
    assert "baseline: unigram loss " in said and ", most frequent accuracy 0." in said and "bits per byte" not in said
    assert said.count("| 3 and [MASK] make 6 -> 3 and ") == 2 and "minillm fill" in said


def test_it_is_measured_as_it_was_logged_beside_what_guessing_scores(masked_run: Path, masked_config: RunConfig):
    loaded = load_run(masked_run)
    found = evaluate(loaded)
    logged = {line["step"]: line for line in read_metrics(masked_run / "metrics.jsonl") if "val_loss" in line}
    assert found.loss == logged[loaded.checkpoint.step]["val_loss"]
    assert found.bits_per_byte is None
    corpus = prepare_corpus(masked_config, loaded.tokenizer, Runtime())
    loss, accuracy = by_hand(corpus, masked_config)
    assert found.baselines == pytest.approx({"unigram_loss": loss, "most_frequent_accuracy": accuracy})
    assert evaluate(loaded, masked_config.data.source).baselines == {}


def by_hand(corpus: Corpus, config: RunConfig) -> tuple[float, float]:
    """Loss and accuracy of guessing, target by target."""
    import math

    ids = corpus.train.slice(0, corpus.train.num_tokens).tolist()
    counts = {token: ids.count(token) + 1 for token in range(256)}
    objective = build_objective(config, corpus.tokenizer)
    batches = validation_batches(config, corpus.validation, objective, Runtime(), max_tokens=0)
    targets = [t for batch in batches for t in batch.labels["mlm"].flatten().tolist() if t >= 0]
    best, total = max(counts, key=lambda t: counts[t]), sum(counts.values())
    loss = -sum(math.log(counts[t] / total) for t in targets) / len(targets)
    return loss, targets.count(best) / len(targets)


def test_counting_goes_through_the_whole_text(masked_config: RunConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("minillm.evaluation.unigram_baseline.BLOCK", 7)
    corpus = prepare_corpus(masked_config, None, Runtime())
    counts = count_tokens(corpus.train, corpus.tokenizer.vocab_size)
    assert counts.sum() == corpus.train.num_tokens and counts[corpus.tokenizer.eos_id] == corpus.info.train.documents


def test_the_command_line_fills_measures_and_refuses_to_sample(masked_run: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["fill", str(masked_run), "3 and [MASK] make <|mask|>", "--top-k", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [len(gap) for gap in found["gaps"]] == [2, 2] and set(found["gaps"][0][0]) == {"text", "probability"}
    assert main(["fill", str(masked_run), "3 [MASK]", "--top-k", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 3 and "gap 1 of 1" in lines
    assert main(["eval", str(masked_run), "--json"]) == 0
    assert {"mlm_accuracy", "pair_accuracy", "unigram_loss"} <= json.loads(capsys.readouterr().out).keys()
    assert main(["sample", str(masked_run)]) == 2
    outcome = capsys.readouterr()
    assert outcome.out == "" and "writes no text; instead: minillm fill" in outcome.err
    assert main(["fill", str(masked_run), "nothing"]) == 2
    with pytest.raises(ValueError, match="writes no text"):
        sample(load_run(masked_run), SampleConfig())


def test_a_model_that_writes_fills_no_gaps(finished: Path):
    with pytest.raises(ValueError, match=r"is a gpt model, which writes text instead of filling gaps: minillm sample"):
        fill(load_run(finished), "1 and [MASK]")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objective.name": "clm"}, "objective.name clm needs .* gpt.*bert-tiny is"),
        ({"model.num_token_types": 0}, "set model.num_token_types to 2"),
    ],
)
def test_a_model_that_does_not_fit_its_objective_is_refused_by_key(
    masked_config: RunConfig, tmp_path: Path, changes: dict[str, object], words: str
):
    with pytest.raises(ValueError, match=words):
        train(override(masked_config, changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_gpt_cannot_learn_masked_tokens(config: RunConfig, tmp_path: Path):
    with pytest.raises(ValueError, match=r"objective\.name mlm needs a model of family bert"):
        train(override(config, {"objective.name": "mlm"}), tmp_path / "run")


def test_the_pair_head_is_there_where_it_is_trained(masked_config: RunConfig):
    def heads(config: RunConfig) -> tuple[str, ...]:
        corpus = prepare_corpus(config, None, Runtime())
        return resolve(config, corpus, inherited=False, say=print)[0].model.heads

    assert heads(masked_config) == ("lm", "pair")
    published = override(masked_config, {"model.heads": ("lm", "pair"), "objective.next_sentence": False})
    assert heads(published) == ("lm",)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objective.mask_rate": 0.0}, "objective.mask_rate is 0.0"),
        ({"objective.mask_share": 0.95}, "objective.mask_share is 0.95 and objective.random_share 0.1"),
        ({"objective.random_share": -0.1}, "objective.random_share is -0.1; it must be from 0 to 1"),
        (
            {"objective.name": "clm", "objective.next_sentence": True},
            "objective.next_sentence has no effect with objective.name clm, only with mlm",
        ),
    ],
)
def test_settings_out_of_range_name_their_key(masked_config: RunConfig, changes: dict[str, object], words: str):
    with pytest.raises(ValueError, match=words):
        override(masked_config, changes)
