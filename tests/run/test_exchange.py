"""What is trained here runs in transformers, and comes back: the whole way, by the commands' own calls."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import ModelCard

from minillm import SampleConfig, build_model, evaluate, load_config, load_run, override, preset, sample, train
from minillm.cli import main
from minillm.exchange import crosscheck, folder_out
from minillm.exchange.architectures import model_to_hf
from minillm.exchange.tokenizer_out import tokenizer_json
from minillm.generation.config import BeamConfig
from minillm.run import export_model, fill, import_model, imports, search
from minillm.run.folder import read_about
from minillm.tokenizers.chat_template import CHAT_TEMPLATE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*torch_dtype.*", "ignore::FutureWarning")


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "qwen3-untied", "char"])
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


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "modernbert"])
def test_a_bert_fills_a_mask_alike_in_transformers(run_of, exported, name):
    folder, loaded = exported(name), load_run(run_of(name))
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"] == name
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder)
    ask = transformers.pipeline("fill-mask", model=model, tokenizer=tokenizer, top_k=3)
    for text in ("7 and[MASK] make 14", "[MASK] it is."):
        (ours,) = fill(loaded, text, top_k=3).candidates
        theirs: Any = ask(text.replace("[MASK]", tokenizer.mask_token))
        assert [found["token_str"] for found in theirs] == [candidate.text for candidate in ours]
        # ours are shares of the tokens of text, theirs of all tokens, so ratios are compared
        scores, probabilities = [found["score"] for found in theirs], [candidate.probability for candidate in ours]
        assert [p / scores[0] for p in scores] == pytest.approx([p / probabilities[0] for p in probabilities], rel=1e-4)


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


@pytest.mark.parametrize(
    "name", ["gpt2", "llama", "qwen3", "qwen3-untied", "char", "bert", "roberta", "distilbert", "modernbert", "t5"]
)
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


@pytest.mark.parametrize("tied", [True, False])
def test_a_qwen3_with_its_own_bpe_is_exported_to_gguf_by_one_command(run_of, tmp_path, capsys, tied):
    run = run_of("qwen3" if tied else "qwen3-untied")
    assert main(["export", str(run), str(tmp_path / "out.gguf")]) == 0
    assert "warning" not in capsys.readouterr().out
    before, after = load_run(run), load_run(import_model(tmp_path / "out.gguf", tmp_path / "again"))
    assert after.config.model.qk_norm and after.config.model.tie_embeddings is tied
    assert ("heads.lm.proj.weight" in dict(after.model.named_parameters())) is not tied
    assert all(torch.equal(a, b) for a, b in zip(before.model.parameters(), after.model.parameters(), strict=True))


def test_ids_are_compared_even_if_a_vocabulary_covers_no_common_text(run_of, tmp_path):
    loaded = load_run(run_of("char"))
    said: list[str] = []
    export_model(loaded, tmp_path / "out", say=said.append)
    assert f"equal ids for {crosscheck.NUM_RANDOM_TEXTS} texts" in said[0]


def test_an_imported_model_is_in_memory_once(exported, tmp_path, monkeypatch):
    folder, read = exported("gpt2"), {}
    original = imports.read_published
    monkeypatch.setattr(imports, "read_published", lambda source: read.setdefault("it", original(source)))
    saved: dict[str, torch.Tensor] = {}
    keep = lambda *_, model, **__: saved.update(model)  # noqa: E731
    monkeypatch.setattr(imports, "save_checkpoint", keep)
    import_model(folder, tmp_path / "again")
    (_, weights), *_ = read["it"]
    assert all(parameter.data_ptr() == weights[name].data_ptr() for name, parameter in saved.items())
    assert weights["heads.lm.proj.weight"].data_ptr() == weights["embed.tokens.weight"].data_ptr()  # tied


@pytest.mark.parametrize("scaled", [True, False])
def test_both_versions_of_t5_are_an_auto_model(run_of, tmp_path, scaled):
    """v1.0 ties its head to the embeddings and scales it; v1.1 has a gated feed-forward layer and its own head."""
    loaded = load_run(run_of("t5"))
    if scaled:
        shape = replace(loaded.config.model, gated=False, activation="relu", tie_embeddings=True, head_scale=32**-0.5)
        model = build_model(shape)
        model.init_weights(torch.Generator().manual_seed(0))
        loaded = replace(loaded, config=replace(loaded.config, model=shape), model=model.eval())
    export_model(loaded, tmp_path / "out", say=lambda _: None)
    theirs: Any = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").eval()
    source, target = torch.randint(300, (2, 2, 11), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = theirs(input_ids=source, decoder_input_ids=target).logits
        assert (loaded.model(source, target).logits["lm"] - logits).abs().max() < 1e-5 * logits.abs().max()


def test_a_published_models_settings_come_in_and_go_out_again(run_of, exported, tmp_path):
    """EOS ids, unknown token, chat template, generation settings and license: the second export equals the first."""
    published = exported("llama")

    def change(name: str, **entries: Any) -> None:
        content = json.loads((published / name).read_text(encoding="utf-8"))
        (published / name).write_text(json.dumps(content | entries), encoding="utf-8")

    names = load_run(run_of("llama")).tokenizer.specials
    eos = [names["<|eos|>"], names["<|sep|>"], names["<|cls|>"]]
    change("tokenizer_config.json", unk_token="<|mask|>")
    change("config.json", eos_token_id=eos)
    draws = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.1}
    change("generation_config.json", eos_token_id=eos, **draws, max_new_tokens=77)
    (published / "chat_template.jinja").write_text(
        "{{ messages[0]['content'] }}\r\n<|sep|>", encoding="utf-8", newline=""
    )
    card = (published / "README.md").read_text(encoding="utf-8")
    (published / "README.md").write_text(card.replace("license: other", "license: apache-2.0"), encoding="utf-8")

    first = load_run(import_model(published, tmp_path / "first"))
    assert first.tokenizer.eos_ids == tuple(eos)
    kept = {key: getattr(first.config.sample, key) for key in ("temperature", "top_p", "top_k", "repetition_penalty")}
    assert kept == {key: draws[key] for key in kept} and first.config.sample.max_new_tokens == 77
    for out in ("out", "out.gguf"):
        export_model(first, tmp_path / out)
        again = load_run(import_model(tmp_path / out, tmp_path / f"from-{out}"))
        assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True))
        assert again.tokenizer.eos_ids == first.tokenizer.eos_ids
        assert again.tokenizer.roles == first.tokenizer.roles
        assert again.tokenizer.chat_template == first.tokenizer.chat_template
        limit = {} if out == "out" else {"max_new_tokens": 77}  # GGUF has no place for it
        assert replace(again.config.sample, **limit) == first.config.sample
        assert read_about(again.folder)["license"] == "apache-2.0"
    assert load_run(tmp_path / "from-out").tokenizer.hash == first.tokenizer.hash
    export_model(load_run(tmp_path / "from-out"), tmp_path / "second")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {path.name for path in (tmp_path / "second").iterdir()}
    for name in written - {"README.md"}:  # which names the run
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"do_sample": True, "temperature": "hot"},
            r"generation_config\.json: temperature is 'hot'; expected a number",
        ),
        ({"do_sample": True, "top_p": 2.0}, r"generation_config\.json: sample\.top_p is 2\.0"),
    ],
)
def test_a_damaged_generation_setting_is_named(exported, tmp_path, content, message):
    folder = exported("gpt2")
    (folder / "generation_config.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        import_model(folder, tmp_path / "in")


def test_greedy_settings_stay_greedy_and_the_defaults_are_not_written(run_of, exported, tmp_path):
    assert "do_sample" not in json.loads((exported("gpt2") / "generation_config.json").read_text(encoding="utf-8"))
    loaded = load_run(run_of("gpt2"))
    greedy = replace(loaded, config=override(loaded.config, {"sample.temperature": 0.0}))
    export_model(greedy, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text(encoding="utf-8"))["do_sample"] is False
    assert load_run(import_model(tmp_path / "out", tmp_path / "in")).config.sample.temperature == 0


@pytest.mark.parametrize(("name", "task"), [("gpt2", "text-generation"), ("bert", "fill-mask")])
def test_the_hub_reads_the_model_cards_metadata(run_of, tmp_path, name, task):
    loaded = load_run(run_of(name))
    export_model(loaded, tmp_path / "out", license="mit", language="en")
    card: Any = ModelCard.load(tmp_path / "out" / "README.md")
    data = card.data.to_dict()
    assert (data["pipeline_tag"], data["license"], data["language"]) == (task, "mit", "en")
    assert data["library_name"] == "transformers" and data["metrics"] == ["loss"]
    (result,) = card.data.eval_results
    assert (
        result.metric_value == round(loaded.checkpoint.state.train.best_loss, 4) and "sums.txt" in result.dataset_name
    )
    assert "License: not chosen" not in card.text
    with pytest.raises(ValueError, match=r"--dtype is for \.gguf files"):
        export_model(loaded, tmp_path / "again", dtype="f16")


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


@pytest.mark.parametrize("next_sentence", [False, True])
def test_every_head_of_a_bert_is_compared_with_transformers(run_of, tmp_path, monkeypatch, next_sentence):
    shape = {"model.heads": ("pair",) if next_sentence else ("lm", "pair")}
    loaded = load_run(run_of("bert"))
    config = override(loaded.config, shape)
    model = build_model(config.model)
    model.init_weights(torch.Generator().manual_seed(0))
    loaded = replace(loaded, config=config, model=model)
    said: list[str] = []
    export_model(loaded, tmp_path / "out", say=said.append)
    assert "checked with transformers" in said[0]
    monkeypatch.setattr(folder_out, "model_to_hf", lambda *args: other_pair_scores(*model_to_hf(*args)))
    with pytest.raises(ValueError, match="computes different logits"):
        export_model(loaded, tmp_path / "wrong")


def other_pair_scores(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> Any:
    return config, {name: weight + 0.1 if "seq_relationship" in name else weight for name, weight in weights.items()}


def test_an_export_whose_tokenizer_hides_the_segments_fails(run_of, tmp_path, monkeypatch):
    settings = folder_out.tokenizer_settings
    monkeypatch.setattr(folder_out, "tokenizer_settings", lambda *args: settings(args[0], args[1], ["input_ids"]))
    with pytest.raises(ValueError, match=r"calls the model with \['input_ids'\], not \('input_ids', 'token_type_ids'"):
        export_model(load_run(run_of("bert")), tmp_path / "out")


def test_an_export_whose_pairs_are_of_one_segment_fails(run_of, tmp_path, monkeypatch):
    def flat(tokenizer: Any, family: Any) -> Any:
        described = tokenizer_json(tokenizer, family)
        for part in described["post_processor"]["pair"]:
            next(iter(part.values()))["type_id"] = 0
        return described

    monkeypatch.setattr(folder_out, "tokenizer_json", flat)
    with pytest.raises(ValueError, match="computes different logits"):
        export_model(load_run(run_of("bert")), tmp_path / "out")


def test_a_shape_of_qwen2_needs_its_cut_of_text(run_of, tmp_path):
    loaded = load_run(run_of("gpt2"))  # with a BPE of our own
    shape = replace(preset("llama-small", d_model=32, num_layers=1, num_heads=2, num_kv_heads=1), attention_bias="qkv")
    shape = replace(shape, vocab_size=loaded.config.model.vocab_size, max_seq_len=64)
    model = build_model(shape)
    model.init_weights(torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="for every Qwen2 transformers pre-tokenizes text with Qwen's"):
        export_model(replace(loaded, config=replace(loaded.config, model=shape), model=model), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_left_of_an_export_that_fails(run_of, tmp_path, monkeypatch):
    loaded = load_run(run_of("gpt2"))
    odd = replace(loaded, config=override(loaded.config, {"model.ngram_order": 2}))
    with pytest.raises(ValueError, match=r"model\.ngram_order is 2: no transformers class has n-gram embeddings"):
        export_model(odd, tmp_path / "out")
    other = replace(loaded, tokenizer=load_run(run_of("llama")).tokenizer)
    monkeypatch.setattr(folder_out, "tokenizer_json", lambda _, family: tokenizer_json(other.tokenizer, family))
    with pytest.raises(ValueError, match="gives different token ids for"):
        export_model(loaded, tmp_path / "out")
    monkeypatch.setattr(folder_out, "model_to_hf", lambda *args: disturbed(*model_to_hf(*args)))
    with pytest.raises(ValueError, match="computes different logits"):
        export_model(loaded, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "taken").mkdir()
    with pytest.raises(ValueError, match="taken exists; choose another name"):
        export_model(loaded, tmp_path / "taken")


def test_the_default_recipe_is_exported_by_one_command_each_way(text, tmp_path, capsys):
    small = {"tokenizer.vocab_size": 400, "train.steps": 5, "train.global_batch": 2, "train.precision": "fp32"}
    here = {"data.source": str(text), "data.cache": str(tmp_path / "cache"), "train.device": "cpu"}
    run = train(load_config(overrides=small | here), tmp_path / "run")
    ours = load_run(run).model
    for out, said in (("out", "checked with transformers"), ("out.gguf", "")):
        capsys.readouterr()
        assert main(["export", str(run), str(tmp_path / out)]) == 0
        assert said in capsys.readouterr().out
        back = load_run(import_model(str(tmp_path / out), tmp_path / f"from-{out}")).model
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), back.parameters(), strict=True))


def test_the_commands_bring_in_and_out_and_name_their_mistakes(exported, run_of, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = exported("gpt2")
    assert main(["import", str(folder), str(tmp_path / "in")]) == 0
    assert "try it with: minillm sample" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["model_type"] == "gpt2"
    capsys.readouterr()
    for source, message in (
        (str(tmp_path / "nowhere" / "deep" / "x"), "is neither a folder here nor the name of a model on the hub"),
        ("no/such-model", "cannot reach the Hugging Face hub"),
        (str(tmp_path / "none.gguf"), "there is no file"),
        (str(tmp_path), "has no config.json"),
        ("", "is neither a folder here nor the name of a model"),
        ("./nowhere", "is neither a folder here nor the name of a model"),
        (str(run_of("gpt2")), "is already a run"),
    ):
        assert main(["import", source, str(tmp_path / "new")]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "new").exists()
    assert main(["import", str(folder), str(tmp_path / "in")]) == 2
    assert "holds a run" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["folder", "file.gguf"])
def test_a_chat_template_leaves_and_comes_back(run_of, tmp_path, name):
    loaded = load_run(run_of("qwen3"))
    loaded.tokenizer.chat_template = CHAT_TEMPLATE
    out = export_model(loaded, tmp_path / name, say=lambda _: None)
    again = import_model(out, tmp_path / "again")
    assert load_run(again).tokenizer.chat_template == CHAT_TEMPLATE
    assert (again / "chat_template.jinja").read_text(encoding="utf-8") == CHAT_TEMPLATE
    if out.is_dir():
        assert transformers.AutoTokenizer.from_pretrained(out).chat_template == CHAT_TEMPLATE
        settings = json.loads((out / "tokenizer_config.json").read_text(encoding="utf-8"))
        assert settings["chat_template"] == CHAT_TEMPLATE, "where older versions look"


def test_the_token_that_ends_an_answer_ends_it_in_transformers_too(run_of, tmp_path):
    loaded = load_run(run_of("qwen3"))
    loaded.tokenizer.chat_template = CHAT_TEMPLATE.replace("eos_token", "sep_token")
    settings = export_model(loaded, tmp_path / "out", say=lambda _: None) / "generation_config.json"
    written = json.loads(settings.read_text(encoding="utf-8"))
    eos, sep = loaded.tokenizer.eos_id, loaded.tokenizer.sep_id
    assert written["eos_token_id"] == [eos, sep] and not {eos, sep} & set(written["suppress_tokens"])
