"""The parts of a run, each made from the RunConfig's sections that it needs."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from minillm.config import RunConfig, override
from minillm.data.datasets.corpus import Corpus, Tokens, prepare, read_tokens
from minillm.data.datasets.pairs import Pairs
from minillm.data.datasets.tasks import Mixture, TaskRows, TaskTokens, prepare_tasks, read_task_tokens
from minillm.data.loader import Examples, Loader, Windows, eval_batches
from minillm.distributed.runtime import Runtime
from minillm.evaluation.unigram_baseline import UnigramBaseline, count_tokens, unigram_baseline
from minillm.models.presets import PRESETS
from minillm.objectives.base import Batch, Objective
from minillm.objectives.clm import CausalLM
from minillm.objectives.config import ObjectiveConfig
from minillm.objectives.mlm import MaskedLM
from minillm.objectives.prefix_lm import EncoderPrefixLM, PrefixLM
from minillm.objectives.seq2seq import Seq2Seq
from minillm.objectives.span import SpanCorruption, SpanNoise
from minillm.tokenizers.base import Tokenizer
from minillm.tokenizers.load import build_tokenizer
from minillm.training.config import Recipe

FAMILIES: dict[str, tuple[str, ...]] = {
    "clm": ("gpt",),
    "mlm": ("bert",),
    "span": ("t5",),
    "prefix_lm": ("gpt", "t5"),
    "seq2seq": ("t5",),
}
"""Objective -> the model families that can learn it."""


def build_recipe(config: RunConfig) -> Recipe:
    """All that the trainer is told."""
    return Recipe(optim=config.optim, schedule=config.schedule, train=config.train, eval=config.eval, save=config.save)


def prepare_corpus(config: RunConfig, tokenizer: Tokenizer | None, runtime: Runtime) -> Corpus:
    """The tokenized text; the first rank makes it, the others then find it in the cache."""

    def build(train: Iterable[str], validation: Iterable[str]) -> Tokenizer:
        # merges are learned from the training text alone; a character vocabulary has to cover both
        return build_tokenizer(config.tokenizer, chain(train, validation) if config.tokenizer.kind == "char" else train)

    if not runtime.is_main:
        runtime.barrier()
    read = prepare_tasks if config.objective.name == "seq2seq" else prepare
    corpus = read(config.data, tokenizer or build, progress=runtime.is_main)
    if runtime.is_main:
        runtime.barrier()
    return corpus


def read_source(config: RunConfig, source: str, tokenizer: Tokenizer) -> Tokens:
    """All of another source, in the form that the run's objective reads."""
    read = read_task_tokens if config.objective.name == "seq2seq" else read_tokens
    return read(source, config.data, tokenizer, progress=True)


def with_vocab_size(config: RunConfig, tokenizer: Tokenizer) -> RunConfig:
    """The config with the tokenizer's vocabulary size, unless another was chosen; ValueError if that is too small.

    A preset's published size is no choice: it belongs to the tokenizer that its paper used.
    """
    size = config.model.vocab_size
    if size in (None, PRESETS.get(config.model.preset, {}).get("vocab_size")):
        return override(config, {"model.vocab_size": tokenizer.vocab_size})
    if size < tokenizer.vocab_size:
        raise ValueError(
            f"model.vocab_size {size} is smaller than the {tokenizer.kind} tokenizer's {tokenizer.vocab_size}; "
            "leave model.vocab_size out, or raise it"
        )
    return config


def with_heads(config: RunConfig) -> RunConfig:
    """The config with the heads that its objective trains and no others.

    Raises:
        ValueError: the model is of a family that cannot learn the objective, or lacks what it reads.
    """
    name, family = config.objective.name, config.model.family
    if family not in FAMILIES[name]:
        fitting = [objective for objective, families in FAMILIES.items() if family in families]
        raise ValueError(
            f"objective.name {name} needs a model of family {' or '.join(FAMILIES[name])}, but model.preset "
            f"{config.model.preset} is {family}; set objective.name to {' or '.join(fitting)}, or take another preset"
        )
    if config.objective.next_sentence and config.model.num_token_types < 2:
        raise ValueError("objective.next_sentence tells two passages apart: set model.num_token_types to 2")
    return override(config, {"model.heads": ("lm", "pair") if config.objective.next_sentence else ("lm",)})


