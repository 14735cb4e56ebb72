"""Whatever is done to a log of 10,000 rows behind its back is found and named: on SQLite and on PostgreSQL."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from toolpost.calls.call import Caller
from toolpost.calls.clock import SYSTEM_CLOCK
from toolpost.calls.events import CallFinished
from toolpost.engine.audit_operations import AuditOperations
from toolpost.stores import AuditRow, Records, open_records
from toolpost.stores.documents import GENESIS, link
from toolpost.stores.memory_records import MemoryRecords
from toolpost.telemetry.audit import AuditLog
from toolpost.telemetry.audit_keys import audit_key, chain_keys
from toolpost.telemetry.audit_rows import Face
from toolpost.telemetry.audit_verify import Anchor, Report

SECRET = "a secret_key that only the application has"
KEY = audit_key(SECRET)
FACE = Face("Shop.Order", "1.0.0", "sha256:0")
ROWS = 10_000
MIDDLE = 5000


@cache
def written(secret: str | None, rows: int = ROWS, prefix: str = "call") -> list[AuditRow]:
    """The rows of a log of calls."""
    records = MemoryRecords(max_finished=rows + 10)
    log = AuditLog(records, key=audit_key(secret))
    for number in range((rows - 1) // 2 + 1):
        call = f"{prefix}-{number}"
        log.begin(FACE, call, Caller(user_id="ann"), None, {"order": number})
        log.observe(CallFinished(call_id=call, tool=FACE.tool, version="1.0.0", status="ok", elapsed_s=0.1, attempts=1))
        if log.waiting > 5000:
            log.flush(30)
    assert log.flush(30)
    return records.audit_rows(0, rows)


@pytest.fixture(scope="module")
def rows() -> list[AuditRow]:
    """The log as it was written: row 1 opens it, then each call has a start and a finish."""
    return written(SECRET)


class Log:
    """A log in a database, and whoever can change everything there but does not know the key."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.records: Records = open_records(url)
        self.records.migrate()
        self._kept: psycopg.Connection[Any] | None = None

    def execute(self, *statements: str, rows: list[tuple[Any, ...]] = []) -> list[Any]:  # noqa: B006
        """Do statements; the last with rows for its values, where there are some."""
        mark = "?" if self.url.startswith("sqlite") else "%s"
        with self._connected() as connection:
            for statement in statements[:-1]:
                connection.execute(statement)
            last = statements[-1].replace("?", mark)
            if rows:
                connection.execute("begin")
                connection.cursor().executemany(last, rows)
                connection.execute("commit")
                return []
            cursor = connection.execute(last)
            return cursor.fetchall() if cursor.description else []

    def _connected(self) -> AbstractContextManager[Any]:
        if self.url.startswith("sqlite"):
            return closing(sqlite3.connect(self.url.removeprefix("sqlite:///"), isolation_level=None))
        if self._kept is None:  # one for all edits, and none of them waits for the disk
            self._kept = psycopg.connect(self.url, autocommit=True)
            self._kept.execute("set synchronous_commit = off")
        return nullcontext(self._kept)

    def close(self) -> None:
        self.records.close()
        if self._kept is not None:
            self._kept.close()

    def fill(self, rows: list[AuditRow], start: tuple[int, bytes] = (0, GENESIS)) -> None:
        """Make the log these rows, triggers dropped."""
        names = ["kept", "stays", "head_grows", "head_stays"]
        if not self.url.startswith("sqlite"):
            names.append("head_stands")
        for name in names:
            on = ""
            if not self.url.startswith("sqlite"):
                on = f" on toolpost_audit{'_head' if name.startswith('head') else ''}"
            self.execute(f"drop trigger if exists toolpost_audit_{name}{on}")
        self.execute("delete from toolpost_audit")
        self.execute("insert into toolpost_audit (seq, body, hash) values (?, ?, ?)", rows=list(rows))
        head = (rows[-1].seq, rows[-1].hash, *start)
        self.execute("update toolpost_audit_head set seq = ?, hash = ?, start_seq = ?, start_hash = ?", rows=[head])

    def put(self, *rows: AuditRow) -> None:
        """Write rows over what is there."""
        self.execute(
            "update toolpost_audit set body = ?, hash = ? where seq = ?",
            rows=[(row.body, row.hash, row.seq) for row in rows],
        )

    def add(self, *rows: AuditRow) -> None:
        self.execute("insert into toolpost_audit (seq, body, hash) values (?, ?, ?)", rows=list(rows))

    def delete(self, first: int, last: int) -> None:
        self.execute(f"delete from toolpost_audit where seq between {first} and {last}")

    def shift(self, first: int, by: int) -> None:
        """Renumber the rows from first on, and have the head fit."""
        self.execute(
            f"update toolpost_audit set seq = -(seq + {by}) where seq >= {first}",
            "update toolpost_audit set seq = -seq where seq < 0",
            f"update toolpost_audit_head set seq = seq + {by}",
        )

    def head(self, **columns: Any) -> None:
        sets = ", ".join(f"{name} = ?" for name in columns)
        self.execute(f"update toolpost_audit_head set {sets}", rows=[tuple(columns.values())])

    def verify(self, *anchors: Anchor, secrets: tuple[str, ...] = (SECRET,)) -> Report:
        return AuditOperations(self.records, KEY, chain_keys(secrets), SYSTEM_CLOCK).verify(anchors)

    def found(self, *anchors: Anchor) -> list[tuple[str, int]]:
        """What is wrong, and where."""
        report = self.verify(*anchors)
        assert report.ok == (not report.findings)
        return [(finding.what, finding.seq) for finding in report.findings]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, rows: list[AuditRow]) -> Path:
    """A file with the log, to be copied."""
    path = tmp_path_factory.mktemp("log") / "log.db"
    log = Log(f"sqlite:///{path}")
    log.fill(rows)
    log.records.close()
    return path


