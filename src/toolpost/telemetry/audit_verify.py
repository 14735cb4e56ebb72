"""Finds what was done to an audit log behind its back: rows that were altered, taken, put in, moved or cut off."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import orjson

from toolpost.stores import AuditHead, AuditRow
from toolpost.stores.documents import GENESIS, NO_HEAD
from toolpost.telemetry.audit_suspects import Suspects

MOST_FINDINGS: Final = 1000
MOST_OPEN: Final = 1000


class Linked(NamedTuple):
    """An AuditRow with the hash that it is linked to, as it stands in a file with a choice of rows."""

    seq: int
    body: bytes
    hash: bytes
    before: bytes


Row = AuditRow | Linked
Source = Callable[[], Iterable[Row]]
"""Gives the rows by seq; it may be asked twice."""


class Finding(NamedTuple):
    """One thing that is wrong: at which row, of which call, in a word, and in a sentence."""

    seq: int
    what: str
    call: str
    said: str


class Open(NamedTuple):
    """A call that began and of which no end was written: it still runs, or its process was killed."""

    seq: int
    call: str
    tool: str
    at: str


@dataclass(slots=True, kw_only=True)
class Report:
    """What a log was found to be. ok: nothing is wrong with it. anchor is for keeping elsewhere."""

    rows: int = 0
    first: int = 0
    last: int = 0
    hash: bytes = GENESIS
    findings: list[Finding] = field(default_factory=list)
    further: int = 0
    """Findings beyond those that are listed."""
    open: list[Open] = field(default_factory=list)
    lost: int = 0
    unkeyed: int = 0
    apart: bool = False
    """The rows are a choice: each is proven, but not that none is missing."""
    keys: dict[str, int] = field(default_factory=dict)
    """Rows by the id of their key."""

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def anchor(self) -> str:
        return f"{self.last}:{self.hash.hex()}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "ok": self.ok,
            "rows": self.rows,
            "first": self.first,
            "last": self.last,
            "anchor": self.anchor,
            "findings": [finding._asdict() for finding in self.findings],
            "further": self.further,
            "open": [one._asdict() for one in self.open],
            "lost": self.lost,
            "unkeyed": self.unkeyed,
            "apart": self.apart,
            "keys": self.keys,
        }


class Anchor(NamedTuple):
    """Where the chain was seen to stand, kept where who changes the log does not reach."""

    seq: int
    hash: bytes


class Start(NamedTuple):
    """What the first row is linked to."""

    seq: int = 0
    hash: bytes = GENESIS


class Verifier:
    """Goes through one log. keys are those of secret_key and its predecessors, by id; none: the log has no key."""

    def __init__(self, keys: Mapping[str, bytes], anchors: Sequence[Anchor] = ()) -> None:
        self._keys = {**keys, "": b""}
        self._keyed = bool(keys)
        self._anchors = {anchor.seq: anchor.hash for anchor in anchors}
        self._report = Report()
        self._open: dict[str, Open] = {}
        self._rotations: dict[int, str] = {}
        self._firsts: dict[int, set[int]] = {}
        """Last row of a rotation -> the first: more than one where it was done again."""
        self._suspects = Suspects()
        self._unkeyed_after: list[tuple[int, str]] = []
        self._seen_key = False
        self._unkeyed_until = 0
        self._vouched = 0
        self._foreign: dict[str, tuple[int, str]] = {}
        self._watched: bytes | None = None

    def verify(
        self, source: Source, start: Start, *, watch: int = 0, rotated: bool = True, apart: bool = False
    ) -> Report:
        """What is wrong with the rows. start: what the first is linked to. watch: the row that a head names.

        rotated: a start that is not the beginning must be named by a row about that rotation. apart: rows are a choice,
        so that gaps between them are no fault.
        """
        report = self._report
        report.apart = apart
        before = start
        for row in source():
            if apart and isinstance(row, Linked):  # elsewhere a row has no say in what is before it
                before = Start(row.seq - 1, row.before)
            self._take(row, before, gaps=not apart)
            before = Start(row.seq, row.hash)
            if row.seq == watch:
                self._watched = row.hash
        report.last, report.hash = before
        self._judge(source, start, rotated)
        if rotated and start.seq and not self._is_rotated(start):
            self._find(
                start.seq,
                "start",
                "",
                f"the log begins after row {start.seq}, and no row says that this was by rotation: "
                f"the rows up to {start.seq} may have been deleted",
            )
        self._judge_keys()
        self._judge_anchors(start)
        report.open = sorted(self._open.values())[:MOST_OPEN]
        report.findings.sort(key=_by_seq)
        return report

    def judge_head(self, before: AuditHead, after: AuditHead) -> None:
        """Compare the rows that were gone through with the head, as it was read before them and after them."""
        report = self._report
        if before == NO_HEAD:
            self._find(0, "head", "", "the head of the chain is gone: whoever took it kept the log from being written")
            report.findings.sort(key=_by_seq)
            return
        newest = report.last if report.rows else before.start_seq
        if newest < before.seq:
            gone = f"row {before.seq}" if newest + 1 == before.seq else f"rows {newest + 1} to {before.seq}"
            said = f"{gone} missing at the end: the head says that so many were written"
            self._find(newest + 1, "truncated", "", said)
        elif (self._watched if report.rows else before.start_hash) != before.hash:
            self._find(before.seq, "head", "", f"the head's hash is not that of row {before.seq}")
        if newest > after.seq:
            said = f"the log goes on to row {newest}, and the head says that it ends at {after.seq}"
            self._find(newest, "head", "", said)
        report.findings.sort(key=_by_seq)

    def judge_file(self, name: str, start: Start, end: Start, *, complete: bool) -> None:
        """Compare what a file says of its ends with what is in it, and with what its rotation says."""
        if not complete:
            said = f"{name} ends without the line that says so: its end was cut off, or lines of it were changed"
            self._find(end.seq, "truncated", "", said)
        firsts = self._firsts.get(end.seq)
        if firsts and start.seq + 1 not in firsts:
            said = f"{name} begins with row {start.seq + 1}, and its rotation put those from {min(firsts)} on into it"
            self._find(start.seq, "start", "", f"{said}: they were cut off")
        self._report.findings.sort(key=_by_seq)

    # -- one row ------------------------------------------------------------------------------------------------------

    def _take(self, row: Row, before: Start, *, gaps: bool) -> None:
        report = self._report
        about = said_by(row.body)
        report.rows += 1
        report.first = report.first or row.seq
        key = self._key_of(row, about)
        if gaps and row.seq > before.seq + 1:
            self._missing(before.seq + 1, row.seq - 1)
            self._suspects.after_gap(row)
        elif gaps and row.seq <= before.seq:
            self._find(row.seq, "moved", call_of(about), f"row {row.seq} comes after row {before.seq}")
        elif key is not None:
            shift = self._suspects.look_at(row, before.hash, key)
            if shift:
                self._shifted(row, shift)
        anchor = self._anchors.pop(row.seq, None)
        if anchor == row.hash:
            self._vouched = row.seq
        elif anchor is not None:
            said = f"row {row.seq} is not the one that the anchor names: the log was rewritten up to there"
            self._find(row.seq, "anchor", call_of(about), said)
        self._note(row, about)

    def _key_of(self, row: Row, about: Mapping[str, Any]) -> bytes | None:
        """The key that a row says it is linked with; None where that is not known."""
        name = about.get("k", "")
        name = name if isinstance(name, str) else ""
        if not about:  # whatever it was, it is no row any more: the key that was in use here will show that
            name = next(reversed(self._report.keys), "")
        elif name:
            self._seen_key = True
            self._report.keys[name] = self._report.keys.pop(name, 0) + 1
        else:
            self._report.unkeyed += 1
            if not self._seen_key:
                self._unkeyed_until = row.seq
            if self._keyed and self._seen_key and len(self._unkeyed_after) < MOST_FINDINGS:
                self._unkeyed_after.append((row.seq, call_of(about)))
        if name not in self._keys:
            self._foreign.setdefault(name, (row.seq, call_of(about)))
            return None
        return self._keys[name]

    def _note(self, row: Row, about: Mapping[str, Any]) -> None:
        kind, call = about.get("kind"), call_of(about)
        if kind == "start":
            self._open[call] = Open(row.seq, call, str(about.get("tool", "")), str(about.get("at", "")))
        elif kind == "finish":
            self._open.pop(call, None)
        data = about.get("data")
        if isinstance(data, Mapping):
            if kind == "lost" and isinstance(data.get("rows"), int):
                self._report.lost += data["rows"]
            elif kind == "rotated" and isinstance(data.get("through"), int):
                self._rotations[data["through"]] = str(data.get("hash"))
                if isinstance(data.get("rows"), int):
                    self._firsts.setdefault(data["through"], set()).add(data["through"] - data["rows"] + 1)

    # -- what is said of it -------------------------------------------------------------------------------------------

    def _find(self, seq: int, what: str, call: str, said: str) -> None:
        if len(self._report.findings) < MOST_FINDINGS:
            self._report.findings.append(Finding(seq, what, call, said))
        else:
            self._report.further += 1

    def _missing(self, first: int, last: int) -> None:
        gone = f"row {first} is missing" if first == last else f"rows {first} to {last} are missing"
        self._find(first, "missing", "", f"{gone}: deleted; what row {last + 1} was linked to can not be checked")

    def _shifted(self, row: Row, shift: int) -> None:
        if shift < 0:
            seq, rows = row.seq - 1, f"{-shift} row{'s' if shift < -1 else ''}"
            said = f"{rows} before row {seq} were deleted, and those from there on moved down by {-shift}"
            self._find(seq, "missing", "", said)

    def _judge(self, source: Source, start: Start, rotated: bool) -> None:
        suspects = self._suspects
        rotation = self._rotations.get(start.seq) if rotated else None
        if rotation is not None and rotation != start.hash.hex():
            suspects.clear_first(start.seq + 1, bytes.fromhex(rotation))
        if suspects.found:
            wanted = {suspect.row.hash for suspect in suspects.found}
            copies: dict[bytes, list[int]] = {}
            for row in source():
                if row.hash in wanted:
                    copies.setdefault(row.hash, []).append(row.seq)
            for suspect, what, said in suspects.judged(copies):
                self._find(suspect.row.seq, what, call_of(said_by(suspect.row.body)), said)
        self._report.further += suspects.further

    def _is_rotated(self, start: Start) -> bool:
        """Whether a row says that the rows up to start go: all that it speaks of have gone, or some of them so far."""
        if start.seq in self._rotations:
            return self._rotations[start.seq] == start.hash.hex()
        return any(through > start.seq for through in self._rotations)

    def _judge_keys(self) -> None:
        for seq, call in self._unkeyed_after:
            said = f"row {seq} is written without a key, after rows with one: anybody could have written it"
            self._find(seq, "unkeyed", call, said)
        last = self._unkeyed_until
        if self._keyed and last > self._vouched:
            first = self._report.first
            rows = f"row {first} is" if first == last else f"rows {first} to {last} are"
            said = (
                f"{rows} written without a key, so that anybody could have written them; "
                "where secret_key was set later, give an anchor of that time"
            )
            self._find(first, "unkeyed", "", said)
        for name, (seq, call) in self._foreign.items():
            count = self._report.keys.get(name, 0)
            said = (
                f"{count} rows from row {seq} on are written with a key ({name}) that is not known: "
                "name it in secret_key or secret_key_previous, else they are another's"
            )
            self._find(seq, "unknown key", call, said)

    def _judge_anchors(self, start: Start) -> None:
        for seq, digest in self._anchors.items():
            if seq == start.seq and digest == start.hash:
                continue
            if seq <= start.seq:
                said = f"the anchor names row {seq}, which is in a file of an earlier rotation: verify that file too"
            else:
                said = f"the log ends at row {self._report.last}, and the anchor names row {seq}: its end was cut off"
            self._find(seq, "truncated" if seq > start.seq else "anchor", "", said)


def _by_seq(finding: Finding) -> int:
    return finding.seq


def said_by(body: bytes) -> Mapping[str, Any]:
    """What a row says; nothing where it is no JSON object any more."""
    try:
        about = orjson.loads(body)
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}


def call_of(about: Mapping[str, Any]) -> str:
    """The id of the call that a row is about."""
    return str(about.get("call", ""))
