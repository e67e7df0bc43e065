"""GGUF: written files read back by the package's own reader, tensor by tensor, and by transformers."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, get_args

import gguf
import numpy as np
import pytest
import torch

from minillm.cli.export import export
from minillm.config import load_config, override
from minillm.exchange.architectures import model_from_hf, model_to_hf
from minillm.exchange.folder_in import read_config, read_weights
from minillm.exchange.gguf_in import read_gguf
from minillm.exchange.gguf_out import Dtype, write_gguf
from minillm.exchange.gguf_tokenizer import read_gguf_tokenizer, write_tokenizer
from minillm.exchange.tokenizer_models import pre_tokenizer_of
from minillm.exchange.tokenizer_out import tokenizer_json
from minillm.models.build import build_model
from minillm.tokenizers.bpe import PATTERN, TWO_DIGITS, BPETokenizer
from minillm.tokenizers.byte import ByteTokenizer
from minillm.tokenizers.char import CharTokenizer
from minillm.tokenizers.load import load_tokenizer
from minillm.tokenizers.merges import LLAMA3

TEXT = "The naïve café served 1234 crêpes; wasn't that 世界 fine?\n\n" * 8


def write(path: Path, folder: Path, tokenizer: Any, **changes: Any) -> str | None:
    """The model of a folder, its table widened to the tokenizer's vocabulary and three rows more."""
    model = model_from_hf(read_config(folder), read_weights(folder))
    rows = tokenizer.vocab_size + 3
    draws = torch.Generator().manual_seed(0)
    for key in ("embed.tokens.weight", "heads.lm.proj.weight"):
        model.weights[key] = torch.randn(rows, model.weights[key].size(1), generator=draws)
    if model.config.tie_embeddings:
        model.weights["heads.lm.proj.weight"] = model.weights["embed.tokens.weight"]
    config, weights = model_to_hf(model.config, model.weights)
    config |= {"vocab_size": rows, "eos_token_id": tokenizer.eos_id, "bos_token_id": tokenizer.bos_id} | changes
    return write_gguf(path, config, weights, tokenizer_json(tokenizer, "gpt"), "test")


