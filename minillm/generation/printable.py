"""Escapes control characters, which terminals obey and which make a log a binary file."""

_CODES = [*range(0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000)]  # C0, DEL, C1, lone surrogates
_CODES += [0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]  # line separators, writing direction
_ESCAPES = {code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" for code in _CODES if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """`text` with control characters other than newline and tab escaped, such as `\\x1b`; works piece by piece too."""
    return text.translate(_ESCAPES)
