"""A run that starts from the weights of another, trained here or imported."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from minillm import PrefixConfig, evaluate, finetune_config, load_config, load_run
from minillm.cli import main
from minillm.config import override
from minillm.run import import_model
from minillm.run.warm_start import inherit
from minillm.training.metrics import read_metrics
from minillm.training.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*torch_dtype.*", "ignore::FutureWarning")


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("instant", ["fit", "save"])
def test_a_run_that_was_killed_before_its_first_step_goes_on_from_its_parents_weights(
    run_of, tmp_path, monkeypatch, instant
):
    source = load_run(run_of("gpt2")).config.data.source
    start = ["train", "--init-from", str(run_of("gpt2")), "--data", source, "--train.precision", "fp32", "--optim.lr"]
    start += ["1e-4", "--train.steps", "2", "--out"]
    assert main([*start, str(tmp_path / "whole")]) == 0

    def killed(trainer: Trainer) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Trainer, instant, killed)
        main([*start, str(tmp_path / "child")])
    if instant == "fit":
        assert main(["train", "--resume", "--out", str(tmp_path / "child")]) == 0
    else:  # it is no run yet, and the same command starts it
        assert not (tmp_path / "child" / "config.toml").exists()
        assert main([*start, str(tmp_path / "child")]) == 0
    whole, child = (load_run(tmp_path / name) for name in ("whole", "child"))
    for a, b in zip(whole.model.parameters(), child.model.parameters(), strict=True):
        assert torch.equal(a, b)
    curves = [
        [(line["step"], line.get("loss"), line.get("val_loss")) for line in read_metrics(run.folder / "metrics.jsonl")]
        for run in (whole, child)
    ]
    assert curves[0] == curves[1] and curves[0][0][0] == 0
    about = json.loads((tmp_path / "child" / "run.json").read_text(encoding="utf-8"))
    assert about["init_from"].startswith(str(run_of("gpt2")))


@pytest.mark.parametrize("name", ["gpt2", "bert", "t5"])
def test_a_new_run_starts_at_the_loss_that_eval_prints_of_its_parent(run_of, exported, tmp_path, name, capsys):
    parent = import_model(str(exported(name)), tmp_path / "parent")
    source = load_run(run_of(name)).config.data.source
    keys = ["--data", source, "--eval.max-tokens", "0", "--data.split", "tail"]
    assert (
        main(["train", "--init-from", str(parent), "--out", str(tmp_path / "child"), "--train.steps", "3", *keys]) == 0
    )
    said = capsys.readouterr()
    assert "step 0: validation loss" in said.out + said.err and "inf" not in said.out + said.err
    lines = list(read_metrics(tmp_path / "child" / "metrics.jsonl"))
    child = load_run(tmp_path / "child" / "step-000000")
    assert child.tokenizer.hash == load_run(parent).tokenizer.hash
    assert lines[0]["step"] == 0 and math.isclose(lines[0]["val_loss"], evaluate(child).loss, rel_tol=1e-6)
    capsys.readouterr()
    start = load_run(parent)
    start = replace(start, config=replace(start.config, data=child.config.data), compute=child.compute)
    assert math.isclose(evaluate(start).loss, lines[0]["val_loss"], rel_tol=1e-6)
    assert lines[-1]["val_loss"] <= lines[0]["val_loss"] + 0.01


def test_heads_that_the_parent_lacks_start_anew_and_are_named(exported, tmp_path, capsys, run_of):
    folder = exported("bert")
    names = transformers.AutoModel.from_pretrained(folder)  # the encoder alone, with a pooler
    names.save_pretrained(tmp_path / "bare")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bare" / file).write_bytes((folder / file).read_bytes())
    parent = import_model(str(tmp_path / "bare"), tmp_path / "parent")
    assert main(["fill", str(parent), "7 [MASK]"]) == 2
    assert "imported without a vocabulary head" in capsys.readouterr().err
    source = load_run(run_of("bert")).config.data.source
    done = main(
        ["train", "--init-from", str(parent), "--out", str(tmp_path / "child"), "--train.steps", "1", "--data", source]
    )
    said = capsys.readouterr()
    assert done == 0 and "newly initialized: heads.lm.dense.bias" in said.out + said.err
    assert "not needed for this objective: heads.pooler.pooler.bias" in said.out + said.err
    assert main(["fill", str(tmp_path / "child"), "7 [MASK]"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume"], "give one of them"),
        (["--model.preset", "gpt2"], "model.preset is determined by the weights"),
        (["--model.tie_embeddings", "false"], "model.tie_embeddings is determined by the weights"),
        (["--tokenizer.kind", "byte"], "tokenizer.kind is determined by the weights"),
        (["--model.d_model", "16"], "has shape"),
        (["--model.num_layers", "1"], "does not fit the model"),
        (["--objective.name", "mlm"], "needs a model of family bert"),
    ],
)
def test_what_a_parent_decides_cannot_be_changed(run_of, tmp_path, capsys, arguments, message):
    parent = run_of("gpt2")
    source = load_run(parent).config.data.source
    start = ["train", "--init-from", str(parent), "--out", str(tmp_path / "x"), "--data", source]
    assert main([*start, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x" / "config.toml").exists()


def test_an_imported_run_cannot_be_resumed_but_started_from(exported, tmp_path, capsys):
    parent = import_model(str(exported("gpt2")), tmp_path / "parent")
    assert main(["train", "--resume", "--out", str(parent)]) == 2
    assert "minillm train --init-from" in capsys.readouterr().err


def test_a_config_of_its_own_brings_its_objective(run_of):
    parent = load_config(run_of("t5") / "config.toml")
    tasks = finetune_config(run_of("t5"), config="t5-tasks")
    assert (tasks.objective.name, tasks.model, tasks.eval.at_start) == ("seq2seq", parent.model, True)
    assert finetune_config(run_of("t5")).objective == parent.objective


def test_flags_refine_the_objective_that_is_inherited(run_of):
    """And not that of configs/finetune.toml, which has no spans; another objective begins with its own defaults."""
    parent, finetune = load_config(run_of("t5") / "config.toml"), load_config("finetune")
    parent = override(parent, {"objective.name": "span", "objective.span_density": 0.3})
    finer = inherit(finetune, parent, {"objective.mean_span_length": 2.0}, own_objective=False).objective
    assert (finer.name, finer.span_density, finer.mean_span_length) == ("span", 0.3, 2.0)
    other = inherit(finetune, parent, {"objective.name": "prefix_lm"}, own_objective=False).objective
    assert other == PrefixConfig()


def test_the_command_refines_the_parents_objective_too(run_of, tmp_path, capsys):
    parent = run_of("bert")
    source = load_run(parent).config.data.source
    start = ["train", "--init-from", str(parent), "--out", str(tmp_path / "x"), "--data", source, "--train.steps", "1"]
    assert main([*start, "--objective.mask_rate", "0.3"]) == 0
    assert load_config(tmp_path / "x" / "config.toml").objective.mask_rate == 0.3
    assert main([*start, "--objective.span_density", "0.3"]) == 2
    assert "objective.span_density has no effect with objective.name mlm, only with span" in capsys.readouterr().err


def test_a_t5_with_a_published_kind_of_tokenizer_answers_without_a_blank_before_its_first_word(tmp_path, capsys):
    words = ["red", "green", "blue", "two", "seven", "stone"]
    made = tokenizers.Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
    made.decoder = decoders.Metaspace()  # type: ignore[assignment]
    special = ["<pad>", "</s>", "<unk>", "<extra_id_0>"]
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False)
    made.train_from_iterator([f"say {a} {b}" for a in words for b in words] * 3, trainer)
    made.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])  # type: ignore[assignment]
    shape = transformers.T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, vocab_size=64)
    transformers.T5ForConditionalGeneration(shape).save_pretrained(tmp_path / "published")
    made.save(str(tmp_path / "published" / "tokenizer.json"))
    parent = import_model(str(tmp_path / "published"), tmp_path / "parent")
    pairs = [{"input": f"say: {a} {b}", "target": b} for a in words for b in words if a != b]
    text, held_out = tmp_path / "pairs.jsonl", tmp_path / "other.jsonl"
    for file, some in ((text, pairs), (held_out, pairs[::3])):
        file.write_text("".join(json.dumps(pair) + "\n" for pair in some), encoding="utf-8")
    keys = (
        f"--objective.name seq2seq --data.validation {held_out} --data.seq-len 32 --optim.name adamw --optim.lr 5e-3 "
        "--train.steps 300 --train.global-batch 30 --train.precision fp32 --model.dropout 0 --eval.every 0 "
        "--save.every 0"
    ).split()
    child = tmp_path / "child"
    assert main(["train", "--init-from", str(parent), "--data", str(text), "--out", str(child), *keys]) == 0
    capsys.readouterr()
    assert main(["eval", str(child), "--json"]) == 0
    score = json.loads(capsys.readouterr().out)["tasks"]["say"]
    assert score["exact_match"] > 0.9 and score["beam_rouge_l"] > 0.9
    for way in (["--temperature", "0"], ["--num-beams", "3"]):
        assert main(["sample", str(child), "--prompt", "say: green stone", *way]) == 0
        assert capsys.readouterr().out == "stone\n"