class Edit(NamedTuple):
    """Something done to the log, and all that is to be found then."""

    do: Callable[[Log, list[AuditRow]], object]
    found: list[tuple[str, int]]


def changed(row: AuditRow) -> AuditRow:
    """A row that says another user."""
    assert b'"kind":"start"' in row.body or b'"status":"ok"' in row.body
    body = row.body.replace(b'"user":"ann"', b'"user":"bob"').replace(b'"status":"ok"', b'"status":"failed"')
    return row._replace(body=body)


def rechained(rows: list[AuditRow], first: int, key: bytes) -> list[AuditRow]:
    """The rows from first on, linked anew."""
    before = rows[first - 2].hash if first > 1 else GENESIS
    made = []
    for row in rows[first - 1 :]:
        before = link(before, row.seq, row.body, key)
        made.append(AuditRow(row.seq, row.body, before))
    return made


def flipped(row: AuditRow) -> AuditRow:
    return row._replace(hash=bytes([row.hash[0] ^ 1]) + row.hash[1:])


def exchanged(log: Log, rows: list[AuditRow], one: int, two: int) -> None:
    a, b = rows[one - 1], rows[two - 1]
    log.put(b._replace(seq=a.seq), a._replace(seq=b.seq))


def forged(rows: list[AuditRow], seq: int, call: int = 0) -> AuditRow:
    """A row of an attacker's own making, linked as well as can be without the key."""
    body = (
        rows[9].body.replace(b'"user":"ann"', b'"user":"mallory"').replace(b'"call":"call-4"', b'"call":"x%d"' % call)
    )
    return AuditRow(seq, body, link(rows[seq - 2].hash, seq, body))


def inserted(log: Log, rows: list[AuditRow], seq: int, *new: AuditRow) -> None:
    log.shift(seq, len(new))
    log.add(*new)


def taken(log: Log, first: int, last: int) -> None:
    log.delete(first, last)
    log.shift(last + 1, first - last - 1)


def cut(log: Log, rows: list[AuditRow], last: int) -> None:
    log.delete(last + 1, ROWS)
    log.head(seq=last, hash=rows[last - 1].hash)


def run_of(rows: list[AuditRow], first: int, count: int) -> list[AuditRow]:
    return [forged(rows, first, index)._replace(seq=first + index) for index in range(count)]


