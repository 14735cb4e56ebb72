"""The results of `toolpost run`: a file that a later run continues, and the summary that is made of it."""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from toolpost.calls.errors import ConfigurationError
from toolpost.transports.cli_show import to_json

Record = Mapping[str, Any]
"""One line of results: line, index, digest, format, tool_name, status, source, execution_time_ms, code, ..."""

MAX_CALLS_OF_A_LINE = 20_000_000
MAX_NAMES = 1000
"""How many tools and error codes are counted apart; what comes after them is counted together."""

_STEP = math.log(1.02)
_BEGIN = b'{"line":'


@dataclass(slots=True)
class Tally:
    """The calls of one tool: how they ended, and times of those that ran, to within 1 %."""

    calls: int = 0
    ok: int = 0
    rejected: int = 0
    failed: int = 0
    cache_hits: int = 0
    replays: int = 0
    times: Counter[int] = field(default_factory=Counter)

    def add(self, record: Record) -> None:
        """Count one result."""
        status = record["status"]
        self.calls += 1
        self.ok += status == "ok"
        self.rejected += status == "rejected"
        self.failed += status == "failed"
        self.cache_hits += record.get("source") == "cache"
        self.replays += record.get("source") == "replay"
        if status != "rejected":
            self.times[round(math.log(max(float(record["execution_time_ms"]), 1e-4)) / _STEP)] += 1

    def quantile_ms(self, part: float) -> float | None:
        """The time that this part of the calls took at most; None when none ran."""
        wanted, seen = math.ceil(part * self.times.total()), 0
        for step in sorted(self.times):
            seen += self.times[step]
            if seen >= wanted:
                return float(f"{math.exp(step * _STEP):.3g}")
        return None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        counts = {name: getattr(self, name) for name in ("calls", "ok", "rejected", "failed", "cache_hits", "replays")}
        return {**counts, "p50_ms": self.quantile_ms(0.5), "p95_ms": self.quantile_ms(0.95)}


class Summary:
    """What came out of many calls: by tool, in all, and the codes of errors."""

    def __init__(self) -> None:
        self.total = Tally()
        self.tools: dict[str, Tally] = {}
        self.codes: Counter[str] = Counter()

    def add(self, record: Record) -> None:
        """Count one result."""
        code = record.get("code")
        tool = "(unknown tool)" if code == "unknown_tool" else record["tool_name"] or "(unreadable)"
        if tool not in self.tools and len(self.tools) >= MAX_NAMES:
            tool = "(others)"
        self.tools.setdefault(tool, Tally()).add(record)
        self.total.add(record)
        if code is not None:
            self.codes[code if code in self.codes or len(self.codes) < MAX_NAMES else "(others)"] += 1

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            **self.total.to_dict(),
            "tools": {name: tally.to_dict() for name, tally in sorted(self.tools.items())},
            "errors": dict(self.codes.most_common()),
        }


class Results:
    """Where results go, one JSON object a line, each handed to the system as it comes."""

    def __init__(self, stream: IO[bytes], path: str | None = None) -> None:
        self.summary = Summary()
        self.path = path
        self._stream = stream

    @property
    def changed(self) -> int:
        """How many lines of the input are not what they were when an earlier run wrote their results."""
        return 0

    def has(self, line: int, digest: str, index: int) -> bool:
        """Whether an earlier run has left a result of this call."""
        return False

    def has_all(self, line: int, digest: str) -> bool:
        """Whether an earlier run has left a result of every call of a line."""
        return False

    def read(self, line: int, digest: str) -> None:
        """Say what stands in a line of the input now."""

    def add(self, record: Record) -> None:
        """Write one result. Raises OSError that names the file."""
        try:
            self._stream.write(to_json(record) + b"\n")
            self._stream.flush()
        except OSError as exc:
            raise OSError(exc.errno, exc.strerror, self.path) from None
        self.summary.add(record)

    def finish(self, last_line: int | None) -> int:
        """All is written; how many results of an earlier input were dropped. last_line: None if not reached."""
        return 0

    def close(self) -> None:
        """Release what is held."""
        if self.path is not None:
            with contextlib.suppress(OSError):  # said already, by add()
                self._stream.close()


