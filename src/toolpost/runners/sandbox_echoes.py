"""Keeps what a server says back from telling a program the credentials that the proxy added to its request."""

from __future__ import annotations

from typing import Final

from toolpost.calls.needles import Finder

WINDOW: Final = 32_768
"""Bytes that are looked through together, besides those held back."""
STRETCH: Final = 8
"""Characters that one may become when it is encoded: \\u0041, %41, &#x41;."""
MARK: Final = "*"


class Echoes:
    """Masks credentials in a body as it comes, in whatever encoding a Finder knows; its length stays as it was.

    The end of what came is held back, as far as a credential could reach into what is still to come.
    """

    def __init__(self, finder: Finder, longest: int) -> None:
        self._finder = finder
        self._hold = STRETCH * longest + 64
        self._kept = bytearray()

    def feed(self, data: bytes) -> bytes:
        """What may be handed on now."""
        self._kept += data
        if len(self._kept) < self._hold + WINDOW:
            return b""
        return self._look(len(self._kept) - self._hold)

    def end(self) -> bytes:
        """The rest."""
        return self._look(len(self._kept))

    def _look(self, size: int) -> bytes:
        text = self._kept.decode("latin-1")
        shown = masked(self._finder, text)
        if shown is not text:
            self._kept[:] = shown.encode("latin-1")
        out = bytes(self._kept[:size])
        del self._kept[:size]
        return out


def masked(finder: Finder, text: str) -> str:
    """text with every credential in it masked; the same object where there is none."""
    if not finder.shows(text):
        return text
    pieces, done = [], 0
    for begin, end in finder.spans(text):
        pieces += [text[done:begin], MARK * (end - begin)]
        done = end
    shown = "".join([*pieces, text[done:]])
    return MARK * len(text) if not done or finder.shows(shown) else shown
