"""Audit rows in files: JSON lines that can be verified without the store, CSV and CEF for other programs."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final, Literal, NamedTuple

import orjson

from toolpost.calls.errors import ConfigurationError
from toolpost.stores import AuditRow
from toolpost.telemetry.audit_rows import canonical, program_version
from toolpost.telemetry.audit_verify import Linked, Row, Start, said_by

Format = Literal["jsonl", "csv", "cef"]
FORM: Final = 1
_MARK: Final = "toolpost_audit"
_ENDS: Final = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))
"""What JSON lets stand in a text, and some readers take for the end of a line."""
_END: Final = {"end_seq", "end_hash", "rows"}
_ROWS: Final = ({"seq", "hash", "row"}, {"seq", "hash", "raw"})


class Contents(NamedTuple):
    """What a file of JSON lines says of itself. complete: its last line is there and fits."""

    start: Start
    apart: bool
    end: Start
    complete: bool
    rows: int


# -- JSON lines -------------------------------------------------------------------------------------------------------


def head_line(start: Start, *, apart: bool) -> bytes:
    """The first line: what the rows are linked to; or, where they are a choice, that each line says so itself."""
    about: dict[str, Any] = {_MARK: FORM, "start_seq": start.seq, "start_hash": start.hash.hex()}
    if apart:
        about["apart"] = True
    return orjson.dumps(about) + b"\n"


def row_line(row: Row) -> bytes:
    """One row."""
    about: dict[str, Any] = {"seq": row.seq, "hash": row.hash.hex()}
    if isinstance(row, Linked):
        about["before"] = row.before.hex()
    try:
        plain = canonical(orjson.loads(row.body)) == row.body
    except ValueError:
        plain = False
    if plain:
        about["row"] = orjson.Fragment(row.body)
    else:  # somebody altered it: it is kept as it is
        about["raw"] = base64.b64encode(row.body).decode()
    line = orjson.dumps(about)
    for told, written in _ENDS:
        line = line.replace(told, written)
    return line + b"\n"


def end_line(end: Start, rows: int) -> bytes:
    """The last line, so that a file which was cut off is known."""
    return orjson.dumps({"end_seq": end.seq, "end_hash": end.hash.hex(), "rows": rows}) + b"\n"


def contents_of(path: Path) -> Contents:
    """What a file says of itself. Raises ConfigurationError where it is no export of an audit log."""
    start, apart = _head_of(path)
    end, rows = start, 0
    last: Mapping[str, Any] | None = None
    for about in _lines(path):
        if last is not None:
            raise ConfigurationError(f"{path} goes on after its last line, which is line {rows + 2}; it was damaged")
        if about.keys() == _END:
            last = about
        else:
            row = _row_of(about, path, rows + 2)
            end, rows = Start(row.seq, row.hash), rows + 1
    complete = last == {"end_seq": end.seq, "end_hash": end.hash.hex(), "rows": rows}
    return Contents(start, apart, end, complete, rows)


def rows_in(path: Path) -> Iterator[Row]:
    """The rows of a file of JSON lines, in its order."""
    for number, about in enumerate(_lines(path), 2):
        if about.keys() != _END:
            yield _row_of(about, path, number)


def _head_of(path: Path) -> tuple[Start, bool]:
    with path.open("rb") as file:
        first = file.readline(10_000)
    about = said_by(first)
    if about.get(_MARK) != FORM:
        raise ConfigurationError(
            f"{path} is no audit log in JSON lines; write one with: toolpost audit export --format jsonl -o FILE"
        )
    try:
        return Start(int(about["start_seq"]), bytes.fromhex(about["start_hash"])), about.get("apart") is True
    except (KeyError, TypeError, ValueError):
        raise ConfigurationError(f"{path}: its first line does not say what its rows are linked to") from None


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open("rb") as file:
        file.readline()
        for line in file:
            if line.strip():
                yield _read(line)


def _read(line: bytes) -> Mapping[str, Any]:
    """What a line says; nothing where it has a name twice, of which other readers may take the other."""
    about = said_by(line)
    if orjson.dumps(about) != line.rstrip() and about:  # it was laid out anew, or it is no line of ours
        try:
            json.loads(line, object_pairs_hook=_each_once)
        except (ValueError, RecursionError):
            return {}
    return about


def _each_once(pairs: Sequence[tuple[str, Any]]) -> None:
    if len(pairs) != len(dict(pairs)):
        raise ValueError


def _row_of(about: Mapping[str, Any], path: Path, number: int) -> Row:
    try:
        if about.keys() - {"before"} not in _ROWS or type(about["seq"]) is not int:  # other readers may show the rest
            raise ValueError
        body = base64.b64decode(about["raw"], validate=True) if "raw" in about else canonical(about["row"])
        seq, digest = about["seq"], bytes.fromhex(about["hash"])
        if "before" in about:
            return Linked(seq, body, digest, bytes.fromhex(about["before"]))
        return AuditRow(seq, body, digest)
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error):
        raise ConfigurationError(f"{path}, line {number} is no row of an audit log; the file was damaged") from None


def write_jsonl(path: Path, start: Start, rows: Iterable[AuditRow]) -> Contents:
    """Write rows into a new file that only its owner may read, sync it to disk, and read it back.

    Raises FileExistsError where there is a file, ConfigurationError where what is read differs.
    """
    end, count = start, 0
    with new_file(path) as file:
        file.write(head_line(start, apart=False))
        for row in rows:
            file.write(row_line(row))
            end, count = Start(row.seq, row.hash), count + 1
        file.write(end_line(end, count))
        file.flush()
        contents = contents_of(path)
        if contents != Contents(start, False, end, True, count):
            raise ConfigurationError(f"{path} does not hold what was written into it; the disk may be failing")
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return contents


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that was not there and is its owner's alone; synced at the end. What was begun and failed is removed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


# -- CSV --------------------------------------------------------------------------------------------------------------

COLUMNS: Final = (
    "seq", "at", "kind", "call", "tool", "version", "user", "tenant", "session", "task", "status", "decision", "stage",
    "code", "rule", "approval_id", "outcome", "attempts", "source", "ms", "scopes", "roles", "arguments", "data",
    "definition", "by", "n", "k", "hash",
)  # fmt: skip

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_UNSEEN: Final = "".join(
    map(chr, (32, 160, 0xAD, 0x1680, *range(0x2000, 0x2010), 0x202F, 0x205F, 0x2060, 0x3000, 0xFEFF))
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def escaped(text: str) -> str:
    """text without control characters, which are written as escapes."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def cell(value: Any) -> str:
    """A value as a cell that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    text = escaped(value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode())
    return f"'{text}" if text.lstrip(_UNSEEN).startswith(_FORMULA) else text


def csv_line(values: Iterable[Any]) -> str:
    """One line of CSV (RFC 4180)."""
    out = io.StringIO()
    csv.writer(out).writerow([cell(value) for value in values])
    return out.getvalue()


def csv_row(row: Row) -> str:
    """One row, in the order of COLUMNS."""
    about = {**said_by(row.body), "seq": row.seq, "hash": row.hash.hex()}
    return csv_line(about.get(name) for name in COLUMNS)


# -- CEF --------------------------------------------------------------------------------------------------------------

_CEF: Final = {
    "call": "externalId",
    "user": "suser",
    "task": "cs1",
    "tenant": "cs2",
    "session": "cs3",
    "rule": "cs4",
    "stage": "cs5",
    "hash": "cs6",
    "decision": "act",
    "outcome": "outcome",
    "code": "reason",
    "seq": "cn1",
    "ms": "cn2",
}
_LABELS: Final = (
    "cs1Label=task cs2Label=tenant cs3Label=session cs4Label=rule cs5Label=stage cs6Label=hash cn1Label=seq"
)
_SEVERITY: Final = {"ok": 1, "rejected": 6, "failed": 5}


def cef_row(row: Row) -> str:
    """One row as a line of ArcSight's Common Event Format."""
    about = {**said_by(row.body), "seq": row.seq, "hash": row.hash.hex()}
    kind, tool = str(about.get("kind", "unreadable")), str(about.get("tool", ""))
    severity = _SEVERITY.get(str(about.get("status")), 3)
    head = "|".join(
        _in_head(text) for text in ("toolpost", "toolpost", program_version(), kind, f"{kind} {tool}".strip())
    )
    more = [f"{theirs}={_in_extension(about[ours])}" for ours, theirs in _CEF.items() if about.get(ours) is not None]
    at = _milliseconds(about.get("at"))
    if at is not None:
        more.append(f"rt={at}")
    for name in ("arguments", "data"):
        if about.get(name):
            more.append(f"msg={_in_extension(about[name])}")
            break
    return f"CEF:0|{head}|{severity}|{' '.join(more)} {_LABELS} cn2Label=ms\n"


def _in_head(text: str) -> str:
    return escaped(text).replace("\\", "\\\\").replace("|", "\\|")


def _in_extension(value: Any) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    return escaped(text).replace("\\", "\\\\").replace("=", "\\=")


def _milliseconds(at: Any) -> int | None:
    try:
        return round(datetime.fromisoformat(str(at)).timestamp() * 1000)
    except ValueError:
        return None


def write_rows(file: IO[bytes], format: Format, start: Start, rows: Iterable[Row], *, apart: bool) -> int:
    """Write rows in a format; how many."""
    count, end = 0, start
    if format == "jsonl":
        file.write(head_line(start, apart=apart))
    elif format == "csv":
        file.write(csv_line(COLUMNS).encode())
    for row in rows:
        if format == "jsonl":
            file.write(row_line(row))
        else:
            file.write((csv_row(row) if format == "csv" else cef_row(row)).encode("utf-8", "replace"))
        end, count = Start(row.seq, row.hash), count + 1
    if format == "jsonl":
        file.write(end_line(end, count))
    return count
