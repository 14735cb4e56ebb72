"""Prints for the command line: tables, values, failures and what a running call tells; plain text off terminals."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from toolpost.calls.events import Event
    from toolpost.calls.result import ToolResult

# What would move a terminal's cursor, hide text or turn its direction; tools' output is not to be trusted with it.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def is_terminal(stream: IO[str]) -> bool:
    """Whether a person looks at the stream, on a terminal that can move its cursor."""
    try:
        return stream.isatty() and os.environ.get("TERM") != "dumb"
    except (AttributeError, ValueError):
        return False


def is_styled(stream: IO[str]) -> bool:
    """Whether colours may be used (no-color.org)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def console(stream: IO[str]) -> Console:
    """A rich console on the stream that adds no emphasis of its own."""
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False, emoji=False, no_color=not is_styled(stream))


def printable(text: str) -> str:
    """The text with control characters written as escapes."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def say(text: str, stream: IO[str] | None = None) -> None:
    """Print a line, on standard error unless another stream is given."""
    stream = sys.stderr if stream is None else stream
    click.echo(printable(text) if is_terminal(stream) else text, file=stream)


def complain(text: str, code: str, as_json: bool) -> None:
    """Print an error on standard error: a sentence, or JSON."""
    say(to_json({"error": {"code": code, "message": text}}).decode() if as_json else f"error: {text}")


def to_json(value: Any, *, indented: bool = False) -> bytes:
    """A value as JSON text, whatever it is: what JSON has no form for is written as text."""
    import orjson

    option = orjson.OPT_NON_STR_KEYS | (orjson.OPT_INDENT_2 if indented else 0)
    try:
        return orjson.dumps(value, option=option, default=str)
    except TypeError:  # half a surrogate pair, or an integer beyond 64 bits
        import json

        text = json.dumps(value, default=str, skipkeys=True, ensure_ascii=False, indent=2 if indented else None)
        return text.encode("utf-8", "replace")


def write_json(value: Any, stream: IO[str]) -> None:
    """Print a value as JSON: indented for a person, on one line for a program; UTF-8 in any locale."""
    if not is_terminal(stream):
        stream.flush()
        click.echo(to_json(value), file=stream)
    elif is_styled(stream):
        console(stream).print_json(printable(to_json(value).decode()))
    else:
        click.echo(printable(to_json(value, indented=True).decode()), file=stream)


def write_value(value: Any, stream: IO[str]) -> None:
    """Print what a tool gave: text as text, everything else as JSON."""
    if isinstance(value, str):
        say(value, stream)
    else:
        write_json(value, stream)


def write_table(
    headers: Sequence[str], rows: Sequence[Sequence[Any]], stream: IO[str], *, numbers: Sequence[str] = ()
) -> None:
    """Print rows under headers: ruled for a person, aligned and never cut for a program. numbers stand right."""
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if is_styled(stream):
        _ruled(headers, cells, stream, numbers)
        return
    lines = [[" ".join(cell.split()) for cell in row] for row in [list(headers), *cells]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    for line in lines:
        padded = [
            cell.rjust(width) if header in numbers else cell.ljust(width)
            for cell, width, header in zip(line, widths, headers, strict=True)
        ]
        say("  ".join(padded).rstrip(), stream)


def write_explanation(explanation: Sequence[Mapping[str, Any]], stream: IO[str]) -> None:
    """Print what each stage of the pipeline decided, by which rule, and its microseconds."""
    rows = [
        (
            entry["stage"],
            entry["decision"] + (f" ({entry['error']})" if "error" in entry else ""),
            f"{entry['us']:.1f}" if "us" in entry else "",
            entry.get("rule", ""),
        )
        for entry in explanation
    ]
    write_table(("stage", "decision", "us", "rule"), rows, stream, numbers=("us",))


def _ruled(headers: Sequence[str], cells: list[list[str]], stream: IO[str], numbers: Sequence[str]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for header in headers:
        table.add_column(Text(header), justify="right" if header in numbers else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console(stream).print(table)


def failure_sentence(result: ToolResult) -> str:
    """Why a call failed, in one line: tool, message, code."""
    failure = result.failure
    code = f" ({failure.code})" if failure is not None else ""
    retry = f"; retry in {failure.retry_after_s:.3g} s" if failure and failure.retry_after_s else ""
    tool = f"{result.tool_name}: " if result.tool_name else ""
    return f"{tool}{result.error}{code}{retry}"


def milliseconds(value: float | None) -> str:
    """A time for people: 0.012 ms, 3.4 ms, 1.25 s."""
    if value is None:
        return "-"
    return f"{value / 1000:.3g} s" if value >= 1000 else f"{value:.3g} ms"


def duration(seconds: float) -> str:
    """0:07, 12:30, 3:00:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def watching(stream: IO[str]) -> Iterator[Callable[[Event], None]]:
    """An observer that shows how far a call is and what it logs; silent when the stream is no terminal."""
    if not is_terminal(stream):
        yield lambda event: None
        return
    import threading

    from rich.progress import BarColumn, Progress, TextColumn

    from toolpost.calls.events import Logged, Progressed

    columns = (BarColumn(), TextColumn("{task.description}", markup=False))
    out = console(stream)
    progress = Progress(*columns, console=out, transient=True, redirect_stdout=False, redirect_stderr=False)
    lock = threading.Lock()

    def observe(event: Event) -> None:
        if isinstance(event, Logged):
            fields = " ".join(f"{name}={value}" for name, value in event.fields.items())
            out.print(printable(f"{event.level} {event.message} {fields}".rstrip()))
        elif isinstance(event, Progressed):
            with lock:
                if not progress.tasks:
                    progress.add_task("")
                    progress.start()
            far = f"{event.value:g}" if event.total is None else f"{event.value:g}/{event.total:g}"
            text = printable(f"{far} {event.message or ''}")
            progress.update(progress.task_ids[0], completed=event.value, total=event.total, description=text)

    try:
        yield observe
    finally:
        progress.stop()


class Meter:
    """How far a run is: a bar with rate and time left on a terminal, nothing elsewhere. total counts lines."""

    def __init__(self, stream: IO[str], total: Callable[[], int | None], *, shown: bool = True) -> None:
        self._shown = shown and is_terminal(stream)
        self._stream = stream
        self._total = total() if self._shown else None
        self._progress: Any = None
        self._began = self._next = 0.0

    def __enter__(self) -> Meter:
        if self._shown:
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (BarColumn(), TextColumn("{task.description}", markup=False))
            self._progress = Progress(*columns, console=console(self._stream))
            self._progress.add_task("", total=self._total)
            self._progress.start()
            self._began = time.monotonic()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, lines: int, skipped: int, calls: int, failures: int, *, at_once: bool = False) -> None:
        """lines have been read, skipped of them done by an earlier run; calls have ended, failures of them badly."""
        if self._progress is None or ((now := time.monotonic()) < self._next and not at_once):
            return
        self._next = now + 0.1
        spent = max(now - self._began, 1e-3)
        of = f"/{self._total:,}" if self._total is not None else ""
        parts = [f"{lines:,}{of} lines", f"{calls:,} calls", f"{calls / spent:,.0f}/s"]
        if failures:
            parts.append(f"{failures:,} not ok")
        if self._total is not None and lines > skipped:
            parts.append(f"eta {duration((self._total - lines) * spent / (lines - skipped))}")
        task = self._progress.task_ids[0]
        self._progress.update(task, completed=lines, description="  ".join(parts), refresh=at_once)
