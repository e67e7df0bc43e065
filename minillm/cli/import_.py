"""`minillm import`."""

from __future__ import annotations

from pathlib import Path


def import_(source: str, run: Path, /) -> None:
    """Make a run folder of published weights and their tokenizer: of a GPT-2, Llama, Qwen, BERT or T5.

    Args:
        source: A folder in Hugging Face's layout, a GGUF file, or the name of a model on the hub.
        run: Run folder to make.
    """
    from minillm.run import import_model, load_run
    from minillm.run.preview import next_command

    folder = import_model(source, run)
    loaded = load_run(folder)
    print(f"{loaded.describe()}; {sum(p.numel() for p in loaded.model.parameters()) / 1e6:.1f} M parameters")
    print(f"try it with: {next_command(loaded.model, folder)}")
