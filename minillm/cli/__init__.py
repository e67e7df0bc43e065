"""The command line, one file per command.

A user's mistake is one line on stderr and exit code 2; with MINILLM_DEBUG=1 it also shows a traceback.
"""

import io
import keyword
import os
import shlex
import shutil
import sys
from collections.abc import Collection, Sequence

from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError, UnusedCliTokensError
from cyclopts.help import PlainFormatter
from rich.console import Console

from minillm.training.interrupt import Terminated, raise_on_signals

COMMANDS = {
    "train": "Train a model on your text; without arguments, a small GPT on Python's documentation.",
    "sample": "Generate text with a trained model.",
    "chat": "Hold a conversation with a model that was fine-tuned on conversations.",
    "fill": "Fill in the masked words of a text with a BERT.",
    "predict": "Predict labels, tags or answers with a fine-tuned model.",
    "embed": "Turn texts into vectors, or rank them by their similarity to a text.",
    "attention": "Show which tokens a model attends to, as text, heat maps or an HTML page.",
    "eval": "Evaluate a trained model: loss, bits per byte, accuracy and so on.",
    "report": "Write an HTML page about one or more runs.",
    "merge": "Merge a run's adapter into its weights.",
    "info": "Show a model's parameters, FLOPs per token and memory.",
    "bench": "Measure speed on this machine, compared with other libraries.",
    "data": "Show how a text is read and tokenized.",
    "import": "Make a run from published weights or an adapter.",
    "quantize": "Make a run with 8-bit or 4-bit weights.",
    "export": "Export a run to transformers or llama.cpp.",
}
TOO_LARGE = ("can't allocate memory", "Storage size calculation overflowed", "Overflow when unpacking")
"""What torch says of a tensor that no memory holds."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command in `arguments` (default: those of the process) and return the exit code.

    0: success, 2: a user's mistake, 130: Ctrl-C, 141: broken pipe, 143: SIGTERM. Bugs show their traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # so that a terminal without UTF-8 does not stop a run
    try:
        with raise_on_signals():
            given = sys.argv[1:] if arguments is None else list(arguments)
            code = build_app(given[:1])(given)
            sys.stdout.flush()
        return code or 0
    except CycloptsError as error:
        error.verbose = False
        return _mistake(_explained(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python reports it again at exit
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
        return _mistake(f"out of memory: {reason}; use smaller settings or a smaller model")


def build_app(explained: Collection[str] = ()) -> App:
    """The parser. A command's module is imported when the command is called; parsing never imports torch.

    The help of commands in `explained` begins with their docstrings, that of others with their summaries.
    """
    # Help is as wide as the terminal; in a pipe it has one line per flag, for grep.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 1000
    app = App(
        name="minillm",
        help="Train, run and study small language models.",
        version=version,
        help_format="plaintext",
        help_formatter=PlainFormatter(max_width=width),
        console=Console(width=width),
        default_parameter=Parameter(negative=(), show_default=lambda value: None if value is False else value),
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
    )
    for name, summary in COMMANDS.items():
        function = f"{name}_" if keyword.iskeyword(name) else name
        about = None if name in explained else summary
        app.command(f"minillm.cli.{function}:{function}", name=name, help=about)
    return app


def version() -> str:
    from importlib import metadata  # takes a tenth of the time of --help

    try:
        return metadata.version("minillm")
    except metadata.PackageNotFoundError:
        return "not installed"


def _explained(error: CycloptsError) -> str:
    """The parser's message, with a remedy for unexpected arguments."""
    command = " ".join(("minillm", *(error.command_chain or ())))
    if not isinstance(error, UnusedCliTokensError):
        return f"{error} See {command} --help."
    words = error.unused_tokens or []
    remedy = "put arguments with spaces in quotes, and give settings as flags"
    if command == "minillm sample":
        remedy = f"give the prompt as a flag: --prompt {shlex.quote(' '.join(words))}"
    return f"{command} does not take the argument {shlex.join(words[:1])}; {remedy}. See {command} --help."


def _mistake(message: str) -> int:
    print("minillm: error:", " ".join(message.split()), file=sys.stderr)
    return 2


def _raise_in_debug() -> None:
    """In an except block: raise the exception again if MINILLM_DEBUG is set."""
    if os.environ.get("MINILLM_DEBUG"):
        raise
