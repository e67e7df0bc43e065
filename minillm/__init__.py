"""minillm: a mini LLM to train, to sample and to read.

The public names, each fetched from its room at its first use, so that `import minillm` costs nothing:

    run = minillm.train(minillm.load_config("gpt-nano", {"data.source": "my.txt"}))
    loaded = minillm.load_run(run)
    print(minillm.sample(loaded, minillm.SampleConfig(prompt="Once"))[0].text)
"""

# ruff: noqa: F401 (the names under TYPE_CHECKING are for editors and type checkers)
from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# OpenMP's threads spin while they wait for work, which makes training 15 times slower as soon as another process needs
# the cores. The library reads its settings when torch is loaded, and every entry point imports this file before torch:
# the command, scripts, tests. So this one default is set on import, unless the user has chosen something.
if os.environ.keys().isdisjoint({"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}):
    os.environ["OMP_WAIT_POLICY"] = "passive"

if TYPE_CHECKING:
    from minillm.adapters.config import AdapterConfig
    from minillm.config import RunConfig, load_config, override, save_config
    from minillm.data.config import DataConfig
    from minillm.data.datasets.corpus import Corpus, prepare
    from minillm.distributed.config import ParallelConfig
    from minillm.generation.assistant import Assistant
    from minillm.generation.config import SampleConfig
    from minillm.generation.generate import Completion, TokenEvent, generate, stream
    from minillm.generation.text import TextEvent, stream_text
    from minillm.models.build import build_model
    from minillm.models.gpt import GPT
    from minillm.models.presets import PRESETS, preset
    from minillm.models.profile import profile
    from minillm.nn.config import ModelConfig
    from minillm.objectives.chat import ChatConfig
    from minillm.objectives.classify import ClassifyConfig
    from minillm.objectives.clm import CausalConfig
    from minillm.objectives.dpo import DPOConfig
    from minillm.objectives.extract import ExtractConfig
    from minillm.objectives.mlm import MaskedConfig
    from minillm.objectives.prefix_lm import PrefixConfig
    from minillm.objectives.reward import RewardConfig
    from minillm.objectives.seq2seq import Seq2SeqConfig
    from minillm.objectives.span import SpanConfig
    from minillm.objectives.tag import TagConfig
    from minillm.run import (
        LoadedRun,
        embed,
        evaluate,
        fill,
        find_run,
        finetune_config,
        load_run,
        merge_run,
        predict,
        sample,
        train,
    )
    from minillm.run.beside import Sampled, sample_beside
    from minillm.tokenizers.base import Tokenizer
    from minillm.tokenizers.config import TokenizerConfig
    from minillm.tokenizers.load import build_tokenizer, load_tokenizer
    from minillm.training.config import EvalConfig, OptimConfig, SaveConfig, ScheduleConfig, TrainConfig
    from minillm.training.trainer import Trainer

_ROOMS = {
    "adapters.config": ("AdapterConfig",),
    "config": ("RunConfig", "load_config", "override", "save_config"),
    "data.config": ("DataConfig",),
    "data.datasets.corpus": ("Corpus", "prepare"),
    "distributed.config": ("ParallelConfig",),
    "generation.assistant": ("Assistant",),
    "generation.config": ("SampleConfig",),
    "generation.generate": ("Completion", "TokenEvent", "generate", "stream"),
    "generation.text": ("TextEvent", "stream_text"),
    "models.build": ("build_model",),
    "models.gpt": ("GPT",),
    "models.presets": ("PRESETS", "preset"),
    "models.profile": ("profile",),
    "nn.config": ("ModelConfig",),
    "objectives.chat": ("ChatConfig",),
    "objectives.classify": ("ClassifyConfig",),
    "objectives.clm": ("CausalConfig",),
    "objectives.dpo": ("DPOConfig",),
    "objectives.extract": ("ExtractConfig",),
    "objectives.mlm": ("MaskedConfig",),
    "objectives.prefix_lm": ("PrefixConfig",),
    "objectives.reward": ("RewardConfig",),
    "objectives.seq2seq": ("Seq2SeqConfig",),
    "objectives.span": ("SpanConfig",),
    "objectives.tag": ("TagConfig",),
    "run": (
        "LoadedRun",
        "embed",
        "evaluate",
        "fill",
        "find_run",
        "finetune_config",
        "load_run",
        "merge_run",
        "predict",
        "sample",
        "train",
    ),
    "run.beside": ("Sampled", "sample_beside"),
    "tokenizers.base": ("Tokenizer",),
    "tokenizers.config": ("TokenizerConfig",),
    "tokenizers.load": ("build_tokenizer", "load_tokenizer"),
    "training.config": ("EvalConfig", "OptimConfig", "SaveConfig", "ScheduleConfig", "TrainConfig"),
    "training.trainer": ("Trainer",),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """A public name, imported from the module that owns it."""
    if name not in _HOME:
        raise AttributeError(f"module 'minillm' has no attribute {name!r}")
    return getattr(importlib.import_module(f"minillm.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
