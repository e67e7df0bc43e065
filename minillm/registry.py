"""The table of objectives and of the kinds of data sets that they read.

To add an objective, write its file and add a row here. Rows refer to classes and functions as `module:name`, which are
imported when used, so that `minillm --help` does not import torch.
"""

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ObjectiveSpec:
    """One objective."""

    config: str
    """The dataclass of its [objective] section."""
    builders: Mapping[str, str]
    """Model family -> `build(section, Setup) -> Objective`."""
    dataset: str = "text"
    """Its row of DATASETS."""
    reads: tuple[str, ...] = ()
    """Keys of [data] that are read only by objectives that list them here."""
    baselines: tuple[str, ...] = ()
    """Quick functions `(Measurement) -> dict[str, float]` that score simple baselines."""
    evaluators: tuple[str, ...] = ()
    """Functions `(Measurement) -> dict[str, Any]` that `minillm eval` calls for more figures; may take minutes."""
    predict: str | None = None
    """`(Predictor, examples) -> list[dict[str, Any]]`: for `minillm predict`, a result for each example that
    `DatasetSpec.inputs` returned."""
    reference: str | None = None
    """`(Objective, examples, forward) -> (N, ...) array`: what the frozen model of --init-from says about the examples,
    which the objective compares with. Its section has the keys `reference` and `reference_hash`."""
    tune: str | None = None
    """`(section, figures) -> section`: sets values that are chosen on the validation data, after training."""
    resolve: str | None = None
    """`(section, Corpus) -> section`: fills in values from the data, such as the names of labels."""
    needs_vocabulary: bool = True
    """Whether it reads text; otherwise it reads arrays of numbers, and [tokenizer] and [sample] have no effect."""
    source: str | None = None
    """`(RunParts) -> BatchSource` for training batches that are not just examples of the data; None: a Loader."""
    evaluator: str | None = None
    """`(RunParts) -> Evaluator` for figures other than the loss on held-out examples; None: a LossEvaluator."""


@dataclass(frozen=True)
class DatasetSpec:
    """A kind of data set."""

    prepare: str
    """`(DataConfig, tokenizer or its builder, *, progress) -> Corpus` with training and validation split."""
    read: str
    """`(source, DataConfig, tokenizer, *, progress) -> tokens` of all of another source, for evaluation."""
    inputs: str | None = None
    """`(texts, source, DataConfig) -> list[Any]`: examples without labels for `minillm predict`, from the texts on its
    command line or, if there are none, from `source`."""
    describe: str | None = None
    """`(DataConfig, tokenizer or its builder, *, progress) -> Description`: what `minillm data` shows."""
    windows: bool = False
    """Whether examples are windows of a text, which must have at least two; otherwise one example is enough."""


_DATA, _SHOW, _LABELS = "minillm.data.datasets", "minillm.data.describe", "minillm.data.describe_labels"
DATASETS: dict[str, DatasetSpec] = {
    "text": DatasetSpec(
        f"{_DATA}.corpus:prepare", f"{_DATA}.corpus:read_tokens", describe=f"{_SHOW}:describe", windows=True
    ),
    "tasks": DatasetSpec(
        f"{_DATA}.tasks:prepare_tasks", f"{_DATA}.tasks:read_task_tokens", describe=f"{_SHOW}:describe_tasks"
    ),
    "tagged": DatasetSpec(
        f"{_DATA}.tagged:prepare_tagged",
        f"{_DATA}.tagged:read_tagged",
        inputs=f"{_DATA}.tagged:read_inputs",
        describe=f"{_LABELS}:describe_tagged",
    ),
    "questions": DatasetSpec(
        f"{_DATA}.questions:prepare_questions",
        f"{_DATA}.questions:read_questions",
        inputs=f"{_DATA}.questions:read_inputs",
        describe=f"{_LABELS}:describe_questions",
    ),
    "chat": DatasetSpec(f"{_DATA}.chat:prepare_chat", f"{_DATA}.chat:read_chat", describe=f"{_SHOW}:describe_chat"),
    "prompts": DatasetSpec(
        f"{_DATA}.prompts:prepare_prompt_data",
        f"{_DATA}.prompts:read_prompt_data",
        describe=f"{_LABELS}:describe_prompts",
    ),
    "labeled": DatasetSpec(
        f"{_DATA}.labeled:prepare_labeled",
        f"{_DATA}.labeled:read_labeled",
        inputs=f"{_DATA}.labeled:read_inputs",
        describe=f"{_LABELS}:describe_labeled",
    ),
    "preferences": DatasetSpec(
        f"{_DATA}.preferences:prepare_preferences",
        f"{_DATA}.preferences:read_preferences",
        inputs=f"{_DATA}.preferences:read_scored",
        describe=f"{_LABELS}:describe_preferences",
    ),
    "images": DatasetSpec(
        f"{_DATA}.images:prepare_images", f"{_DATA}.images:read_images", inputs=f"{_DATA}.images:read_inputs"
    ),
    "numbers": DatasetSpec(
        f"{_DATA}.numbers:prepare_numbers", f"{_DATA}.numbers:read_numbers", inputs=f"{_DATA}.numbers:read_inputs"
    ),
}

_ONLINE: Any = {
    "dataset": "prompts",
    "source": "minillm.rl.rollouts:build_rollouts",
    "evaluator": "minillm.rl.validation:reward_evaluator",
}
"""What objectives that train on their own completions have in common."""

