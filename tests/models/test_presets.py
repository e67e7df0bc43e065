import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from minillm.models.build import build_model
from minillm.models.presets import PRESETS, preset
from minillm.nn.config import ModelConfig
from minillm.nn.families import FAMILIES

PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "smollm2-135m": 134_515_008,
    # BERT with its pooler, next-sentence and vocabulary heads, as pre-trained.
    "bert-base": 110_106_428,
    "bert-large": 336_226_108,
    # ModernBertForMaskedLM of these sizes.
    "modernbert-base": 149_655_232,
    "modernbert-large": 395_881_664,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
    "t5-v1.1-small": 76_961_152,
    "t5-v1.1-base": 247_577_856,
    "t5-v1.1-large": 783_150_080,
    "t5-v1.1-xl": 2_849_757_184,
    "t5-v1.1-xxl": 11_135_332_352,
    # Dosovitskiy et al. 2020, table 1; with the head for 1000 classes.
    "vit-base": 86_567_656,
    "mlp-digits": (784 + 1) * 128 + (128 + 1) * 64 + (64 + 1) * 10,
    # torch's nn.Transformer of these sizes without its two final norms, and the shared table.
    "transformer-base": 44_140_544 - 2 * 2 * 512 + 37_000 * 512,
}


def complete(name: str) -> ModelConfig:
    """The preset, with the vocabulary or the input shape that a run takes from its data."""
    shape = preset(name)
    if FAMILIES[shape.family].features:
        return replace(shape, input_shape=shape.input_shape or (3,))
    return replace(shape, vocab_size=shape.vocab_size or 1000)


def examples(config: ModelConfig) -> list[torch.Tensor]:
    """Two examples, as the arguments of the model."""
    if config.input_shape:
        return [torch.zeros(2, *config.input_shape)]
    return [torch.zeros(2, 9, dtype=torch.long)] * (2 if config.family == "t5" else 1)


@pytest.mark.parametrize(("name", "size"), [("bert-base", 109_482_240), ("bert-large", 335_141_888)])
def test_berts_encoder_and_pooler_have_their_published_parameter_count(name, size):
    with torch.device("meta"):
        model = build_model(preset(name))
    parts = (model.embed, model.encoder, model.heads["pair"].pooler)
    assert sum(parameter.numel() for part in parts for parameter in part.parameters()) == size


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_and_runs_at_full_size_without_memory_and_has_its_published_parameter_count(name):
    with torch.device("meta"):
        config = complete(name)
        output = (model := build_model(config))(*examples(config))
    size = sum(parameter.numel() for parameter in model.parameters())
    assert size == PUBLISHED.get(name, size)
    assert {len(logits) for logits in output.logits.values()} == {2}
    assert config.input_shape or output.logits["lm"].shape == (2, 9, config.vocab_size)
    assert tuple(output.logits) == tuple(spec.name for spec in config.head_specs)
    assert config.preset == name


def test_every_published_size_is_that_of_a_preset():
    assert PUBLISHED.keys() <= PRESETS.keys()


def test_overrides_take_precedence_over_the_preset():
    config = preset("gpt-nano", num_layers=2, vocab_size=7)
    assert (config.num_layers, config.vocab_size, config.d_model) == (2, 7, 192)


def test_an_unknown_preset_raises_with_the_closest_name():
    with pytest.raises(ValueError, match=r"'gpt2-xxl' does not exist; did you mean 'gpt2-xl'"):
        preset("gpt2-xxl")


def test_a_model_needs_a_vocabulary_size_and_a_known_family():
    with pytest.raises(ValueError, match=r"model\.vocab_size is not set"):
        build_model(ModelConfig())
    with pytest.raises(ValueError, match=r"model\.family is 'opt'; it must be one of gpt"):
        build_model(ModelConfig(vocab_size=5, family="opt"))  # type: ignore[arg-type]


def test_the_default_preset_exists():
    assert ModelConfig().preset in PRESETS


def test_presets_do_not_import_torch():
    program = "import sys, minillm.models.presets as p; p.preset('gpt2'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
