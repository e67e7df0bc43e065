"""Settings of a run's data."""

from dataclasses import dataclass
from typing import Literal

from minillm.settings import Only, check, setting

_SPLIT_OFF: Only = {"validation": (None,)}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The source of the data, how it is split, and the length of a training example."""

    source: str = setting("builtin:python-docs")
    """Text file, folder, glob, .jsonl(.gz), .json, .csv, .tsv, .parquet, hf:NAME or builtin:NAME; for images, a folder
    with IDX files, or with a subfolder of image files for each class."""
    field: str = setting("text", datasets=("text", "labeled", "preferences"))
    """Column or key that holds the text, in sources of records."""
    label_field: str = setting("label", datasets=("labeled", "numbers"))
    """Column or key that holds the label of a text, or the class or number to predict from numbers."""
    columns: tuple[str, ...] = setting((), datasets=("numbers",))
    """Columns or keys that hold the input numbers."""
    pair_field: str | None = setting(None, datasets=("labeled",))
    """Column or key that holds the second text of a labeled pair; None: single texts."""
    label_separator: str | None = setting(None, datasets=("labeled",))
    """Text between the labels of a field that holds several, such as a comma; None: a field of text is one label."""
    words_field: str = setting("words", datasets=("tagged",))
    """Key that holds the list of words of a sentence, in sources of records."""
    tags_field: str = setting("tags", datasets=("tagged",))
    """Key that holds the list of tags; in CoNLL files the number of a column, counted from 1, or else the last one."""
    tag_scheme: Literal["auto", "bio", "bioes", "iob1", "none"] = setting("auto", datasets=("tagged",))
    """How tags mark entities; iob1 is converted to bio. none: tags are labels of single words, such as parts of speech.
    auto: bio or bioes if all tags fit it, else none."""
    question_field: str = setting("question", datasets=("questions",))
    """Column or key that holds a question."""
    context_field: str = setting("context", datasets=("questions",))
    """Column or key that holds the text in which the answer is."""
    answers_field: str = setting("answers", datasets=("questions",))
    """Column or key that holds the answers: {"text": [...], "answer_start": [...]}, a list of such objects, or a text;
    empty if the context does not answer the question."""
    input_field: str = setting("input", datasets=("tasks",))
    """Column or key that holds the input of a text-to-text example, including the prefix of its task."""
    target_field: str = setting("target", datasets=("tasks",))
    """Column or key that holds the target of a text-to-text example."""
    prompt_field: str = setting("prompt", datasets=("preferences", "prompts"))
    """Column or key that holds a prompt; rewards may read the record's other fields."""
    chosen_field: str = setting("chosen", datasets=("preferences",))
    """Column or key that holds the better answer to a prompt."""
    rejected_field: str = setting("rejected", datasets=("preferences",))
    """Column or key that holds the worse answer to a prompt."""
    margin_field: str | None = setting(None, datasets=("preferences",))
    """Column or key that holds a number: by how much the better answer is better; None: 0 for all pairs."""
    mixing: Literal["proportional", "temperature", "equal"] = setting("proportional", datasets=("tasks",))
    """How often each text-to-text task is drawn: in proportion to its number of examples, in proportion to that number
    to the power 1/T, or equally often."""
    mixing_temperature: float = setting(2.0, at_least=1, only={"mixing": ("temperature",)}, datasets=("tasks",))
    """T of temperature mixing: 1 is proportional; large values approach equal (Raffel et al. 2020, section 3.5.2)."""
    max_documents: int | None = setting(None, at_least=1)
    """Maximum number of documents to read, for hub sources that are too large to download; None: all."""
    validation: str | None = setting(None)
    """Source of a separate validation text; None: split it off the training text."""
    validation_fraction: float = setting(0.1, above=0, below=1, only=_SPLIT_OFF)
    """Fraction of the text that is split off for validation."""
    split: Literal["auto", "tail", "document"] = setting("auto", only=_SPLIT_OFF, datasets=("text",))
    """tail: validate on the end of the text; document: on whole documents; auto: document if there are at least 20
    documents, else tail."""
    seq_len: int | None = setting(None, at_least=1)
    """Tokens in a training example; None: model.max_seq_len."""
    packing: Literal["stream", "documents"] = setting("stream")
    """For clm. stream: tokens attend to everything before them in a training example; documents: only to their own
    document."""
    cache: str | None = setting(None)
    """Folder for the tokenized text; None: the user's cache folder."""

    def __post_init__(self) -> None:
        check("data", self)
