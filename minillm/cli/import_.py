"""`minillm import`."""

from pathlib import Path


def import_(source: str, run: Path, /, *, base: Path | None = None) -> None:
    """Make a run from the published weights and tokenizer of a GPT-2, Llama, Mistral, Qwen, T5, or a kind of BERT.

    Args:
        source: Model folder in the format of transformers, GGUF file, or name of a model on the Hugging Face hub.
        run: Run folder to create.
        base: Base of the adapter, if SOURCE is an adapter folder in PEFT's format.
    """
    from minillm.run import import_adapter, import_model, load_run

    folder = import_model(source, run) if base is None else import_adapter(source, run, base)
    loaded = load_run(folder)
    print(f"{loaded.describe()}; {sum(p.numel() for p in loaded.model.parameters()) / 1e6:.1f} M parameters")
    print(f"try it with: {loaded.next_command()}")
