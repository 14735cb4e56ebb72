"""What operators do with the audit log: verify it, look at it, export it, put old rows into files."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, TypeVar

from toolpost.calls.clock import Clock
from toolpost.calls.errors import ConfigurationError, StoreUnavailableError
from toolpost.stores import Answer, AuditHead, AuditRow, Pending, Records
from toolpost.stores.documents import GENESIS
from toolpost.telemetry.audit import AuditLog
from toolpost.telemetry.audit_files import Format, contents_of, new_file, rows_in, write_jsonl, write_rows
from toolpost.telemetry.audit_keys import AuditKey
from toolpost.telemetry.audit_verify import Anchor, Finding, Linked, Report, Row, Start, Verifier, said_by

T = TypeVar("T")

PATIENCE_S: Final = 30.0
PAGE: Final = 1000
TAKEN_AT_ONCE: Final = 5000
"""Rows that rotation takes away with one statement."""


class Only(NamedTuple):
    """Which rows are wanted: what each of these is, and from when (included) to when (not)."""

    user: str | None = None
    tool: str | None = None
    tenant: str | None = None
    call: str | None = None
    kind: str | None = None
    since: str | None = None
    until: str | None = None

    @property
    def all(self) -> bool:
        """Whether every row is wanted."""
        return self == _EVERY

    def wants(self, about: Mapping[str, Any]) -> bool:
        """Whether a row is wanted. Times are text of one form, which sorts as they do."""
        at = str(about.get("at", ""))
        return (
            all(
                wanted is None or about.get(name) == wanted
                for name, wanted in zip(("user", "tool", "tenant", "call", "kind"), self[:5], strict=True)
            )
            and (self.since is None or at >= self.since)
            and (self.until is None or at < self.until)
        )


_EVERY: Final = Only()


class Rotated(NamedTuple):
    """What a rotation did: rows first to last are in a file of that SHA-256, and no longer in the store."""

    rows: int
    first: int
    last: int
    sha256: str


class AuditOperations:
    """The audit log in one store of Records. Every method blocks, and raises StoreUnavailableError when the store gives
    no answer. keys are those of secret_key and of earlier ones, by their ids in the rows; key is the newest of them.
    log is the one that this process writes, if it writes one."""

    def __init__(
        self, records: Records, key: AuditKey, keys: Mapping[str, bytes], clock: Clock, log: AuditLog | None = None
    ) -> None:
        self._records, self._key, self._keys, self._clock, self._log = records, key, keys, clock, log

    # -- is it as it was written? -------------------------------------------------------------------------------------

    def verify(self, anchors: Sequence[Anchor] = (), files: Sequence[Path] = ()) -> Report:
        """What is wrong with the log; files are those of its rotations, which come before it, oldest first."""
        self._flush()
        for _ in range(3):
            before = self._had(self._records.audit_head())
            report = self._verified(before, anchors, files)
            if report.ok or self._had(self._records.audit_head()).start_seq == before.start_seq:
                break
        return report

    def _verified(self, before: AuditHead, anchors: Sequence[Anchor], files: Sequence[Path]) -> Report:
        def source() -> Iterator[Row]:
            for path in files:
                yield from rows_in(path)
            yield from self.rows()

        start = Start(before.start_seq, before.start_hash or GENESIS)
        oldest = self._had(self._records.audit_rows(0, 1))
        moved = bool(oldest) and oldest[0].seq <= start.seq
        if moved and not files:
            start = Start()
        contents = [contents_of(path) for path in files]
        verifier = Verifier(self._keys, anchors)
        report = verifier.verify(
            source,
            contents[0].start if contents else start,
            watch=before.seq,
            rotated=self._records.durable and not files,
        )
        verifier.judge_head(before, self._had(self._records.audit_head()))
        if moved:
            said = f"the head says that the rows up to {before.start_seq} were rotated, and they are there"
            report.findings.append(Finding(before.start_seq, "head", "", said))
        for path, one in zip(files, contents, strict=True):
            verifier.judge_file(str(path), one.start, one.end, complete=one.complete)
        return report

    # -- to be looked at ----------------------------------------------------------------------------------------------

    def rows(self, after: int = 0) -> Iterator[AuditRow]:
        """All rows above after, as they are in the store."""
        while page := self._had(self._records.audit_rows(after, PAGE)):
            yield from page
            after = page[-1].seq

    @staticmethod
    def told(row: AuditRow) -> dict[str, Any]:
        """What a row says, with its number and its hash."""
        return {**said_by(row.body), "seq": row.seq, "hash": row.hash.hex()}

    def since(self, after: int, only: Only = _EVERY) -> tuple[list[AuditRow], int]:
        """The rows above after that are wanted, a page of them at most, and how far was looked."""
        page = self._had(self._records.audit_rows(after, PAGE))
        return [row for row in page if only.wants(said_by(row.body))], page[-1].seq if page else after

    def newest(self, count: int, only: Only = _EVERY) -> list[AuditRow]:
        """The newest rows that are wanted, oldest first. It looks through the last 100,000 rows."""
        self._flush()
        found: list[AuditRow] = []
        head = self._had(self._records.audit_head())
        upper = head.seq
        for _ in range(100):
            if len(found) >= count or upper <= head.start_seq:
                break
            after = max(head.start_seq, upper - PAGE)
            page = self._had(self._records.audit_rows(after, upper - after))
            found = [row for row in page if row.seq <= upper and only.wants(said_by(row.body))] + found
            upper = after
        return found[len(found) - count :] if count < len(found) else found

    def export(self, file: IO[bytes], format: Format, only: Only = _EVERY) -> int:
        """Write rows into an open file; how many. JSON lines of a choice of rows say of each what it is linked to."""
        self._flush()
        head = self._had(self._records.audit_head())
        start = Start(head.start_seq, head.start_hash)
        rows = self.rows() if only.all else self._chosen(start, only)
        return write_rows(file, format, start, rows, apart=not only.all)

    def export_to(self, path: Path, format: Format, only: Only = _EVERY) -> int:
        """Write rows into a new file, which only its owner may read and is removed if that fails; or a pipe, a device.

        Raises OSError, FileExistsError where there is a file.
        """
        special = path.exists() and not path.is_file()
        with path.open("wb") if special else new_file(path) as file:
            return self.export(file, format, only)

    def _chosen(self, start: Start, only: Only) -> Iterator[Linked]:
        before = start.hash
        for row in self.rows():
            if only.wants(said_by(row.body)):
                yield Linked(*row, before)
            before = row.hash

    # -- rotation -----------------------------------------------------------------------------------------------------

    def rotate(
        self, to: Path, *, before: str | None = None, keep: int | None = None, anchors: Sequence[Anchor] = ()
    ) -> Rotated:
        """Put the oldest rows into a new file of JSON lines, then take them out of the store.

        before: all rows until the first that is not older than this time. keep: all but so many. The log is verified
        first, the file is synced and read back before a row goes, and a row about it is written beforehand.
        Raises ConfigurationError, nothing done, where the log is not as it was written.
        """
        report = self.verify(anchors)
        if not report.ok:
            raise ConfigurationError(
                f"the audit log is not as it was written, so nothing is rotated: {report.findings[0].said}; "
                "`toolpost audit verify` shows all"
            )
        head = self._had(self._records.audit_head())
        start = Start(head.start_seq, head.start_hash)
        last = self._last(before, keep, head.seq)
        if last <= head.start_seq:
            return Rotated(0, 0, 0, "")
        contents = write_jsonl(to, start, itertools.takewhile(lambda row: row.seq <= last, self.rows()))
        digest = _sha256(to)
        self._note(contents.end, contents.rows, to, digest)
        for through in itertools.chain(range(start.seq + TAKEN_AT_ONCE, last, TAKEN_AT_ONCE), [last]):
            self._had(self._records.rotate_audit(through))
        return Rotated(contents.rows, start.seq + 1, last, digest)

    def _last(self, before: str | None, keep: int | None, newest: int) -> int:
        """The seq of the last row that goes."""
        if keep is not None:
            return newest - keep
        last = 0
        for row in self.rows():
            if str(said_by(row.body).get("at", "")) >= (before or ""):
                break
            last = row.seq
        return last

    def _note(self, end: Start, rows: int, to: Path, digest: str) -> None:
        """Write that rows go, where the chain holds it: a beginning that no row speaks of is one that was made."""
        log = self._log if self._log is not None else AuditLog(self._records, key=self._key, clock=self._clock)
        about = {"through": end.seq, "hash": end.hash.hex(), "rows": rows, "file": to.name, "sha256": digest}
        log.note("rotated", **about)
        done = log.flush()
        if log is not self._log:
            log.close()
        if not done:
            raise StoreUnavailableError(
                f"the rotation could not be noted in the log, so no row was taken: {log.problem}"
            )

    # -- inside -------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if self._log is not None:
            self._log.flush()

    def _had(self, answer: Answer[T]) -> T:
        return answer.wait(self._clock, PATIENCE_S) if isinstance(answer, Pending) else answer


def verify_files(files: Sequence[Path], keys: Mapping[str, bytes], anchors: Sequence[Anchor] = ()) -> Report:
    """What is wrong with files of JSON lines, which follow one upon the other."""
    contents = [contents_of(path) for path in files]
    if len(files) > 1 and any(one.apart for one in contents):
        raise ConfigurationError("a file with a choice of rows is verified by itself; name one file at a time")

    def source() -> Iterator[Row]:
        for path in files:
            yield from rows_in(path)

    verifier = Verifier(keys, anchors)
    report = verifier.verify(source, contents[0].start, rotated=False, apart=contents[0].apart)
    for path, one in zip(files, contents, strict=True):
        verifier.judge_file(str(path), one.start, one.end, complete=one.complete)
    return report


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def time_of(text: str) -> str:
    """A time as rows write it, of one that a person wrote: 2026-11-26, 2026-11-26T20:15, with or without a zone (UTC).

    Raises ConfigurationError.
    """
    try:
        at = datetime.fromisoformat(text.strip())
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ConfigurationError(f"{text!r} is no time; write 2026-11-26 or 2026-11-26T20:15:00Z") from None
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def anchor_of(text: str) -> Anchor:
    """SEQ:HASH as verify and the program's log give it. Raises ConfigurationError."""
    seq, colon, digest = text.strip().partition(":")
    try:
        if not colon or len(digest) != 64:
            raise ValueError
        return Anchor(int(seq), bytes.fromhex(digest))
    except ValueError:
        raise ConfigurationError(
            f"{text[:80]!r} is no anchor; write SEQ:HASH, as `toolpost audit verify` prints it"
        ) from None
