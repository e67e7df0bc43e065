"""Text that comes with CPython: English prose and source code that need no download.

It differs a little between Python releases, so compare results only if their fingerprints are equal.
"""

import ast
import hashlib
import keyword
import os
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path

from minillm.data.sources.deduplicate import deduplicate

NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
"""Folders without source of the standard library, or with only its tests."""

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def library_files() -> list[Path]:
    """The standard library's source files without its tests, sorted; FileNotFoundError if there are none."""
    root = Path(sysconfig.get_path("stdlib"))
    found: list[Path] = []
    for parent, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in NOT_LIBRARY]
        found += (Path(parent, name) for name in names if name.endswith(".py"))
    if not found:
        raise FileNotFoundError(f"no library source in {root}: this Python comes without it; give a text file")
    return sorted(found)


def group_of(source: str) -> str:
    """A name for a source file: a hash of its content."""
    return hashlib.blake2b(source.encode("utf-8", "replace"), digest_size=8).hexdigest()


def class_of(token: tokenize.TokenInfo) -> str | None:
    """A token's class: keyword, name, number, operator or string; None for comments and layout."""
    if token.type == tokenize.NAME:
        return "keyword" if keyword.iskeyword(token.string) else "name"
    return {tokenize.NUMBER: "number", tokenize.OP: "operator", tokenize.STRING: "string"}.get(token.type)


def python_stdlib() -> Iterator[str]:
    """The source of each file of the standard library."""
    return (read_source(path) for path in library_files())


def python_docs() -> Iterator[str]:
    """The topics of the language reference, then each library file's docstrings, without repeated paragraphs."""
    return deduplicate(_all_docs())


def _all_docs() -> Iterator[str]:
    from pydoc_data.topics import topics

    yield from (topics[name] for name in sorted(topics))
    for path in library_files():
        source = read_source(path)
        if '"""' in source or "'''" in source:
            yield "\n\n".join(docstrings(parse_python(source)))


def parse_python(source: str) -> ast.Module:
    """The syntax tree of a module; an empty one if it does not parse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in the library itself
        try:
            return ast.parse(source)
        except SyntaxError:
            return ast.Module([], [])


def docstrings(node: ast.Module | Definition) -> Iterator[str]:
    """Docstrings of a module, its classes and functions, and their methods."""
    if text := ast.get_docstring(node):
        yield text
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        for child in node.body:
            if isinstance(child, Definition):
                yield from docstrings(child)


def read_source(path: Path) -> str:
    with tokenize.open(path) as file:
        return file.read()


BUILTINS = {"python-docs": python_docs, "python-stdlib": python_stdlib}
"""Name after `builtin:` -> the function that yields its documents."""