class ResultsFile(Results):
    """Results in a file that may hold those of an earlier run, cut at any point.

    A torn last line is mended when the file is opened. Raises ConfigurationError when the file holds anything
    else than results, or another run writes to it.
    """

    path: str

    def __init__(self, path: str, *, restart: bool = False) -> None:
        super().__init__(os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b"), os.path.realpath(path))
        self._lock()
        # line -> digest of the line and (bit by bit) the indices of its calls that have a result
        self._digests: dict[int, int] = {}
        self._done: dict[int, int] = {}
        self._numbers: dict[int, int] = {}  # line -> how many calls it holds, where it holds more than one
        self._changed: set[int] = set()
        try:
            self._refuse_strangers()
            if restart:
                self._stream.truncate(0)
            self._take_up()
        except BaseException:
            self.close()
            raise

    def has(self, line: int, digest: str, index: int) -> bool:
        known = self._digests.get(line)
        return known is not None and known == int(digest, 16) and bool(self._done[line] >> index & 1)

    def has_all(self, line: int, digest: str) -> bool:
        known = self._digests.get(line)
        return (
            known is not None and known == int(digest, 16) and self._done[line] + 1 == 1 << self._numbers.get(line, 1)
        )

    def read(self, line: int, digest: str) -> None:
        if self._digests.get(line, now := int(digest, 16)) != now:
            self._changed.add(line)
            self._digests[line], self._done[line] = now, 0
            self._numbers.pop(line, None)

    @property
    def changed(self) -> int:
        return len(self._changed)

    def finish(self, last_line: int | None) -> int:
        surplus = last_line is not None and any(line > last_line for line in self._digests)
        if not self._changed and not surplus:
            return 0
        return self._rewrite(lambda record: last_line is None or record["line"] <= last_line)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._stream.close()
            raise ConfigurationError(
                f"{self.path} is being written by another run; wait for it or name another file"
            ) from None

    def _refuse_strangers(self) -> None:
        """Nothing may be cut off or overwritten in a file that is not ours."""
        head = self._stream.read(len(_BEGIN))
        if not _BEGIN.startswith(head):
            raise ConfigurationError(f"{self.path} holds something else than results of a run; name another file")
        self._stream.seek(0)

    def _take_up(self) -> None:
        """Read what is there: which calls have results, and their summary. Mend the last line."""
        superseded, end, last = False, 0, b"\n"
        for number, text in enumerate(self._stream, 1):
            record, last = _record(text), text
            if record is None:
                if text.endswith(b"\n"):
                    raise ConfigurationError(
                        f"line {number} of {self.path} is no result of a run; name another file, or begin anew "
                        f"with --restart"
                    )
                break
            end += len(text)
            line, digest = record["line"], int(record["digest"], 16)
            if self._digests.setdefault(line, digest) != digest:  # a run was cut after the input had changed
                superseded = True
                self._digests[line], self._done[line] = digest, 0
                self._numbers.pop(line, None)
            self._done[line] = self._done.get(line, 0) | 1 << record["index"]
            if "of" in record:
                self._numbers[line] = record["of"]
            self.summary.add(record)
        self._stream.seek(end)
        if not last.endswith(b"\n"):
            self._stream.truncate()
            self._stream.write(b"\n" if end and _record(last) is not None else b"")
            self._stream.flush()
        if superseded:
            self._rewrite(lambda record: True)

    def _records(self) -> Iterator[dict[str, Any]]:
        self._stream.seek(0)
        yield from filter(None, map(_record, self._stream))

    def _rewrite(self, keep: Callable[[Record], bool]) -> int:
        """Replace the file by one without results of lines as they no longer are; how many went."""
        beside = f"{self.path}.{os.getpid()}.tmp"
        dropped, summary = 0, Summary()
        try:
            with open(beside, "xb") as out:
                shutil.copymode(self.path, beside)
                for record in self._records():
                    if self._digests[record["line"]] == int(record["digest"], 16) and keep(record):
                        out.write(to_json(record) + b"\n")
                        summary.add(record)
                    else:
                        dropped += 1
                out.flush()
                os.fsync(out.fileno())
            os.replace(beside, self.path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)
        self._stream.close()
        self._stream = open(self.path, "r+b")  # noqa: SIM115 - closed by close()
        self._lock()
        self._stream.seek(0, os.SEEK_END)
        self.summary = summary
        return dropped


def open_results(path: str | None, stdout: IO[str], *, restart: bool) -> Results:
    """The results at path: a file that is continued, or a device; standard output for None and "-"."""
    if path is None or path == "-":
        return Results(stdout.buffer)  # type: ignore[attr-defined]
    if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        return Results(open(path, "wb"), path)
    return ResultsFile(path, restart=restart)


def _record(text: bytes) -> dict[str, Any] | None:
    """One line of results; None for anything else."""
    import orjson

    try:
        record = orjson.loads(text)
        whole = (
            isinstance(record["line"], int)
            and record["line"] > 0
            and isinstance(record["index"], int)
            and 0 <= record["index"] < record.get("of", 1) <= MAX_CALLS_OF_A_LINE
            and isinstance(record["tool_name"], str)
            and record["status"] in ("ok", "rejected", "failed")
            and int(record["digest"], 16) >= 0
            and float(record["execution_time_ms"]) >= 0
        )
    except (ValueError, KeyError, TypeError):
        return None
    return record if whole else None