def build_objective(run: RunConfig, tokenizer: Tokenizer) -> Objective:
    """The objective that the config names, for its model."""
    config, model = run.objective, run.model
    if config.name == "mlm":
        pieces = [tokenizer.decode_bytes([token]) for token in range(tokenizer.vocab_size)]
        return MaskedLM(
            pad_id=tokenizer.pad_id,
            mask_id=tokenizer.mask_id,
            cls_id=tokenizer.cls_id,
            sep_id=tokenizer.sep_id,
            ordinary=tokenizer.num_bytes > 0,
            mask_rate=config.mask_rate,
            mask_share=config.mask_share,
            random_share=config.random_share,
            pieces=pieces if config.whole_words else None,
            pairs=config.next_sentence,
            label_smoothing=config.label_smoothing,
            z_loss=config.z_loss,
        )
    if config.name == "clm":
        return CausalLM(tokenizer.pad_id, config.label_smoothing, config.z_loss)
    shared = {"pad_id": tokenizer.pad_id, "label_smoothing": config.label_smoothing, "z_loss": config.z_loss}
    if config.name == "prefix_lm" and model.family == "gpt":
        return PrefixLM(**shared)
    shared["eos_id"] = tokenizer.eos_id
    if config.name == "prefix_lm":
        return EncoderPrefixLM(**shared)
    if config.name == "seq2seq":
        return Seq2Seq(**shared, sep_id=tokenizer.sep_id, max_len=seq_len(run))
    if not tokenizer.extra_ids:
        raise ValueError(
            f"objective.name span marks gaps by sentinels, which the tokenizer {tokenizer.name} lacks; "
            "set objective.name to prefix_lm or seq2seq"
        )
    noise = SpanNoise(config.span_density, config.mean_span_length, len(tokenizer.extra_ids))
    return SpanCorruption(**shared, sentinels=tokenizer.extra_ids, noise=noise)


def reads_prefix(config: ObjectiveConfig) -> bool:
    """Whether a model trained by this objective reads its prompts in both directions."""
    return config.name == "prefix_lm"


def seq_len(config: RunConfig) -> int:
    """Tokens in a training example; ValueError if the model cannot read as many."""
    length = config.model.max_seq_len if config.data.seq_len is None else config.data.seq_len
    if length > config.model.max_seq_len:
        raise ValueError(f"data.seq_len {length} is more than model.max_seq_len {config.model.max_seq_len}")
    return length


def build_examples(config: RunConfig, tokens: Tokens, objective: Objective, *, mix: bool = False) -> Examples:
    """What the objective's batches are made of; `mix`: tasks come as often as the config says, not each row once."""
    length = seq_len(config)
    if isinstance(objective, Seq2Seq):
        assert isinstance(tokens, TaskTokens), "prepared as such"
        data = config.data
        return Mixture(tokens, data.mixing, data.mixing_temperature) if mix else TaskRows(tokens)
    if isinstance(objective, SpanCorruption):
        raw_length = objective.noise.raw_length(length)
        while objective.noise.lengths(raw_length)[1] > config.model.max_seq_len:
            raw_length -= 1  # from a density of one half on it is the target that decides
        return Windows(tokens, raw_length)
    if isinstance(objective, MaskedLM):
        room = length - objective.num_special
        return Pairs(tokens, room) if objective.pairs else Windows(tokens, room)
    return Windows(tokens, length)


def build_loader(config: RunConfig, tokens: Tokens, objective: Objective, runtime: Runtime) -> Loader[Batch]:
    """Training batches of this rank."""
    share = config.train.global_batch // runtime.world_size
    return Loader(
        build_examples(config, tokens, objective, mix=True),
        objective.collate,
        seed=config.train.seed,
        global_batch=config.train.global_batch,
        micro_batch=config.train.micro_batch or max(1, share),
        rank=runtime.rank,
        world_size=runtime.world_size,
    )


def baseline_for(config: RunConfig, corpus: Corpus, objective: Objective) -> UnigramBaseline | None:
    """What guessing by frequency scores on the whole validation text; None where the objective has no use for it."""
    name = objective.guessable
    if name is None:
        return None
    tokenizer = corpus.tokenizer
    counts = count_tokens(corpus.train, tokenizer.vocab_size)
    batches = validation_batches(config, corpus.validation, objective, Runtime(), max_tokens=0)
    return unigram_baseline(counts, tokenizer.num_bytes > 0, batches, name)


def validation_batches(
    config: RunConfig, tokens: Tokens, objective: Objective, runtime: Runtime, max_tokens: int | None = None
) -> Iterable[Batch]:
    """This rank's share of the fixed validation windows; `max_tokens` None: as `eval.max_tokens` says, 0: all."""
    return eval_batches(
        build_examples(config, tokens, objective),
        objective.collate,
        batch=config.eval.batch,
        max_tokens=config.eval.max_tokens if max_tokens is None else max_tokens,
        rank=runtime.rank,
        world_size=runtime.world_size,
    )