OBJECTIVES: dict[str, ObjectiveSpec] = {
    "clm": ObjectiveSpec(
        "minillm.objectives.clm:CausalConfig", {"gpt": "minillm.objectives.clm:build"}, reads=("data.packing",)
    ),
    "mlm": ObjectiveSpec(
        "minillm.objectives.mlm:MaskedConfig",
        {"bert": "minillm.objectives.mlm:build"},
        baselines=("minillm.evaluation.unigram_baseline:unigram_figures",),
    ),
    "span": ObjectiveSpec("minillm.objectives.span:SpanConfig", {"t5": "minillm.objectives.span:build"}),
    "prefix_lm": ObjectiveSpec(
        "minillm.objectives.prefix_lm:PrefixConfig",
        {"gpt": "minillm.objectives.prefix_lm:build", "t5": "minillm.objectives.prefix_lm:build_encoder_decoder"},
    ),
    "seq2seq": ObjectiveSpec(
        "minillm.objectives.seq2seq:Seq2SeqConfig",
        {"t5": "minillm.objectives.seq2seq:build"},
        dataset="tasks",
        evaluators=("minillm.evaluation.text_to_text:task_figures",),
    ),
    "classify": ObjectiveSpec(
        "minillm.objectives.classify:ClassifyConfig",
        {"bert": "minillm.objectives.classify:build", "gpt": "minillm.objectives.classify:build_causal"},
        dataset="labeled",
        predict="minillm.objectives.classify:predict",
        baselines=("minillm.objectives.classify:majority_figures",),
        resolve="minillm.objectives.classify:name_labels",
    ),
    "tag": ObjectiveSpec(
        "minillm.objectives.tag:TagConfig",
        {"bert": "minillm.objectives.tag:build", "gpt": "minillm.objectives.tag:build_causal"},
        dataset="tagged",
        baselines=("minillm.objectives.tag:most_frequent_tags",),
        predict="minillm.objectives.tag:predict",
        resolve="minillm.objectives.tag:name_tags",
    ),
    "grpo": ObjectiveSpec(
        "minillm.objectives.policy_config:GRPOConfig", {"gpt": "minillm.objectives.policy:build"}, **_ONLINE
    ),
    "ppo": ObjectiveSpec(
        "minillm.objectives.policy_config:PPOConfig", {"gpt": "minillm.objectives.policy:build_ppo"}, **_ONLINE
    ),
    "extract": ObjectiveSpec(
        "minillm.objectives.extract:ExtractConfig",
        {"bert": "minillm.objectives.extract:build"},
        dataset="questions",
        baselines=("minillm.objectives.extract:overlap_figures",),
        predict="minillm.objectives.extract:predict",
        tune="minillm.objectives.extract:tune",
    ),
    "chat": ObjectiveSpec(
        "minillm.objectives.chat:ChatConfig", {"gpt": "minillm.objectives.chat:build"}, dataset="chat"
    ),
    "reward": ObjectiveSpec(
        "minillm.objectives.reward:RewardConfig",
        {"gpt": "minillm.objectives.reward:build", "bert": "minillm.objectives.reward:build_encoder"},
        dataset="preferences",
        predict="minillm.objectives.reward:predict",
    ),
    "dpo": ObjectiveSpec(
        "minillm.objectives.dpo:DPOConfig",
        {"gpt": "minillm.objectives.dpo:build"},
        dataset="preferences",
        reference="minillm.objectives.dpo:reference_log_probs",
        resolve="minillm.objectives.dpo:find_prompts",
    ),
    "classify_images": ObjectiveSpec(
        "minillm.objectives.features:ImageClassConfig",
        {"mlp": "minillm.objectives.features:build_images", "vit": "minillm.objectives.features:build_images"},
        dataset="images",
        baselines=("minillm.objectives.classify:majority_figures",),
        resolve="minillm.objectives.features:name_image_classes",
        predict="minillm.objectives.features:predict_images",
        needs_vocabulary=False,
    ),
    "classify_numbers": ObjectiveSpec(
        "minillm.objectives.features:NumberClassConfig",
        {"mlp": "minillm.objectives.features:build_numbers"},
        dataset="numbers",
        baselines=("minillm.objectives.classify:majority_figures",),
        resolve="minillm.objectives.features:name_number_classes",
        predict="minillm.objectives.features:predict_numbers",
        needs_vocabulary=False,
    ),
    "regress_numbers": ObjectiveSpec(
        "minillm.objectives.regress:RegressConfig",
        {"mlp": "minillm.objectives.regress:build"},
        dataset="numbers",
        baselines=("minillm.objectives.classify:majority_figures",),
        resolve="minillm.objectives.regress:measure_scales",
        predict="minillm.objectives.regress:predict_numbers",
        needs_vocabulary=False,
    ),
}


def objective_spec(name: str) -> ObjectiveSpec:
    """The row of that name; ValueError with the closest name if there is none."""
    if name not in OBJECTIVES:
        near = difflib.get_close_matches(str(name), OBJECTIVES, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"objective.name is {name!r}; it must be one of {', '.join(OBJECTIVES)}{hint}")
    return OBJECTIVES[name]


def readers_of(key: str, datasets: tuple[str, ...]) -> list[str]:
    """The objectives that read a key of another section than [objective]; `datasets` is as in `settings.setting`."""
    of_text = key.startswith(("tokenizer.", "sample.")) or key == "data.seq_len"
    rows = {name: row for name, row in OBJECTIVES.items() if row.needs_vocabulary or not of_text}
    listed = [name for name, row in rows.items() if key in row.reads]
    return listed or [name for name, row in rows.items() if not datasets or row.dataset in datasets]


def load(reference: str) -> Any:
    """Import the object `module:name`."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
