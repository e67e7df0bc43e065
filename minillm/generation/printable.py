"""Text that is safe to print: a terminal obeys control characters, and a log that contains them is a binary file."""

from __future__ import annotations

_CODES = [*range(0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000)]  # C0, DEL, C1, lone surrogates
_CODES += [0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]  # line separators, writing direction
_ESCAPES = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CODES if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """`text` with its control characters but newline and tab as escapes, such as `\\x1b`.

    Each character is treated by itself, so a text may also be printed piece by piece.
    """
    return text.translate(_ESCAPES)