@pytest.mark.parametrize(
    "name",
    ["llama", "llama-tied", "llama-3.1", "llama-llama3", "llama-linear", "qwen2", "qwen3", "gpt2", "gpt2-untied-tanh"],
)
def test_a_model_comes_back_bit_for_bit_with_its_tokenizer(name, saved, tmp_path):
    folder, tokenizer = saved(name), ByteTokenizer()
    assert write(tmp_path / "x.gguf", folder, tokenizer) is None
    before = model_from_hf(read_config(folder), read_weights(folder))
    (config, weights), read = read_gguf(tmp_path / "x.gguf")
    lost = ("vocab_size", "init_std", "dropout", "attention_dropout", "num_kv_heads", "head_dim", "d_ff")
    changed = {key for key, value in asdict(config).items() if value != asdict(before.config)[key]}
    assert changed <= {*lost}  # the size of the vocabulary by `write`, the others are not in the file
    for key in ("kv_heads", "head_width", "ff_width"):
        assert getattr(config, key) == getattr(before.config, key)
    assert weights.keys() == before.weights.keys()
    same = [key for key in weights if "tokens" not in key and "heads.lm.proj" not in key]
    assert all(torch.equal(weights[key], before.weights[key]) for key in same)
    assert read.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()
    assert (read.eos_id, read.bos_id) == (tokenizer.eos_id, tokenizer.bos_id)
    assert config.vocab_size is not None and read.vocab_size <= config.vocab_size


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["llama", "qwen2"])  # it takes Qwen3's and an own head_dim for its default
def test_the_file_read_by_transformers_computes_the_same(name, saved, tmp_path):
    import transformers

    write(tmp_path / "x.gguf", saved(name), ByteTokenizer())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="x.gguf", dtype=torch.float32).eval()
    (config, weights), _ = read_gguf(tmp_path / "x.gguf")
    ours = build_model(config).eval()
    ours.load_state_dict(weights)
    tokens = torch.randint(200, (2, 19), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        difference = (ours(tokens).logits["lm"] - theirs(tokens).logits).abs().max() / theirs(tokens).logits.abs().max()
    assert difference < 1e-5


def test_a_gpt2_has_every_tensor_as_llama_cpp_wants_it(saved, tmp_path):
    folder = saved("gpt2")
    write(tmp_path / "x.gguf", folder, ByteTokenizer())
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    found = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    source = read_weights(folder)
    assert len(found) == len(source)  # the head is tied
    for i in range(2):
        theirs, block = f"transformer.h.{i}", f"blk.{i}"
        assert np.array_equal(found[f"{block}.attn_qkv.weight"], source[f"{theirs}.attn.c_attn.weight"].t())
        assert np.array_equal(found[f"{block}.attn_qkv.bias"], source[f"{theirs}.attn.c_attn.bias"])
        assert np.array_equal(found[f"{block}.attn_output.weight"], source[f"{theirs}.attn.c_proj.weight"].t())
        assert np.array_equal(found[f"{block}.ffn_up.weight"], source[f"{theirs}.mlp.c_fc.weight"].t())
        assert np.array_equal(found[f"{block}.ffn_down.weight"], source[f"{theirs}.mlp.c_proj.weight"].t())
        for ours, name in (("attn_norm", "ln_1"), ("ffn_norm", "ln_2")):
            assert np.array_equal(found[f"{block}.{ours}.weight"], source[f"{theirs}.{name}.weight"])
    assert np.array_equal(found["position_embd.weight"], source["transformer.wpe.weight"])
    assert np.array_equal(found["output_norm.bias"], source["transformer.ln_f.bias"])
    fields = {key: field.contents() for key, field in reader.fields.items()}
    assert fields["general.architecture"] == "gpt2" and fields["gpt2.attention.head_count"] == 5
    assert fields["tokenizer.ggml.model"] == "gpt2" and fields["tokenizer.ggml.pre"] == "gpt-2"
    assert len(fields["tokenizer.ggml.tokens"]) == found["token_embd.weight"].shape[0]
    assert fields["tokenizer.ggml.tokens"][-1] == f"[PAD{len(fields['tokenizer.ggml.tokens']) - 1}]"


def test_queries_lie_in_pairs_as_llama_cpp_turns_them(saved, tmp_path):
    folder = saved("llama")
    write(tmp_path / "x.gguf", folder, ByteTokenizer())
    found = {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
    half_split = read_weights(folder)["model.layers.0.self_attn.q_proj.weight"].numpy()
    width = 36 // 6
    assert np.array_equal(found["blk.0.attn_q.weight"][1], half_split[width // 2])  # row 1 is the partner of row 0
    assert np.array_equal(found["blk.0.attn_q.weight"][width], half_split[width])


@pytest.mark.parametrize(("pattern", "name"), [(PATTERN, "qwen35"), (TWO_DIGITS, "llama-bpe")])
def test_a_trained_bpe_is_written_whole_with_a_warning_if_llama_cpp_lacks_its_pattern(saved, tmp_path, pattern, name):
    tokenizer = BPETokenizer(BPETokenizer.train([TEXT], 420)._tokens, pattern=pattern)
    warning = write(tmp_path / "x.gguf", saved("llama"), tokenizer)
    if pattern == PATTERN:
        assert warning is None
    else:
        assert warning is not None and "mostly numbers, gets different ids there" in warning
    fields = {key: field.contents() for key, field in gguf.GGUFReader(tmp_path / "x.gguf").fields.items()}
    assert fields["tokenizer.ggml.pre"] == name
    assert len(fields["tokenizer.ggml.merges"]) == tokenizer.num_ordinary - 256
    plain = "wasn't that fine? The café"  # cut alike by both
    assert read_gguf(tmp_path / "x.gguf")[1].encode(plain).tolist() == tokenizer.encode(plain).tolist()


DTYPES = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q4_0": 2, "q4_1": 3}
"""dtype -> the number of its file type."""


def test_the_command_offers_every_type():
    for of in (get_args(export.__annotations__["dtype"])[0], Dtype):
        assert sorted(get_args(of)) == sorted(DTYPES)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_matrices_have_the_given_type_and_the_header_says_so(saved, tmp_path, dtype):
    model = model_from_hf(read_config(saved("gpt2-untied-tanh")), read_weights(tmp_path / "gpt2-untied-tanh"))
    config, weights = model_to_hf(model.config, model.weights)
    tokenizer = tokenizer_json(ByteTokenizer(), "gpt")
    config |= {"vocab_size": ByteTokenizer().vocab_size, "eos_token_id": 257}
    path = tmp_path / "x.gguf"
    write_gguf(path, config, weights, tokenizer, "x", dtype=dtype, license="mit", sampling={"temp": 0.5, "top_k": 7})
    reader = gguf.GGUFReader(path)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    assert fields["general.file_type"] == DTYPES[dtype]
    assert fields["general.license"] == "mit" and fields["general.size_label"].endswith("K")
    assert fields["general.sampling.temp"] == 0.5 and fields["general.sampling.top_k"] == 7
    kinds = {tensor.name: tensor.tensor_type.name.lower() for tensor in reader.tensors}
    assert kinds["position_embd.weight"] == kinds["output_norm.weight"] == kinds["blk.0.attn_qkv.bias"] == "f32"
    assert kinds["blk.1.ffn_up.weight"] == ("f32" if dtype.startswith("q") else dtype)  # rows of 30 numbers
    assert kinds["blk.1.ffn_down.weight"] == dtype  # rows of 96


STEPS: dict[str, Any] = {
    "q8_0": lambda low, high: torch.maximum(high, -low) / 127 / 2,
    "q5_1": lambda low, high: (high - low) / 31 / 2,
    "q5_0": lambda low, high: torch.maximum(high, -low) / 16,  # from -16 to 15: the largest value may be cut by a step
    "q4_1": lambda low, high: (high - low) / 15 / 2,
    "q4_0": lambda low, high: torch.maximum(high, -low) / 8,
}
"""Largest rounding error of a group with these extremes."""


@pytest.mark.parametrize("dtype", STEPS)
def test_rounded_weights_come_back_within_a_step_and_the_vocabulary_with_8_bits(saved, tmp_path, dtype):
    shape = {"num_layers": 1, "d_model": 64, "d_ff": 96, "max_seq_len": 16, "tie_embeddings": False}
    config = override(load_config("gpt-nano"), {f"model.{key}": value for key, value in shape.items()}).model
    config = replace(config, vocab_size=ByteTokenizer().vocab_size)
    draws = torch.Generator().manual_seed(0)
    before = {key: 0.1 * torch.randn(w.shape, generator=draws) for key, w in build_model(config).state_dict().items()}
    settings, weights = model_to_hf(config, before)
    settings |= {"eos_token_id": 257, "bos_token_id": 256}
    path = tmp_path / "x.gguf"
    write_gguf(path, settings, weights, tokenizer_json(ByteTokenizer(), "gpt"), "x", dtype=dtype)
    after = read_gguf(path)[0].weights
    assert after.keys() == before.keys()
    for name, weight in before.items():
        if weight.ndim < 2:
            assert torch.equal(after[name], weight)
            continue
        groups, found = weight.unflatten(1, (-1, 32)), after[name].unflatten(1, (-1, 32))
        own = "q8_0" if name.startswith(("embed.", "heads.")) else dtype
        rounding = STEPS[own](groups.amin(-1), groups.amax(-1))
        rounding += 3 * groups.abs().amax(-1) / 2**11  # of the minimum and the scale, which are fp16
        error = (groups - found).abs()
        assert (error <= rounding[..., None]).all() and error.max() > 0
        assert found[0, 0].unique().numel() <= 2 ** int(own[1])


def test_a_scaling_that_the_file_does_not_tell_is_refused(saved, tmp_path, altered):
    write(tmp_path / "x.gguf", saved("llama-llama3"), ByteTokenizer())
    altered(minillm__rope__original_length=None)
    with pytest.raises(ValueError, match=r"rope_freqs\.weight has a scaling other than Llama 3's"):
        read_gguf(tmp_path / "x.gguf")


@pytest.mark.parametrize("name", ["mistral-window", "qwen2-window"])
def test_a_window_is_refused_unless_it_is_longer_than_every_text(name, saved, tmp_path):
    with pytest.raises(ValueError, match=r"model\.window is 5 and model\.max_seq_len 40, but llama\.cpp"):
        write(tmp_path / "x.gguf", saved(name), ByteTokenizer())
    assert write(tmp_path / "y.gguf", saved(name), ByteTokenizer(), sliding_window=40) is None
    config, weights = read_gguf(tmp_path / "y.gguf")[0]
    assert config.window is None and len(weights) == len(read_weights(saved(name)))


def test_what_llama_cpp_lacks_is_refused(saved, tmp_path):
    with pytest.raises(ValueError, match="not a byte-level BPE"):
        write(tmp_path / "x.gguf", saved("llama"), CharTokenizer(TEXT))
    with pytest.raises(ValueError, match=r"hidden_act is .relu.; llama\.cpp supports only 'silu' in a llama model"):
        write(tmp_path / "x.gguf", saved("qwen2"), ByteTokenizer(), hidden_act="relu", model_type="llama")
    with pytest.raises(ValueError, match=r"model\.attention_scale is 1; llama\.cpp scales the scores"):
        write(tmp_path / "x.gguf", saved("gpt2"), ByteTokenizer(), scale_attn_weights=False)
    with pytest.raises(ValueError, match=r"rope_scaling is 'llama3'; llama\.cpp reads it only in a llama model"):
        llama3 = {"rope_parameters": {"rope_type": "llama3", "rope_theta": 10000.0}}
        write(tmp_path / "x.gguf", saved("qwen3"), ByteTokenizer(), **llama3)
    with pytest.raises(ValueError, match="qwen3 models have no biases"):
        write(tmp_path / "x.gguf", saved("qwen3"), ByteTokenizer(), attention_bias=True)


def test_a_piece_that_is_a_token_is_kept_whole_where_llama_cpp_keeps_it(saved, tmp_path, altered):
    tokens = [*(bytes([value]) for value in range(256)), b"ab", b"bc", b"abc"]  # the merges of abc give ab, then c
    bpe = BPETokenizer(tokens, pattern=PATTERN)
    described = tokenizer_json(bpe, "gpt") | {"pre_tokenizer": json.loads(pre_tokenizer_of(LLAMA3).__getstate__())}
    described["model"]["merges"].remove(["ab", "c"])
    config = {"vocab_size": bpe.vocab_size, "eos_token_id": [bpe.eos_id, bpe.sep_id, bpe.cls_id, bpe.mask_id]}
    for whole, name, ids in ((True, "llama-bpe", [258]), (False, "smaug-bpe", [256, ord("c")])):
        described["model"]["ignore_merges"] = whole
        writer = gguf.GGUFWriter(tmp_path / name, "llama")
        warning = write_tokenizer(writer, config, described)
        assert warning == f"GGUF has room for 3 ids that end a text; llama.cpp does not stop at [{bpe.mask_id}]"
        fields = {key: value.value for key, value in writer.kv_data[0].items()}
        assert fields["tokenizer.ggml.pre"] == name
        read = read_gguf_tokenizer(fields, tmp_path / name)
        assert read.encode("abc").tolist() == ids
        assert read.eos_ids == (bpe.eos_id, bpe.sep_id, bpe.cls_id)
        again = load_tokenizer(read.save(tmp_path / f"{name}-run").parent)
        assert again.hash == read.hash and again.eos_ids == read.eos_ids


class Altered(gguf.GGUFReader):
    """A reader that finds other values, or none, under some keys."""

    changes: ClassVar[dict[str, Any]] = {}

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        for key, value in self.changes.items():
            if value is None:
                self.fields.pop(key, None)
            else:
                self.fields[key] = Field(value)  # type: ignore[assignment]


class Field:
    def __init__(self, value: Any) -> None:
        self.value = value

    def contents(self) -> Any:
        return self.value


@pytest.fixture
def altered(monkeypatch) -> Any:
    def alter(**changes: Any) -> None:
        monkeypatch.setattr(Altered, "changes", {key.replace("__", "."): value for key, value in changes.items()})
        monkeypatch.setattr(gguf, "GGUFReader", Altered)

    return alter


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llama__block_count", None, "lacks 'llama.block_count', which a llama model needs"),
        ("llama__block_count", "two", "cannot be read as a llama model"),
        ("llama__attention__head_count", 0, "cannot be read as a llama model"),
        ("tokenizer__ggml__eos_token_id", 10**6, r"eos_token_id is 1000000, not an id of its \d+ tokens"),
        ("tokenizer__ggml__merges", "none", "cannot be read as a llama model"),
    ],
)
def test_a_damaged_value_is_one_line_that_names_the_file(saved, tmp_path, altered, key, value, message):
    write(tmp_path / "x.gguf", saved("llama"), ByteTokenizer())
    altered(**{key: value})
    with pytest.raises(ValueError, match=message) as caught:
        read_gguf(tmp_path / "x.gguf")
    assert "x.gguf" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cut", "says", "begins"),
    [("llama-bpe", None, True), ("llama-bpe", False, False), ("gpt-2", None, False), ("gpt-2", True, True)],
)
def test_a_text_begins_with_bos_where_llama_cpp_puts_it(saved, tmp_path, altered, cut, says, begins):
    write(tmp_path / "x.gguf", saved("llama"), ByteTokenizer())
    altered(tokenizer__ggml__pre=cut, tokenizer__ggml__add_bos_token=says)
    tokenizer = read_gguf(tmp_path / "x.gguf")[1]
    assert tokenizer.prefix_ids == ((tokenizer.bos_id,) if begins else ())


def test_a_file_that_is_not_gguf_or_has_another_model_is_named(saved, tmp_path, altered):
    (tmp_path / "x.gguf").write_bytes(b"GGUF or not")
    with pytest.raises(ValueError, match=r"x\.gguf is not a GGUF file"):
        read_gguf(tmp_path / "x.gguf")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_gguf(tmp_path / "none.gguf")
    write(tmp_path / "y.gguf", saved("gpt2"), ByteTokenizer())
    altered(general__architecture="mamba")
    with pytest.raises(ValueError, match="architecture 'mamba'; supported are llama, qwen2, qwen3 and gpt2"):
        read_gguf(tmp_path / "y.gguf")
