"""What is trained here runs in transformers, and comes back: the whole way, by the commands' own calls."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from minillm import RunConfig, SampleConfig, evaluate, load_config, load_run, override, preset, sample, train
from minillm.cli import main
from minillm.convert.families import to_foreign
from minillm.convert.tokenizer_out import tokenizer_json
from minillm.generation.config import BeamConfig
from minillm.run import export_model, exports, fill, import_model, search
from minillm.run.parent import inherit
from minillm.training.metrics import read_metrics

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*torch_dtype.*", "ignore::FutureWarning")

SETTINGS: dict[str, object] = {
    "model.d_model": 32,
    "model.num_layers": 2,
    "model.num_heads": 2,
    "model.max_seq_len": 64,
    "data.split": "tail",
    "tokenizer.kind": "bpe",
    "tokenizer.vocab_size": 400,
    "optim.name": "muon",
    "optim.lr": 1e-2,
    "train.steps": 150,
    "train.global_batch": 8,
    "train.precision": "fp32",
    "train.device": "cpu",
    "eval.every": 0,
    "eval.max_tokens": 0,
    "save.every": 0,
    "sample.max_new_tokens": 8,
}
FAMILIES: dict[str, tuple[str, dict[str, object]]] = {
    "gpt2": ("gpt2", {}),
    "llama": ("llama-small", {"model.num_kv_heads": 1, "model.d_ff": 48, "tokenizer.kind": "byte"}),
    "char": ("gpt2", {"tokenizer.kind": "char"}),
    "bert": ("bert-tiny", {"objective.name": "mlm", "sample.prompt": "7 and [MASK] make"}),
    "t5": ("t5-mini", {"objective.name": "span", "model.d_ff": 48, "sample.prompt": "7 and <|extra_id_0|> make"}),
}


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A run of each family that has learned something."""
    folder = tmp_path_factory.mktemp("exchange")
    text = folder / "sums.txt"
    text.write_text("".join(f"{n} and {n} make {2 * n}; so it is.\n" for n in range(400)), encoding="utf-8")
    here = {"data.source": str(text), "data.cache": str(folder / "cache")}

    def make(name: str) -> Path:
        shape, settings = FAMILIES[name]
        if not (folder / name).exists():
            train(override(RunConfig(model=preset(shape)), SETTINGS | settings | here), folder / name)
        return folder / name

    return make


@pytest.fixture
def exported(run_of, tmp_path) -> Callable[[str], Path]:
    said: list[str] = []

    def export(name: str) -> Path:
        out = export_model(load_run(run_of(name)), tmp_path / f"{name}-out", say=said.append)
        assert "checked with transformers" in said[-1] and "equal ids for" in said[-1]
        return out

    return export


@pytest.mark.parametrize("name", ["gpt2", "llama", "char"])
def test_a_gpt_writes_the_same_greedy_text_in_transformers(run_of, exported, name):
    folder, loaded = exported(name), load_run(run_of(name))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder)
    for prompt in ("7 and 7 make", "12", "so it"):
        (ours,) = sample(loaded, SampleConfig(prompt=prompt, temperature=0, max_new_tokens=30))
        inputs = tokenizer(prompt, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=30, do_sample=False)[0, inputs.input_ids.size(1) :]
        assert tokenizer.decode(ids, skip_special_tokens=True) == ours.text
        assert len(set(ours.ids)) > 3  # it has learned to write


