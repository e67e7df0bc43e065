"""`minillm export`."""

from pathlib import Path
from typing import Any, Literal

from minillm.cli.output import open_run


def export(
    run: Path,
    out: Path,
    /,
    *,
    dtype: Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"] | None = None,
    license: str | None = None,
    language: str | None = None,
    adapter_only: bool = False,
) -> None:
    """Export a run: to a folder for transformers, or, if OUT ends in .gguf, to a file for llama.cpp.

    Args:
        run: Run folder.
        out: Folder or .gguf file to write; it must not exist.
        dtype: Type of the matrices in a .gguf file; q8_0 has 8 bits, and so on. Default: f32.
        license: License for the model card, such as mit. Default: that of the imported model, otherwise none.
        language: Language for the model card, such as en. Default: en for built-in text, otherwise none.
        adapter_only: Write only the run's adapter, in PEFT's format, instead of the merged model.
    """
    from minillm.run import export_adapter, export_model

    options: dict[str, Any] = {"dtype": dtype, "license": license, "language": language}
    if adapter_only:
        if given := [name for name, value in options.items() if value is not None]:
            raise ValueError(f"--{given[0]} has no effect on an adapter; leave it out")
        print(f"written to {export_adapter(run, out)}")
        return
    print(f"written to {export_model(open_run(run, device='cpu'), out, **options)}")