EDITS: dict[str, Edit] = {
    "nothing": Edit(lambda log, rows: None, []),
    "body": Edit(lambda log, rows: log.put(changed(rows[MIDDLE - 1])), [("altered", MIDDLE)]),
    "body of the second row": Edit(lambda log, rows: log.put(changed(rows[1])), [("altered", 2)]),
    "body of the last row": Edit(lambda log, rows: log.put(changed(rows[-1])), [("altered", ROWS)]),
    "body is no JSON": Edit(lambda log, rows: log.put(rows[MIDDLE - 1]._replace(body=b"\xff")), [("altered", MIDDLE)]),
    "body is empty": Edit(lambda log, rows: log.put(rows[MIDDLE - 1]._replace(body=b"")), [("altered", MIDDLE)]),
    "two bodies side by side": Edit(
        lambda log, rows: log.put(changed(rows[MIDDLE - 1]), changed(rows[MIDDLE])),
        [("altered", MIDDLE), ("altered", MIDDLE + 1)],
    ),
    "two bodies far apart": Edit(
        lambda log, rows: log.put(changed(rows[99]), changed(rows[8999])), [("altered", 100), ("altered", 9000)]
    ),
    "hash": Edit(lambda log, rows: log.put(flipped(rows[MIDDLE - 1])), [("hash", MIDDLE)]),
    "hash of the first row": Edit(lambda log, rows: log.put(flipped(rows[0])), [("hash", 1)]),
    "hash of the last row": Edit(lambda log, rows: log.put(flipped(rows[-1])), [("altered", ROWS), ("head", ROWS)]),
    "delete the first": Edit(lambda log, rows: log.delete(1, 1), [("missing", 1)]),
    "delete one": Edit(lambda log, rows: log.delete(MIDDLE, MIDDLE), [("missing", MIDDLE)]),
    "delete a run": Edit(lambda log, rows: log.delete(4000, 4099), [("missing", 4000)]),
    "delete the last": Edit(lambda log, rows: log.delete(ROWS, ROWS), [("truncated", ROWS)]),
    "delete the end": Edit(lambda log, rows: log.delete(9001, ROWS), [("truncated", 9001)]),
    "delete all": Edit(lambda log, rows: log.delete(1, ROWS), [("truncated", 1)]),
    "delete one and close the gap": Edit(lambda log, rows: taken(log, MIDDLE, MIDDLE), [("missing", MIDDLE)]),
    "delete a run and close the gap": Edit(lambda log, rows: taken(log, 4000, 4099), [("missing", 4000)]),
    "insert one": Edit(lambda log, rows: inserted(log, rows, MIDDLE, forged(rows, MIDDLE)), [("inserted", MIDDLE)]),
    "insert three": Edit(
        lambda log, rows: inserted(log, rows, MIDDLE, *run_of(rows, MIDDLE, 3)),
        [("inserted", MIDDLE), ("inserted", MIDDLE + 1), ("inserted", MIDDLE + 2)],
    ),
    "insert at the end": Edit(
        lambda log, rows: log.add(forged(rows, ROWS + 1)), [("altered", ROWS + 1), ("head", ROWS + 1)]
    ),
    "insert a copy": Edit(
        lambda log, rows: inserted(log, rows, MIDDLE, rows[99]._replace(seq=MIDDLE)), [("duplicate", MIDDLE)]
    ),
    "copy to the end": Edit(
        lambda log, rows: (log.add(rows[99]._replace(seq=ROWS + 1)), log.head(seq=ROWS + 1, hash=rows[99].hash)),
        [("duplicate", ROWS + 1)],
    ),
    "copy over another": Edit(
        lambda log, rows: log.put(rows[99]._replace(seq=MIDDLE)), [("duplicate", MIDDLE), ("altered", MIDDLE + 1)]
    ),
    "swap far apart": Edit(lambda log, rows: exchanged(log, rows, 3000, 7000), [("moved", 3000), ("moved", 7000)]),
    "swap neighbours": Edit(
        lambda log, rows: exchanged(log, rows, MIDDLE, MIDDLE + 1), [("moved", MIDDLE), ("moved", MIDDLE + 1)]
    ),
    "head: later": Edit(lambda log, rows: log.head(seq=ROWS + 5), [("truncated", ROWS + 1)]),
    "head: earlier": Edit(lambda log, rows: log.head(seq=ROWS - 5, hash=rows[ROWS - 6].hash), [("head", ROWS)]),
    "head: hash": Edit(lambda log, rows: log.head(hash=GENESIS), [("head", ROWS)]),
    "head: start": Edit(lambda log, rows: log.head(start_seq=10, start_hash=rows[9].hash), [("head", 10)]),
    "head: gone": Edit(lambda log, rows: log.execute("delete from toolpost_audit_head"), [("head", 0)]),
    "delete the first ten and say that they were rotated": Edit(
        lambda log, rows: (log.delete(1, 10), log.head(start_seq=10, start_hash=rows[9].hash)), [("start", 10)]
    ),
    "another log's rows, of the same key": Edit(
        lambda log, rows: log.put(*written(SECRET, 4200, "other")[3999:4099]), [("altered", 4000), ("altered", 4100)]
    ),
    "another log's rows, of another key": Edit(
        lambda log, rows: log.put(*written("another secret", 4200, "other")[3999:4099]),
        [("unknown key", 4000), ("altered", 4100)],
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_on_sqlite_what_was_done_is_found_and_named(
    pristine: Path, tmp_path: Path, rows: list[AuditRow], name: str
) -> None:
    shutil.copy(pristine, tmp_path / "log.db")
    log = Log(f"sqlite:///{tmp_path}/log.db")
    edit = EDITS[name]

    edit.do(log, rows)

    assert log.found() == edit.found
    log.records.close()


@pytest.fixture
def postgres_log(postgres_url: str, rows: list[AuditRow]) -> Iterator[Log]:
    """A log beside a copy of it. Neither is in the server's own log, which the disk would have to keep up with."""
    log = Log(postgres_url)
    log.execute("alter table toolpost_audit set unlogged")
    log.fill(rows)
    log.execute("create unlogged table as_it_was as select * from toolpost_audit")
    yield log
    log.close()


def mend(log: Log) -> None:
    """Put back what was edited: rows that differ from the copy go, and those that are not there come."""
    log.execute(
        "delete from toolpost_audit where (seq, body, hash) not in (select seq, body, hash from as_it_was)",
        "insert into toolpost_audit select * from as_it_was on conflict do nothing",
        "delete from toolpost_audit_head",
        "insert into toolpost_audit_head select 1, seq, hash, 0, decode(repeat('00', 32), 'hex') from as_it_was "
        "order by seq desc limit 1",
    )


@pytest.mark.timeout(120)
def test_on_postgres_what_was_done_is_found_and_named(postgres_log: Log, rows: list[AuditRow]) -> None:
    found = {}
    for name, edit in EDITS.items():
        edit.do(postgres_log, rows)

        found[name] = postgres_log.found()

        mend(postgres_log)
    assert found == {name: edit.found for name, edit in EDITS.items()}


@pytest.fixture
def log(pristine: Path, tmp_path: Path) -> Iterator[Log]:
    shutil.copy(pristine, tmp_path / "log.db")
    log = Log(f"sqlite:///{tmp_path}/log.db")
    yield log
    log.records.close()


def test_a_finding_names_the_call(log: Log, rows: list[AuditRow]) -> None:
    log.put(changed(rows[MIDDLE - 1]))

    [finding] = log.verify().findings

    assert (finding.seq, finding.call) == (MIDDLE, "call-2499")
    assert "row 5000 was altered" in finding.said


def test_an_end_that_was_cut_off_with_the_head_is_found_by_an_anchor(log: Log, rows: list[AuditRow]) -> None:
    cut(log, rows, 9000)
    kept = [Anchor(seq, rows[seq - 1].hash) for seq in (1000, 9000, 9500)]

    assert log.found() == []
    assert log.found(*kept[:2]) == []
    assert log.found(*kept) == [("truncated", 9500)]


def test_a_log_that_was_replaced_whole_is_found_by_an_anchor(log: Log, rows: list[AuditRow]) -> None:
    log.fill(written(SECRET, ROWS, "other"))

    assert log.found() == []
    assert log.found(Anchor(1000, rows[999].hash)) == [("anchor", 1000)]


def test_a_log_that_was_linked_anew_without_the_key_does_not_pass(log: Log, rows: list[AuditRow]) -> None:
    log.put(*rechained(rows, 1, b""))
    log.head(hash=rechained(rows, 1, b"")[-1].hash)
    report = log.verify()

    assert (report.findings[0].seq, report.findings[0].what) == (1, "altered")
    assert len(report.findings) + report.further == ROWS


def test_a_log_that_was_linked_anew_from_a_change_on_does_not_pass(log: Log, rows: list[AuditRow]) -> None:
    edited = [*rows[: MIDDLE - 1], changed(rows[MIDDLE - 1]), *rows[MIDDLE:]]
    made = rechained(edited, MIDDLE, b"a guess")
    log.put(*made)
    log.head(hash=made[-1].hash)
    report = log.verify()

    assert (report.findings[0].seq, report.findings[0].what) == (MIDDLE, "altered")
    assert len(report.findings) + report.further == ROWS - MIDDLE + 1


def test_rows_that_say_they_have_no_key_do_not_pass_after_rows_with_one(log: Log, rows: list[AuditRow]) -> None:
    plain = [row._replace(body=row.body.replace(b',"k":"%s"' % KEY.id.encode(), b"")) for row in rows]
    made = rechained([*rows[:9990], *plain[9990:]], 9991, b"")
    log.put(*made)
    log.head(hash=made[-1].hash)

    assert log.found() == [("unkeyed", seq) for seq in range(9991, ROWS + 1)]


def test_a_log_without_any_key_does_not_pass_where_there_is_one(log: Log, rows: list[AuditRow]) -> None:
    made = rechained([row._replace(body=row.body.replace(b',"k":"%s"' % KEY.id.encode(), b"")) for row in rows], 1, b"")
    log.put(*made)
    log.head(hash=made[-1].hash)

    assert log.found() == [("unkeyed", 1)]
    assert log.verify(secrets=()).ok


def test_a_past_that_was_rewritten_without_a_key_does_not_pass_though_rows_with_one_came_after(
    log: Log, rows: list[AuditRow]
) -> None:
    made = rechained([row._replace(body=row.body.replace(b',"k":"%s"' % KEY.id.encode(), b"")) for row in rows], 1, b"")
    log.put(*made)
    log.head(hash=made[-1].hash)
    with closing(AuditLog(log.records, key=KEY)) as goes_on:
        goes_on.note("later")

    assert log.found() == [("unkeyed", 1)]
    assert log.found(Anchor(ROWS, rows[-1].hash)) == [("unkeyed", 1), ("anchor", ROWS)]


def test_rows_from_before_there_was_a_key_pass_with_an_anchor_of_that_time(log: Log) -> None:
    plain = written(None)
    log.fill(plain)
    with closing(AuditLog(log.records, key=KEY)) as goes_on:
        goes_on.note("later")

    assert log.found() == [("unkeyed", 1)]
    assert log.found(Anchor(ROWS - 1, plain[-2].hash)) == [("unkeyed", 1)]
    assert log.found(Anchor(ROWS, plain[-1].hash)) == []


def test_the_process_that_writes_says_so_where_the_end_was_cut_off(
    log: Log, rows: list[AuditRow], caplog: pytest.LogCaptureFixture
) -> None:
    with closing(AuditLog(log.records, key=KEY)) as goes_on:
        goes_on.note("one")
        goes_on.flush()
        log.delete(ROWS - 9, ROWS + 2)
        log.head(seq=ROWS - 10, hash=rows[ROWS - 11].hash)
        goes_on.note("two")
        goes_on.flush()

    assert f"rows of the audit log were cut off: it had row {ROWS + 2} with hash" in caplog.text
    assert log.found() == []


def test_without_a_key_only_careless_edits_are_found(log: Log) -> None:
    plain = written(None)
    log.fill(plain)
    assert log.verify(secrets=()).unkeyed == ROWS
    log.put(changed(plain[MIDDLE - 1]))

    [finding] = log.verify(secrets=()).findings

    assert (finding.what, finding.seq) == ("altered", MIDDLE)


def test_rows_of_an_earlier_key_are_verified_with_it_and_named_without(log: Log, rows: list[AuditRow]) -> None:
    newer = audit_key("the next secret_key")
    body = rows[-1].body.replace(KEY.id.encode(), newer.id.encode())
    log.add(AuditRow(ROWS + 1, body, link(rows[-1].hash, ROWS + 1, body, newer.chain)))
    log.head(seq=ROWS + 1, hash=link(rows[-1].hash, ROWS + 1, body, newer.chain))

    both = log.verify(secrets=("the next secret_key", SECRET))
    newest = log.verify(secrets=("the next secret_key",))

    assert (both.ok, both.keys) == (True, {KEY.id: ROWS, newer.id: 1})
    assert [(finding.what, finding.seq) for finding in newest.findings] == [("unknown key", 1)]
    assert "secret_key_previous" in newest.findings[0].said


def test_a_log_that_says_nothing_wrong_names_its_anchor_and_its_open_calls(log: Log, rows: list[AuditRow]) -> None:
    report = log.verify()

    assert (report.rows, report.first, report.last, report.ok) == (ROWS, 1, ROWS, True)
    assert report.anchor == f"{ROWS}:{rows[-1].hash.hex()}"
    assert log.found(Anchor(ROWS, rows[-1].hash)) == []
    assert [(one.call, one.tool) for one in report.open] == [("call-4999", "Shop.Order")]
