"""Adapters in PEFT's format: its logits equal ours, in both directions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from minillm import load_config, load_run
from minillm.cli import main
from minillm.run import export_adapter, import_adapter
from minillm.run.merging import merge_run
from minillm.training.checkpoint import checkpoints

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")
CLASSES = {"gpt2": "AutoModelForCausalLM", "qwen3": "AutoModelForCausalLM", "bert": "AutoModelForMaskedLM"}
CLASSES |= {"t5": "AutoModelForSeq2SeqLM"}


RANKS, ALPHAS = {"c_attn": 2}, {"c_attn": 7}


def logits(model: Any, vocab: int) -> torch.Tensor:
    tokens = torch.randint(vocab, (2, 9), generator=torch.Generator().manual_seed(0))
    more = {"decoder_input_ids": tokens.flip(1)} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model.eval()(input_ids=tokens, **more).logits


def our_logits(run: Path, vocab: int) -> torch.Tensor:
    tokens = torch.randint(vocab, (2, 9), generator=torch.Generator().manual_seed(0))
    model = load_run(run).model
    with torch.no_grad():
        return model(tokens, *([tokens.flip(1)] if model.writes == "answer" else [])).logits["lm"]


@pytest.fixture
def base(exported: Callable[[str], Path]) -> Callable[[str], Any]:
    return lambda name: getattr(transformers, CLASSES[name]).from_pretrained(exported(name))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gpt2", ["--adapter.targets", "q", "--adapter.targets", "v", "--adapter.rank_stabilized", "true"]),
        pytest.param("qwen3", ["--adapter.train", "norm"], marks=pytest.mark.slow),
        ("bert", ["--adapter.targets", "attn"]),
        pytest.param("t5", ["--adapter.targets", "cross.*.q"], marks=pytest.mark.slow),
    ],
)
def test_an_exported_adapter_gives_peft_our_logits_and_comes_back(
    run_of: Callable[[str], Path], base: Callable[[str], Any], tmp_path: Path, name: str, settings: list[str]
):
    source = load_config(run_of(name) / "config.toml").data.source
    start = ["train", "--init-from", str(run_of(name)), "--out", str(tmp_path / "run"), "--data", source]
    start += ["--adapter.name", "lora", "--adapter.rank", "3", "--train.steps", "3", "--optim.lr", "3e-2"]
    start += ["--schedule.warmup_steps", "0"]
    assert main([*start, *settings, "--train.precision", "fp32", "--eval.every", "0"]) == 0
    run = checkpoints(tmp_path / "run")[-1].path
    assert main(["export", str(run), str(tmp_path / "peft"), "--adapter-only"]) == 0
    theirs = peft.PeftModel.from_pretrained(base(name), str(tmp_path / "peft"))
    vocab = load_config(run_of(name) / "config.toml").model.vocab_size or 0
    expected = our_logits(run, vocab)
    torch.testing.assert_close(logits(theirs, vocab), expected, rtol=1e-4, atol=1e-4)
    assert (our_logits(run_of(name), vocab) - expected).abs().max() > 1e-2

    back = import_adapter(tmp_path / "peft", tmp_path / "back", run_of(name))
    torch.testing.assert_close(our_logits(back, vocab), expected, rtol=1e-5, atol=1e-5)
    merged = merge_run(back, tmp_path / "merged")
    torch.testing.assert_close(our_logits(merged, vocab), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (
            "gpt2",
            {"target_modules": ["c_attn", "mlp.c_proj"], "rank_pattern": {"c_attn": 2}, "alpha_pattern": {"c_attn": 7}},
        ),
        ("qwen3", {"target_modules": ["q_proj", "down_proj"], "use_rslora": True, "modules_to_save": ["norm"]}),
        pytest.param("bert", {"target_modules": ["query"], "layers_to_transform": [1]}, marks=pytest.mark.slow),
    ],
)
def test_pefts_own_adapters_are_imported(
    run_of: Callable[[str], Path], base: Callable[[str], Any], tmp_path: Path, name: str, settings: dict[str, Any]
):
    theirs = peft.get_peft_model(base(name), peft.LoraConfig(r=3, lora_alpha=5, **settings))
    torch.manual_seed(0)
    for key, parameter in theirs.named_parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3) if "lora_" in key else nn.init.uniform_(parameter, 0.5, 1.5)
    theirs.save_pretrained(str(tmp_path / "peft"))
    assert main(["import", str(tmp_path / "peft"), str(tmp_path / "run"), "--base", str(run_of(name))]) == 0
    vocab = load_config(run_of(name) / "config.toml").model.vocab_size or 0
    torch.testing.assert_close(our_logits(tmp_path / "run", vocab), logits(theirs, vocab), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_imported_is_one_clear_line(run_of, base, tmp_path: Path, capsys):
    theirs = peft.get_peft_model(base("gpt2"), peft.LoraConfig(r=2, target_modules=["c_attn"]))
    theirs.save_pretrained(str(tmp_path / "peft"))
    file = tmp_path / "peft" / "adapter_config.json"
    good = json.loads(file.read_text(encoding="utf-8"))
    command = ["import", str(tmp_path / "peft"), str(tmp_path / "run"), "--base"]
    for change, message in (
        ({"peft_type": "IA3"}, "is an adapter of type 'IA3'; only LORA can be imported"),
        ({"use_dora": True}, "use_dora is True, which minillm does not have"),
        ({"bias": "all"}, "bias is 'all', which minillm does not have"),
    ):
        file.write_text(json.dumps(good | change), encoding="utf-8")
        assert main([*command, str(run_of("gpt2"))]) == 2
        assert message in capsys.readouterr().err
    file.write_text(json.dumps(good), encoding="utf-8")
    assert main([*command, str(run_of("qwen3"))]) == 2
    assert "the adapter does not fit the base, which lacks transformer.h.0.attn.c_attn" in capsys.readouterr().err
    (tmp_path / "peft" / "adapter_model.safetensors").unlink()
    assert main([*command, str(run_of("gpt2"))]) == 2
    assert "has no adapter_model.safetensors" in capsys.readouterr().err
    with pytest.raises(ValueError, match="has no adapter; export the whole model"):
        export_adapter(run_of("gpt2"), tmp_path / "out")
