"""`minillm chat`."""

from __future__ import annotations

import json as jsonlib
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from minillm.cli.flags import Dtype, Quantize, overrides, with_flags
from minillm.cli.output import open_run, spin_while_idle
from minillm.config import override
from minillm.generation.printable import printable

if TYPE_CHECKING:
    from minillm.generation.assistant import Assistant

FLAGS = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop", "seed")
HELP = "/reset clears the conversation, /save FILE appends it to FILE as JSON Lines, /quit or Ctrl-D exits"


@with_flags("sample", prefix=False, only=[f"sample.{name}" for name in FLAGS])
def chat(
    run: Path | None = None,
    /,
    *,
    prompt: Annotated[str | None, Parameter(allow_leading_hyphen=True, metavar="TEXT")] = None,
    system: Annotated[str | None, Parameter(allow_leading_hyphen=True, metavar="TEXT")] = None,
    dtype: Dtype = "auto",
    quantize: Quantize = None,
    json: bool = False,
    **given: str,
) -> None:
    """Hold a conversation with a model that was fine-tuned on conversations. Defaults come from the run's [sample]
    section. If the conversation becomes longer than the context, its oldest turns are left out.

    Commands in the conversation: /reset clears it, /save FILE appends it to FILE as JSON Lines, /quit or Ctrl-D exits.

    Args:
        run: Run folder. Default: the latest under runs/.
        prompt: Answer this message and exit. Default: a conversation in the terminal.
        system: System message, which comes before the conversation.
        json: With --prompt: print one JSON object instead of the text.
    """
    spin_while_idle()
    from minillm.generation.assistant import Assistant

    if json and prompt is None:
        raise ValueError("--json is for a single answer; give --prompt too")
    loaded = open_run(run, dtype=dtype, quantize=quantize)
    loaded.require_writer()
    settings = override(loaded.config, overrides(given)).sample
    assistant = Assistant(loaded.decoder, loaded.tokenizer, settings, system=system)
    print(loaded.describe_decoder(), file=sys.stderr)
    if prompt is None:
        print(HELP, file=sys.stderr)
        converse(assistant)
    elif json:
        text = "".join(assistant.reply(prompt))
        about = {"run": str(loaded.folder), "messages": assistant.messages}
        print(jsonlib.dumps(about | {"text": text, "finish_reason": assistant.finish_reason}))
    else:
        answer(assistant, prompt)


def converse(assistant: Assistant) -> None:
    """Read messages and commands from standard input until it ends."""
    while True:
        try:
            text = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        command, _, rest = text.partition(" ")
        try:
            if command == "/quit":
                return
            if command == "/reset":
                assistant.reset()
            elif command == "/save":
                save(assistant, rest.strip())
            elif command.startswith("/"):
                raise ValueError(f"there is no command {command}: {HELP}")
            elif text:
                answer(assistant, text)
        except (ValueError, OSError) as error:
            print(f"minillm: {error}", file=sys.stderr)


def answer(assistant: Assistant, text: str) -> None:
    """Print an answer as it is written; Ctrl-C ends it."""
    with closing(assistant.reply(text)) as pieces:
        try:
            for piece in pieces:
                print(printable(piece), end="", flush=True)
        except KeyboardInterrupt:
            print(" …", end="")
    print()
    if assistant.left_out:
        print(f"the oldest {assistant.left_out} messages no longer fit into the context", file=sys.stderr)
    if assistant.finish_reason == "length":
        print("the answer was cut off at --max-new-tokens, or at the end of the context", file=sys.stderr)


def save(assistant: Assistant, file: str) -> None:
    """Append the conversation to a file, in the form in which finetune-chat reads it."""
    if not file:
        raise ValueError("name a file: /save FILE")
    if not any(message["role"] == "assistant" for message in assistant.messages):
        raise ValueError("there is no answer to save yet")
    with Path(file).expanduser().open("a", encoding="utf-8") as stream:
        stream.write(jsonlib.dumps({"messages": assistant.messages}, ensure_ascii=False) + "\n")
    print(f"{len(assistant.messages)} messages saved to {file}", file=sys.stderr)
