"""Every family that is read and written, against transformers, by way of the files that it writes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from minillm.exchange.architectures import model_from_hf, model_to_hf
from minillm.exchange.folder_in import read_config, read_published, read_weights
from minillm.exchange.folder_out import write_model
from minillm.models.build import build_model
from minillm.models.presets import preset

from .conftest import SHAPES

B, T = 3, 23


def tokens(seed: int = 1) -> torch.Tensor:
    """Random ids, but not those of special tokens: a RoBERTa does not count the position of padding."""
    return torch.randint(3, 61, (B, T), generator=torch.Generator().manual_seed(seed))


def outputs(model: Any, *, ours: bool) -> torch.Tensor:
    """Logits, or hidden states of a model without a head."""
    family = model.config.family if ours else model.config.model_type
    with torch.no_grad():
        if family == "t5":
            names = ("encoder_tokens", "decoder_tokens") if ours else ("input_ids", "decoder_input_ids")
            logits = model(**dict(zip(names, (tokens(), tokens(2)), strict=True))).logits
            return logits["lm"] if ours else logits
        output = model(tokens())
    if ours:
        return output.logits.get("lm", output.hidden)
    return output[0]


def imported(folder: Any) -> Any:
    config, weights = model_from_hf(read_config(folder), read_weights(folder))
    model = build_model(config).eval()
    model.load_state_dict(weights)
    return model


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "gpt2-bare"])
def test_a_folder_is_read_with_equal_outputs_and_written_back_bit_for_bit(name, foreign, saved, tmp_path):
    folder = saved(name)
    ours, theirs = imported(folder), foreign(name)
    assert relative(outputs(ours, ours=True), outputs(theirs, ours=False)) < 1e-5
    config, weights = model_to_hf(ours.config, ours.state_dict(), pad_id=2)
    original = load_file(folder / "model.safetensors")
    if "roberta" in name:  # the rows before the first position are never used, and ours are zero
        table = next(key for key in original if key.endswith("position_embeddings.weight"))
        assert not weights[table][:3].any()
        original[table][:3] = 0
    assert weights.keys() == original.keys()
    assert all(torch.equal(weights[key], original[key]) for key in original)
    out = tmp_path / "out"
    out.mkdir()
    write_model(out, config, weights)
    library: Any = transformers
    architecture = config["architectures"][0]
    other = {"mistral": "LlamaForCausalLM", "xlm-roberta": "RobertaForMaskedLM"}
    assert architecture == other.get(name, SHAPES[name][0])
    again, report = getattr(library, architecture).from_pretrained(out, output_loading_info=True)
    assert not any(report.values()), report
    assert torch.equal(outputs(again.eval(), ours=False), outputs(theirs, ours=False))


def test_a_gpt2_saved_without_its_head_has_the_tied_one(foreign, saved):
    ours, bare = imported(saved("gpt2-bare")), foreign("gpt2-bare")
    with torch.no_grad():
        assert relative(ours(tokens()).hidden, bare(tokens())[0]) < 1e-5
    assert ours.heads["lm"].proj.weight is ours.embed.tokens.weight


def test_weights_in_half_precision_become_the_same_numbers_in_fp32(saved):
    folder = saved("llama")
    half = {name: weight.bfloat16() for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(half, folder / "model.safetensors")
    _, weights = model_from_hf(read_config(folder), read_weights(folder))
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert torch.equal(weights["embed.tokens.weight"], half["model.embed_tokens.weight"].float())


def test_a_config_of_an_earlier_release_means_the_same(saved):
    folder = saved("llama-llama3")
    content = read_config(folder)
    rope = content.pop("rope_parameters")
    early = {**content, "rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    assert (
        model_from_hf(early, read_weights(folder)).config
        == model_from_hf(read_config(folder), read_weights(folder)).config
    )


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gpt2", {"model_type": "gpt_neo"}, "model_type 'gpt_neo' cannot be imported; supported are gpt2, llama"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rotary scaling 'yarn' is not supported"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; only 1"),
        ("llama", {"hidden_act": "quick_gelu"}, "hidden_act 'quick_gelu' is not one of"),
        ("mistral", {"sliding_window": "16"}, "sliding_window is '16'; expected an integer"),
        ("qwen2-window", {"layer_types": ["chunked_attention"] * 2}, "layer_types is .*; supported are full_attention"),
        ("modernbert", {"rope_scaling": {"type": "yarn"}}, "rotary scaling .* cannot be imported"),
        ("modernbert", {"decoder_bias": False}, "decoder_bias is False; only True can be imported"),
        ("bert", {"is_decoder": True}, "is_decoder is True"),
        ("gpt2", {"n_layer": 1}, r"12 weights cannot be imported, such as transformer\.h\.1"),
        ("gpt2", {"n_layer": 3}, r"the weights lack 'transformer\.h\.2\.ln_1\.weight'"),
        ("llama", {"tie_word_embeddings": True}, r"ties lm_head\.weight to model\.embed_tokens\.weight, but the two"),
    ],
)
def test_an_unsupported_setting_is_named(saved, name, change, message):
    folder = saved(name)
    with pytest.raises(ValueError, match=message):
        model_from_hf({**read_config(folder), **change}, read_weights(folder))


def test_a_key_that_the_config_lacks_is_named(saved):
    folder = saved("t5")
    content = {key: value for key, value in read_config(folder).items() if key != "d_kv"}
    with pytest.raises(ValueError, match=r"config\.json lacks 'd_kv', which a t5 model needs"):
        model_from_hf(content, read_weights(folder))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("gpt-nano", {"vocab_size": 61}, r"ngram_order is \d: no transformers class has n-gram embeddings"),
        (
            "gpt2",
            {"position": "alibi", "vocab_size": 61},
            r"LlamaForCausalLM cannot hold this model: model\.norm is 'layernorm' \(must be 'rmsnorm'\), "
            r"model\.gated is False \(must be True\), model\.position is 'alibi' \(must be 'rotary'\)$",
        ),
        ("gpt2", {"norm_order": "post"}, r"GPT2LMHeadModel cannot .*norm_order is 'post' \(must be 'pre'\)"),
        ("gpt2", {"num_kv_heads": 1, "num_heads": 4}, r"model\.kv_heads is 1 \(must be 4\)"),
        ("llama-small", {"vocab_size": 61, "position": "none"}, "LlamaForCausalLM cannot .*model.position is 'none'"),
        (
            "llama-small",
            {"vocab_size": 61, "qk_norm": True, "attention_bias": "qkv"},
            "Qwen3ForCausalLM allows none or all",
        ),
        (
            "llama-small",
            {"vocab_size": 61, "bias": True, "attention_bias": "qkv"},
            "Qwen2ForCausalLM cannot .*model.bias is True",
        ),
        (
            "llama-small",
            {"vocab_size": 61, "layer_pattern": ("full", "local"), "window": 4},
            r"MistralForCausalLM cannot .*model.layer_pattern is \('full', 'local'\)",
        ),
        ("modernbert-mini", {"vocab_size": 61, "gated": False}, "ModernBertForMaskedLM cannot .*model.gated is False"),
        (
            "modernbert-mini",
            {"vocab_size": 61, "layer_pattern": ("local",), "window": 4},
            "in a ModernBERT the first and every n-th layer is full",
        ),
        ("bert-base", {"norm_order": "pre"}, "BertForPreTraining cannot .*model.norm_order is 'pre'"),
        ("bert-base", {"num_token_types": 0}, "model.num_token_types is 0; BertForPreTraining needs at least 1"),
        ("transformer-base", {}, "T5ForConditionalGeneration cannot .*model.norm is 'layernorm'"),
        (
            "t5-mini",
            {"vocab_size": 61, "ngram_order": 3},
            "model.ngram_order is 3: no transformers class has n-gram embeddings",
        ),
        ("t5-v1.1-small", {"activation": "gelu"}, "model.activation is 'gelu' with model.gated"),
    ],
)
def test_a_model_that_no_stock_class_can_hold_is_refused_with_the_reason(name, changes, message):
    with torch.device("meta"):
        model = build_model(config := preset(name, num_layers=1, **changes))
    with pytest.raises(ValueError, match=message):
        model_to_hf(config, model.state_dict())


def test_shards_and_a_pickled_file_of_weights_are_read_alike(foreign, saved, tmp_path):
    whole = read_weights(saved("llama"))
    sharded = tmp_path / "sharded"
    foreign("llama").save_pretrained(sharded, max_shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    torch.save(foreign("llama").state_dict(), pickled / "pytorch_model.bin")
    for folder in (sharded, pickled):
        found = read_weights(folder)
        assert found.keys() == whole.keys() and all(torch.equal(found[key], whole[key]) for key in whole)


def test_a_damaged_or_missing_file_is_named(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        read_config(tmp_path)
    with pytest.raises(FileNotFoundError, match="has no weights"):
        read_weights(tmp_path)
    folder = saved("gpt2", max_shard_size="20KB")
    first = min(folder.glob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:1000])
    with pytest.raises(ValueError, match=rf"{first.name} is damaged"):
        read_weights(folder)
    first.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{first.name} is missing"):
        read_weights(folder)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../secret.safetensors"}}), encoding="utf-8"
    )
    with pytest.raises(ValueError, match="is not a file in the same folder"):
        read_weights(folder)
    (folder / "config.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json is not a JSON object"):
        read_config(folder)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("onnx/model.onnx", r"are in ONNX format \(model\.onnx\), which cannot be read; get model\.safetensors"),
        ("tf_model.h5", "are in TensorFlow format"),
        ("model.gguf", r"has no model\.safetensors, but a GGUF file; import that file: .*model\.gguf"),
    ],
)
def test_weights_in_a_format_that_is_not_read_are_named(tmp_path, file, message):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match=message):
        read_config(tmp_path)
    with pytest.raises(FileNotFoundError, match=message):
        read_weights(tmp_path)
    if not file.endswith(".gguf"):
        with pytest.raises(ValueError, match=rf"{file} is in .* format; expected a folder"):
            read_published(str(tmp_path / file))


class Payload:
    """Would write a file when it is unpickled."""

    def __reduce__(self):
        return open, ("planted", "w")


def test_code_in_a_pickled_file_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Payload()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="has more than weights"):
        read_weights(tmp_path)
    assert not (tmp_path / "planted").exists()
