"""From the bytes of tokens to whole characters, up to a stop string."""

import codecs
from collections.abc import Callable, Sequence


class TextStream:
    """Converts the bytes of one completion, piece by piece, into whole characters.

    Incomplete characters and bytes that may begin a stop string are held back. Bytes that are not UTF-8 become U+FFFD.
    Stop strings are searched as bytes and may span tokens; in UTF-8 a match never begins inside a character.
    """

    def __init__(self, stop: Sequence[str], emit: Callable[[str], None], leading: bytes = b"") -> None:
        """`emit` receives each nonempty piece of text; the prefix `leading` is removed from the first one."""
        self.leading = leading
        self.stop, self.emit = [s.encode("utf-8") for s in stop], emit
        self.held = b""
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, piece: bytes) -> bool:
        """Add bytes; True if they complete a stop string. The text ends at the first match that completes."""
        self.held += piece.removeprefix(self.leading)
        self.leading = b""
        matches = [(at + len(s), at) for s in self.stop if (at := self.held.find(s)) >= 0]
        if matches:
            self._release(min(matches)[1])
            return True
        self._release(len(self.held) - self._undecided())
        return False

    def close(self) -> None:
        """End the text: emit the held bytes, except an incomplete character."""
        self._release(len(self.held))

    def _undecided(self) -> int:
        """Length of the longest held suffix that begins a stop string."""
        longest = max(map(len, self.stop), default=1) - 1
        ends = range(min(longest, len(self.held)), 0, -1)
        return next((n for n in ends if any(s.startswith(self.held[-n:]) for s in self.stop)), 0)

    def _release(self, num_bytes: int) -> None:
        """Emit the first held bytes."""
        text = self.decoder.decode(self.held[:num_bytes])
        self.held = self.held[num_bytes:]
        if text:
            self.emit(text)
