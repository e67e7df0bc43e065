"""`minillm sample`."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from minillm.cli.flags import Dtype, Quantize, overrides, with_flags
from minillm.cli.output import spin_while_idle
from minillm.config import override
from minillm.generation.config import BeamConfig
from minillm.generation.printable import printable

if TYPE_CHECKING:
    from minillm.generation.config import SampleConfig
    from minillm.generation.generate import Completion
    from minillm.run import LoadedRun

NUM_DRAFT_TOKENS = 4
"""Default number of draft tokens with --draft."""


@with_flags("sample", prefix=False)
def sample(
    run: Path | None = None,
    /,
    *,
    num_beams: int | None = None,
    num_best: int = 1,
    length_penalty: float | None = None,
    prompts: Path | None = None,
    draft: Path | None = None,
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    json: bool = False,
    **given: str,
) -> None:
    """Generate text with a trained model: it continues a prompt or answers it. Defaults come from the run's [sample]
    section.

    Args:
        run: Run folder. Default: the latest under runs/.
        num_beams: Search for the most likely text with this many beams instead of sampling.
        num_best: Number of texts that beam search returns, the most likely first.
        length_penalty: Beam search divides a text's log-probability by its length to this power. Default: 0.6.
        prompts: Text file with one prompt per line; prints one JSON object per completion.
        draft: Run folder of a smaller model with the same tokenizer. It drafts tokens, which the larger model verifies
            several at a time; the text is the same as without it.
        json: Print one JSON object instead of the text.
    """
    spin_while_idle()
    from minillm.run import load_run, search
    from minillm.run import sample as complete

    loaded = load_run(run, dtype=dtype, quantize=quantize)
    loaded.require_writer()
    keys = overrides(given)
    settings = override(loaded.config, keys).sample
    prompt = settings.prompt or ""
    shown_prompt = prompt if loaded.model.writes == "continuation" else ""
    loaded.tokenizer.encode(prompt)  # refused, if it is, before any of it is printed
    say_what_runs(loaded, batch=prompts is not None)
    if draft is not None and "sample.num_draft_tokens" not in keys:
        settings = replace(settings, num_draft_tokens=NUM_DRAFT_TOKENS)

    if prompts is not None:
        refuse_with_prompts(keys, num_beams=num_beams, draft=draft)
        print_all(loaded, settings, prompts)
        return
    if num_beams is not None:
        refuse_sampling([*keys, *(["draft"] if draft else [])])
        completions = search(loaded, prompt, beam_settings(settings, num_beams, num_best, length_penalty))
    elif num_best != 1 or length_penalty is not None:
        raise ValueError("--num-best and --length-penalty are for beam search; give --num-beams too")
    elif settings.num_samples == 1 and not json:
        print_streaming(loaded, settings, shown_prompt, draft)
        return
    else:
        completions = complete(loaded, settings, draft=draft)
    say_what_is_cut(completions[0], loaded.config.model.max_seq_len)
    if json:
        about = {"run": str(loaded.folder), "prompt": prompt, "prompt_tokens_cut": completions[0].prompt_tokens_cut}
        print(jsonlib.dumps(about | {"completions": [facts(completion) for completion in completions]}))
    else:
        print_completions(completions, shown_prompt)


def say_what_runs(loaded: LoadedRun, *, batch: bool) -> None:
    """Describe the run on stderr, and name the command for conversations if it was made for them."""
    print(loaded.describe(), loaded.describe_decoder(batch=batch), sep="\n", file=sys.stderr)
    if loaded.tokenizer.chat_template is not None:
        print(f"the prompt is continued as plain text; for an answer: {loaded.next_command()}", file=sys.stderr)


def beam_settings(settings: SampleConfig, num_beams: int, num_best: int, length_penalty: float | None) -> BeamConfig:
    """The settings of beam search."""
    asked = {"num_beams": num_beams, "num_best": num_best, "length_penalty": length_penalty}
    asked |= {"max_new_tokens": settings.max_new_tokens, "stop": settings.stop}
    return BeamConfig(**{name: value for name, value in asked.items() if value is not None})


def print_streaming(loaded: LoadedRun, settings: SampleConfig, prompt: str, draft: Path | None) -> None:
    """Print the prompt and its continuation while it is generated."""
    from minillm.run import sample as complete

    began, show = perf_counter(), partial(print, end="", flush=True)
    show(printable(prompt))
    (only,) = complete(loaded, settings, on_text=lambda _, piece: show(printable(piece)), draft=draft)
    print()
    say_speed([only], perf_counter() - began)
    say_what_is_cut(only, loaded.config.model.max_seq_len)


def print_all(loaded: LoadedRun, settings: SampleConfig, file: Path) -> None:
    """Continue the prompt on each line of a file; print a JSON object for each completion, in order."""
    from minillm.run import sample as complete

    prompts = file.read_text(encoding="utf-8").splitlines()
    began = perf_counter()
    completions = complete(loaded, settings, prompts=prompts)
    for number, completion in enumerate(completions):
        prompt = prompts[number // settings.num_samples]
        print(jsonlib.dumps({"prompt": prompt} | facts(completion), ensure_ascii=False))
    say_speed(completions, perf_counter() - began)


def say_speed(completions: Sequence[Completion], seconds: float) -> None:
    """Report the speed on stderr."""
    count = sum(len(completion.ids) for completion in completions)
    print(f"{count} tokens in {seconds:.1f} s, {count / max(seconds, 1e-9):.1f} tokens/s", file=sys.stderr)


def refuse_with_prompts(keys: Iterable[str], *, num_beams: int | None, draft: Path | None) -> None:
    """ValueError for a flag that has no effect on many prompts."""
    given = {"prompt": "sample.prompt" in keys, "num-beams": num_beams is not None, "draft": draft is not None}
    for flag in (flag for flag, is_given in given.items() if is_given):
        raise ValueError(f"--{flag} has no effect with --prompts, which samples all its lines; leave one of them out")


def print_completions(completions: Sequence[Completion], prompt: str) -> None:
    """Print the prompt and each completion, with a heading if there are several."""
    for number, completion in enumerate(completions, 1):
        heading = f"--- {number} of {len(completions)}\n" if len(completions) > 1 else ""
        print(heading + printable(prompt + completion.text))


def facts(completion: Completion) -> dict[str, object]:
    """A completion for --json."""
    score: dict[str, object] = {} if completion.score is None else {"score": completion.score}
    return {"text": completion.text, "finish_reason": completion.finish_reason} | score


def say_what_is_cut(completion: Completion, context: int) -> None:
    """Report on stderr how much of a prompt that is longer than the context was ignored."""
    if cut := completion.prompt_tokens_cut:
        read = f"the prompt has {len(completion.prompt_ids)} tokens and the model reads {context}"
        print(f"{read}: its first {cut} are ignored", file=sys.stderr)


def refuse_sampling(keys: Iterable[str]) -> None:
    """ValueError for a flag that beam search would ignore."""
    for key in keys:
        if key not in ("sample.prompt", "sample.max_new_tokens", "sample.stop"):
            flag = key.removeprefix("sample.").replace("_", "-")
            raise ValueError(f"--{flag} has no effect: beam search does not sample; leave it out")
