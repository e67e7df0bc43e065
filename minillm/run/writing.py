"""Generates text and fills gaps with a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minillm.generation.config import BeamConfig, SampleConfig
from minillm.generation.fill import Filled, fill_gaps
from minillm.generation.generate import Completion
from minillm.generation.speculative import Draft
from minillm.generation.text import complete
from minillm.generation.text import search as search_text
from minillm.run.decoding import SLOTS, step_seconds
from minillm.run.inference import LoadedRun, Run, loaded_run


def sample(
    run: Run,
    config: SampleConfig,
    on_text: Callable[[int, str], None] | None = None,
    *,
    prompts: Sequence[str] | None = None,
    draft: Run = None,
) -> list[Completion]:
    """Continue or answer `config.prompt`; `on_text(row, piece)` receives the text as it is generated.

    Args:
        prompts: texts to continue instead; at most SLOTS are in a batch, and others follow as these end.
        draft: a smaller run with the same tokenizer, whose tokens are verified (generation/speculative.py).
    Raises:
        ValueError: the model writes no text, a prompt cannot be encoded, or the tokenizers differ.
    """
    loaded = loaded_run(run)
    loaded.require_writer()
    options: dict[str, Any] = {"prefix": loaded.objective.prefix_prompts, "on_text": on_text}
    if draft is not None:
        options["draft"] = make_draft(loaded, loaded_run(draft))
    if prompts is not None:
        return complete(loaded.batch_decoder, loaded.tokenizer, prompts, config, slots=SLOTS, **options)
    return complete(loaded.decoder, loaded.tokenizer, [config.prompt or ""], config, **options)


def make_draft(loaded: LoadedRun, small: LoadedRun) -> Draft:
    """The smaller run as a drafter for the other; ValueError if their tokenizers differ."""
    if small.tokenizer.hash != loaded.tokenizer.hash:
        raise ValueError(f"{small.folder} has a different tokenizer from {loaded.folder}; a draft needs the same one")
    if {small.model.writes, loaded.model.writes} != {"continuation"}:
        raise ValueError(f"{small.folder} or {loaded.folder} is an encoder-decoder; drafts are for decoders")
    seconds = [step_seconds(one.decoder) for one in (small, loaded)]
    return Draft(small.decoder, seconds[0] / seconds[1])


def search(run: Run, prompt: str, config: BeamConfig) -> list[Completion]:
    """The most likely continuations of `prompt`, or answers to it, from beam search; errors as in `sample`."""
    loaded = loaded_run(run)
    loaded.require_writer()
    return search_text(loaded.decoder, loaded.tokenizer, [prompt], config, prefix=loaded.objective.prefix_prompts)


def fill(run: Run, text: str, *, top_k: int = 5) -> Filled:
    """As `fill_gaps`; ValueError if the model cannot fill gaps, or if the text has none or is too long."""
    loaded = loaded_run(run)
    if loaded.model.writes != "nothing":
        raise ValueError(
            f"{loaded.folder} is a {loaded.config.model.family} model, which writes text instead of filling gaps: "
            + loaded.next_command()
        )
    loaded.require_head()
    if "lm" not in loaded.model.heads:
        raise ValueError(f"{loaded.folder} predicts no tokens; instead: {loaded.next_command()}")
    with loaded.compute.autocast():
        return fill_gaps(loaded.model, loaded.tokenizer, text, top_k=top_k)
