"""The command line: one file per command, arguments in, one call into the package, result out.

A user's mistake is one line on stderr and exit code 2; MINILLM_DEBUG=1 shows where it was noticed.
"""

from __future__ import annotations

import io
import keyword
import os
import shlex
import shutil
import sys
from collections.abc import Sequence

from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError, UnusedCliTokensError
from cyclopts.help import PlainFormatter
from rich.console import Console

from minillm.training.interrupt import Terminated, raise_on_signals

COMMANDS = {
    "train": "Train a model on your text; without arguments, a small GPT on Python's own documentation.",
    "sample": "Let a trained model write.",
    "fill": "Let a BERT fill the gaps in a text.",
    "eval": "Measure a trained model: loss, and bits per byte or the share of right answers.",
    "info": "Count a model's parameters, arithmetic and memory.",
    "data": "Look at a text as a model would see it.",
    "import": "Make a run of published weights.",
    "export": "Write a run in the format of other libraries.",
}
TOO_LARGE = ("can't allocate memory", "Storage size calculation overflowed", "Overflow when unpacking")
"""What torch says of a tensor that no memory holds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: the process's own) name and return the exit code.

    0 success, 2 a user's mistake, 130 Ctrl-C, 141 the reader of our output closed it, 143 SIGTERM. A bug shows its
    traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 must not end a run
    try:
        with raise_on_signals():
            code = build_app()(sys.argv[1:] if arguments is None else list(arguments))
            sys.stdout.flush()
        return code or 0
    except CycloptsError as error:
        error.verbose = False
        return _mistake(_explained(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains again at its exit
        return 141
    except KeyboardInterrupt:
        print("minillm: interrupted", file=sys.stderr)
        return 130
    except Terminated:
        print("minillm: terminated", file=sys.stderr)
        return 143
    except OSError as error:
        _raise_in_debug()
        named = error.filename is not None and error.strerror
        return _mistake(f"{error.filename}: {error.strerror}" if named else str(error))
    except ValueError as error:
        _raise_in_debug()
        return _mistake(str(error))
    except (MemoryError, RuntimeError, TypeError) as error:
        _raise_in_debug()
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in TOO_LARGE):
            raise
        reason = str(error).partition("\n")[0]  # torch's frames follow
        return _mistake(f"out of memory: {reason}; ask for less, or for a smaller model")


def build_app() -> App:
    """The parser. A command's module is imported when it is called, and torch by no module that only parses."""
    # A terminal gets its own width; a pipe gets one line a flag, for grep.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 1000
    app = App(
        name="minillm",
        help="Train, sample and read a mini LLM.",
        version=version,
        help_format="plaintext",
        help_formatter=PlainFormatter(max_width=width),
        console=Console(width=width),
        default_parameter=Parameter(negative=()),
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
    )
    for name, summary in COMMANDS.items():
        function = f"{name}_" if keyword.iskeyword(name) else name
        app.command(f"minillm.cli.{function}:{function}", name=name, help=summary)
    return app


def version() -> str:
    """Version of the installed package."""
    from importlib import metadata  # a tenth of the time that --help takes

    try:
        return metadata.version("minillm")
    except metadata.PackageNotFoundError:
        return "not installed"


def _explained(error: CycloptsError) -> str:
    """The parser's message, with the remedy for arguments that the command does not take."""
    command = " ".join(("minillm", *(error.command_chain or ())))
    if not isinstance(error, UnusedCliTokensError):
        return f"{error} See {command} --help."
    words = error.unused_tokens or []
    remedy = "put an argument with spaces in quotes, and give settings by their flags"
    if command == "minillm sample":
        remedy = f"give the prompt by its flag: --prompt {shlex.quote(' '.join(words))}"
    return f"{command} does not take the argument {shlex.join(words[:1])}; {remedy}. See {command} --help."


def _mistake(message: str) -> int:
    print("minillm: error:", " ".join(message.split()), file=sys.stderr)
    return 2


def _raise_in_debug() -> None:
    """Inside an except block: let the exception pass, with its traceback, where MINILLM_DEBUG is set."""
    if os.environ.get("MINILLM_DEBUG"):
        raise
