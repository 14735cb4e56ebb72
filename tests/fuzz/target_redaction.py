"""Fuzz targets: no text gets a known secret past a Redactor, and command lines are what their template says."""

from __future__ import annotations

from collections.abc import Callable

from toolpost.calls.errors import InputValidationError
from toolpost.calls.redaction import Redactor
from toolpost.security.commands import command_line

SECRET = 'canary/"17+é%41\\z'
_redactor = Redactor()
_redactor.add(SECRET)


def hides(data: bytes) -> None:
    """Whatever stands around it, a secret is gone, in a text and in a value; and what shows none is left alone."""
    text = data.decode("utf-8", "surrogateescape")
    for around in (text, text + SECRET + text, SECRET.join(text[:40])):
        shown = _redactor.text(around)
        assert SECRET not in shown
        assert not _redactor.shows(shown)
        assert _redactor.shows(around) or shown is around
    value = {"a": [text, SECRET], text[:50]: text}
    assert SECRET not in repr(_redactor.value(value))


def lines(data: bytes) -> None:
    """An argument is one item, as it came, and no option before "--"."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        line = command_line(["tool", "{text}", "--x={text}", "--", "{text}"], {"text": text})
    except InputValidationError:
        assert text.startswith("-") or "\0" in text or len(data) > 100_000 or not _encodes(text)
        return
    assert line == ["tool", text, f"--x={text}", "--", text]
    assert not line[1].startswith("-")


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


TARGETS: dict[str, Callable[[bytes], None]] = {"redaction": hides, "command_line": lines}
SEEDS: dict[str, list[bytes]] = {
    "redaction": [b"%63anary", b"\\u0063\\x61", b"&#99;&amp;", b"Y2FuYXJ5", b"63616e617279", b"%25%5C\\\\u", b"\0c\0a"],
    "command_line": [b"-x", b"a b", b"$(id)", b"\0", b"--", b"\xff\xfe"],
}
