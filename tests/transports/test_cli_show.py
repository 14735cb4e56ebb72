"""What the command line prints: plain, exact text where nobody looks, and nothing that moves a cursor."""

import io

import orjson
import pytest

from toolpost.calls.errors import RateLimitError
from toolpost.calls.events import Progressed
from toolpost.calls.result import failed_result
from toolpost.transports.cli_show import (
    Meter,
    duration,
    failure_sentence,
    is_styled,
    milliseconds,
    printable,
    to_json,
    watching,
    write_table,
    write_value,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_table_is_aligned_and_never_cut() -> None:
    out = io.StringIO()

    write_table(
        ("name", "n", "text"),
        [("a", 5, "x" * 200), ("long name", 12, "two\nlines"), ("b", None, "")],
        out,
        numbers=("n",),
    )

    assert out.getvalue().splitlines() == [
        "name        n  text",
        "a           5  " + "x" * 200,
        "long name  12  two lines",
        "b",
    ]


def test_a_ruled_table_takes_brackets_for_text() -> None:
    out = Terminal()

    write_table(("name",), [("[bold]x[/bold] :smile:",)], out)

    assert "[bold]x[/bold] :smile:" in out.getvalue()


@pytest.mark.parametrize("text", ["\x1b]0;title\x07", "a\rb", "\x9b2J", "\u202eabc", "\x00"])
def test_control_characters_are_written_as_escapes(text: str) -> None:
    shown = printable(text)

    assert shown.isprintable()
    assert "\\u" in shown


def test_lines_and_tabs_stay() -> None:
    assert printable("a\n\tb") == "a\n\tb"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_style_is_for_terminals_that_have_it(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert is_styled(Terminal())
    assert not is_styled(io.StringIO())

    monkeypatch.setenv(name, value)

    assert not is_styled(Terminal())


def test_text_is_printed_as_text_and_the_rest_as_json() -> None:
    out = io.StringIO()

    write_value('say "hi"', out)

    assert out.getvalue() == 'say "hi"\n'
    assert to_json({"a": [1, None]}) == b'{"a":[1,null]}'


def test_json_is_valid_whatever_the_value_holds() -> None:
    assert orjson.loads(to_json({"a": "\ud800", "b": 2**70, "c": {1, 2}}))["a"] == "?"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (750, "12:30"), (10805, "3:00:05")]
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.0123, "0.0123 ms"), (3.4, "3.4 ms"), (1250.0, "1.25 s")])
def test_times_are_for_people(value: float | None, text: str) -> None:
    assert milliseconds(value) == text


def test_a_failure_says_when_to_try_again() -> None:
    result = failed_result("1", "add", RateLimitError("too many calls", retry_after_s=3.25))

    assert failure_sentence(result) == "add: too many calls (rate_limited); retry in 3.25 s"


def test_nothing_is_drawn_where_nobody_looks() -> None:
    out = io.StringIO()

    with watching(out) as observer:
        observer(Progressed(call_id="1", tool="add", value=1))
    with Meter(out, lambda: pytest.fail("lines were counted for nobody")) as meter:
        meter.show(1, 0, 1, 0, at_once=True)

    assert out.getvalue() == ""
