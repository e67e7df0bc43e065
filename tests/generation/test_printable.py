import pytest

from minillm.generation.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc é 中 🎈", "a\tb\nc é 中 🎈"),
        ("\x1b[31mred\x07\r\n", "\\x1b[31mred\\x07\\x0d\n"),
        ("\x00\x1f\x7f\x80\x85\x9f\xa0", "\\x00\\x1f\\x7f\\x80\\x85\\x9f\xa0"),
        ("\ud800\udfff", "\\ud800\\udfff"),
        ("\u2028\u2029\u202a\u202e\u202f\u2066\u2069", "\\u2028\\u2029\\u202a\\u202e\u202f\\u2066\\u2069"),
    ],
)
def test_control_characters_but_newline_and_tab_are_escaped(text: str, shown: str):
    assert printable(text) == shown
    assert "".join(map(printable, text)) == shown  # however a stream cuts it