def test_a_bert_fills_a_mask_alike_in_transformers(run_of, exported):
    folder, loaded = exported("bert"), load_run(run_of("bert"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder)
    ask = transformers.pipeline("fill-mask", model=model, tokenizer=tokenizer, top_k=3)
    for text in ("7 and[MASK] make 14", "[MASK] it is."):
        (ours,) = fill(loaded, text, top_k=3).candidates
        theirs: Any = ask(text.replace("[MASK]", tokenizer.mask_token))
        assert [found["token_str"] for found in theirs] == [candidate.text for candidate in ours]
        assert [found["score"] for found in theirs] == pytest.approx([c.probability for c in ours], rel=1e-3)


def test_a_t5_finds_the_same_beams_in_transformers(run_of, exported):
    folder, loaded = exported("t5"), load_run(run_of("t5"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    for prompt in ("7 and <|extra_id_0|> make 14", "12 <|extra_id_0|> so it <|extra_id_1|>"):
        beams = BeamConfig(num_beams=4, num_best=4, length_penalty=0.0, max_new_tokens=12)
        ours = search(loaded, prompt, beams)
        found: Any = model.generate(
            **tokenizer(prompt, return_tensors="pt"),
            num_beams=4,
            num_return_sequences=4,
            length_penalty=0.0,
            max_new_tokens=12,
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
        )
        eos = loaded.tokenizer.eos_id
        theirs = [[i for i in row[1:] if i not in (eos, loaded.tokenizer.pad_id)] for row in found.sequences.tolist()]
        assert theirs == [[i for i in one.ids if i != eos] for one in ours]
        assert found.sequences_scores.tolist() == pytest.approx([one.score for one in ours], rel=1e-3)


@pytest.mark.parametrize("name", ["gpt2", "llama", "char", "bert", "t5"])
def test_an_exported_run_comes_back_with_the_same_weights_ids_and_loss(run_of, exported, tmp_path, name):
    before = load_run(run_of(name))
    after = load_run(import_model(str(exported(name)), tmp_path / "again"))
    after = replace(after, compute=before.compute)  # what `auto` chooses depends on how busy the machine is
    assert all(torch.equal(a, b) for a, b in zip(before.model.parameters(), after.model.parameters(), strict=True))
    text = "7 and 7 make 14; so it is.\n"
    assert after.tokenizer.encode(text).tolist() == before.tokenizer.encode(text).tolist()
    # here a document follows the EOS of the one before, which that library calls its BOS
    assert after.tokenizer.roles == before.tokenizer.roles | {"<|bos|>": before.tokenizer.eos_id}
    assert after.tokenizer.start_id == before.tokenizer.start_id == before.tokenizer.eos_id
    source = before.config.data.source
    assert evaluate(after, source).loss == pytest.approx(evaluate(before, source).loss, rel=1e-5)


def test_the_model_card_tells_what_the_run_knows(exported):
    card = (exported("gpt2") / "README.md").read_text(encoding="utf-8")
    for part in (
        "GPT2LMHeadModel",
        "sums.txt",
        "150 steps of 8 examples with muon",
        "validation",
        "torch 2",
        "license:",
    ):
        assert part in card


def disturbed(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> Any:
    return config, {name: weight * 1.01 if "ln_1" in name else weight for name, weight in weights.items()}


def test_nothing_is_left_of_an_export_that_fails(run_of, tmp_path, monkeypatch):
    loaded = load_run(run_of("gpt2"))
    odd = replace(loaded, config=override(loaded.config, {"model.ngram_order": 2}))
    with pytest.raises(ValueError, match=r"model\.ngram_order is 2; GPT2LMHeadModel has 1 only"):
        export_model(odd, tmp_path / "out")
    other = replace(loaded, tokenizer=load_run(run_of("llama")).tokenizer)
    monkeypatch.setattr(exports, "tokenizer_json", lambda _, family: tokenizer_json(other.tokenizer, family))
    with pytest.raises(ValueError, match="gives other ids than this run's tokenizer"):
        export_model(loaded, tmp_path / "out")
    monkeypatch.setattr(exports, "to_foreign", lambda *args: disturbed(*to_foreign(*args)))
    with pytest.raises(ValueError, match="computes other logits"):
        export_model(loaded, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "taken").mkdir()
    with pytest.raises(ValueError, match="taken exists; choose another folder"):
        export_model(loaded, tmp_path / "taken")


@pytest.mark.parametrize("name", ["gpt2", "bert", "t5"])
def test_a_new_run_starts_at_the_loss_that_eval_prints_of_its_parent(run_of, exported, tmp_path, name, capsys):
    parent = import_model(str(exported(name)), tmp_path / "parent")
    source = load_run(run_of(name)).config.data.source
    keys = ["--data", source, "--eval.max-tokens", "0", "--data.split", "tail"]
    assert (
        main(["train", "--init-from", str(parent), "--out", str(tmp_path / "child"), "--train.steps", "3", *keys]) == 0
    )
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
    assert done == 0 and "start anew: head.dense.bias" in said.out + said.err
    assert "not needed for this objective: pair_head.pooler.bias" in said.out + said.err
    assert main(["fill", str(tmp_path / "child"), "7 [MASK]"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume"], "give one of them"),
        (["--model.preset", "gpt2"], "model.preset comes with the weights"),
        (["--tokenizer.kind", "byte"], "tokenizer.kind comes with the weights"),
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
    tasks = inherit(load_config("t5-tasks"), parent, {}, own_objective=True)
    assert (tasks.objective.name, tasks.model, tasks.eval.at_start) == ("seq2seq", parent.model, True)
    assert inherit(load_config("finetune"), parent, {}, own_objective=False).objective == parent.objective


def test_the_commands_bring_in_and_out_and_name_their_mistakes(exported, run_of, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = exported("gpt2")
    assert main(["import", str(folder), str(tmp_path / "in")]) == 0
    assert "try it with: minillm sample" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["model_type"] == "gpt2"
    capsys.readouterr()
    for source, message in (
        (str(tmp_path / "nowhere" / "deep" / "x"), "is no folder here and no model name on the hub"),
        ("no/such-model", "cannot reach the Hugging Face hub"),
        (str(tmp_path / "none.gguf"), "there is no file"),
        (str(tmp_path), "holds no config.json"),
    ):
        assert main(["import", source, str(tmp_path / "new")]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "new").exists()
    assert main(["import", str(folder), str(tmp_path / "in")]) == 2
    assert "holds a run" in capsys.readouterr().err
