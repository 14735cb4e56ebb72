"""Documents and the audit chain where processes share them: old databases, other processes, triggers, outages."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.services import Postgres
from tests.stores.holders import line, process
from toolpost.calls.errors import StoreUnavailableError
from toolpost.stores import Document, Records, Task, open_records
from toolpost.stores.documents import GENESIS, NO_HEAD, link
from toolpost.stores.memory_documents import SWEPT
from toolpost.stores.memory_records import MemoryRecords
from toolpost.stores.migrations import LATEST, sqlite_version
from toolpost.stores.postgres import PostgresRecords
from toolpost.stores.schema import MIGRATIONS
from toolpost.testing import FakeClock
from toolpost.testing.audit_contract import chain
from toolpost.testing.records_claims_contract import said

KEY = b"the key"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/records.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def records(url: str) -> Iterator[Records]:
    store = open_records(url)
    yield store
    store.close()


def execute(url: str, *statements: str) -> list[Any]:
    """Do statements beside the store; the rows of the last."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
            for statement in statements:
                rows = connection.execute(statement).fetchall()
            return rows
    with psycopg.connect(url, autocommit=True) as session:
        for statement in statements:
            cursor = session.execute(statement)
        return cursor.fetchall() if cursor.description else []


def make_old(url: str, version: int) -> None:
    """Make the tables that an earlier toolpost made."""
    steps = MIGRATIONS[:version]
    table = "create table toolpost_schema (number bigint primary key, name text not null, applied_at float not null)"
    texts = [text for step in steps for text in (step.sqlite if url.startswith("sqlite") else step.postgres)]
    marks = [f"insert into toolpost_schema values ({step.number}, '{step.name}', 0)" for step in steps]
    execute(url, table, *texts, *marks)


# Old databases.


def test_a_database_of_the_first_version_keeps_what_it_holds_and_gets_the_new_tables(url: str) -> None:
    make_old(url, 1)
    execute(
        url,
        "insert into toolpost_tasks (task_id, tool, arguments, created_at) values ('old', 't', '', 0)",
        "insert into toolpost_claims (key, state, fence, owner, tool, tenant, taken_over, lease_until, began_at)"
        " values ('old', 'unknown', 0, 'o', 't', '', false, 0, 0)",
    )
    records = open_records(url)
    before = records.schema_version()

    version = said(records.put_document(Document("grant", "ann", 0, b"1")))
    head = said(records.append_audit([b"row"]))

    assert (before, records.schema_version()) == (1, LATEST)
    assert version > 0
    assert head.seq == 1
    assert said(records.task("old")).state == "queued"
    assert said(records.lookup("old")).state == "unknown"
    records.close()


def test_migrate_names_the_step_that_adds_documents(url: str) -> None:
    make_old(url, 1)
    records = open_records(url)

    assert records.migrate()[0] == "2 documents, audit log"

    records.close()


def test_a_database_of_which_the_new_step_fails_stays_at_the_old_version(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    make_old(f"sqlite:///{path}", 1)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table toolpost_audit_head (x)")
    records = open_records(f"sqlite:///{path}")

    with pytest.raises(StoreUnavailableError, match="toolpost_audit_head already exists"):
        records.migrate()

    with closing(sqlite3.connect(path)) as connection:
        assert sqlite_version(connection) == 1
        assert not connection.execute("select 1 from sqlite_master where name = 'toolpost_documents'").fetchall()
    records.close()


# The database itself refuses changes.


@pytest.mark.parametrize(
    "change",
    [
        "update toolpost_audit set body = hash where seq = 2",
        "update toolpost_audit set seq = 9 where seq = 3",
        "delete from toolpost_audit where seq = 1",
        "delete from toolpost_audit",
        "update toolpost_audit_head set seq = 2",
        "update toolpost_audit_head set start_seq = 4",
        "delete from toolpost_audit_head",
    ],
)
def test_rows_of_the_audit_log_stay_as_they_are(records: Records, url: str, change: str) -> None:
    said(records.append_audit([b"1", b"2", b"3"]))

    with pytest.raises((sqlite3.IntegrityError, psycopg.errors.RaiseException), match="audit log"):
        execute(url, change)

    assert said(records.audit_rows()) == chain([b"1", b"2", b"3"])


@pytest.mark.parametrize("table", ["toolpost_audit", "toolpost_audit_head"])
def test_the_audit_log_cannot_be_truncated(postgres_url: str, table: str) -> None:
    records = PostgresRecords(postgres_url)
    said(records.append_audit([b"1"]))

    with pytest.raises(psycopg.errors.RaiseException, match="audit log"):
        execute(postgres_url, f"truncate {table}")

    records.close()


def test_rows_that_rotation_has_named_may_go_and_no_others(records: Records, url: str) -> None:
    said(records.append_audit([b"1", b"2", b"3"]))
    execute(url, "update toolpost_audit_head set start_seq = 1")
    execute(url, "delete from toolpost_audit where seq = 1")

    with pytest.raises((sqlite3.IntegrityError, psycopg.errors.RaiseException)):
        execute(url, "delete from toolpost_audit where seq = 2")


def test_nothing_is_added_to_a_chain_without_a_head(records: Records, url: str) -> None:
    said(records.append_audit([b"1"]))
    drop = "drop trigger toolpost_audit_head_stays" + ("" if url.startswith("sqlite") else " on toolpost_audit_head")
    execute(url, drop, "delete from toolpost_audit_head")

    with pytest.raises(StoreUnavailableError, match="head of the audit chain is gone"):
        said(records.append_audit([b"2"]))

    assert said(records.audit_head()) == NO_HEAD
    assert said(records.put_document(Document("grant", "ann", 0, b""))) > 0
    assert len(said(records.audit_rows())) == 1


# Other processes.

ADD = """
import sys
from toolpost.stores import open_records
records = open_records(sys.argv[1])
records.ping().wait()
print("ready", flush=True)
sys.stdin.readline()
for number in range(25):
    records.append_audit([b"%s %d.%d" % (sys.argv[2].encode(), number, part) for part in range(5)], b"the key").wait()
print("done", flush=True)
"""


def test_processes_share_one_chain(records: Records, url: str) -> None:
    said(records.ping())
    with ExitStack() as stack:
        writers = [stack.enter_context(process(ADD, url, name)) for name in "abcd"]
        assert [line(writer) for writer in writers] == ["ready"] * 4
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("\n")
            writer.stdin.flush()
        assert [line(writer) for writer in writers] == ["done"] * 4

    rows = said(records.audit_rows())
    assert len(rows) == 500
    assert rows == chain([row.body for row in rows], KEY)
    for name in b"abcd":
        mine = [row.body for row in rows if row.body[0] == name]
        assert mine == [b"%c %d.%d" % (name, number, part) for number in range(25) for part in range(5)]


def test_of_processes_that_write_over_one_version_one_succeeds(records: Records, url: str) -> None:
    version = said(records.put_document(Document("grant", "ann", 0, b"")))
    script = f"""
import sys
from toolpost.stores import Document, open_records
records = open_records(sys.argv[1])
print(records.put_document(Document("grant", "ann", 0, sys.argv[2].encode()), {version}).wait() > 0)
"""
    answers = []
    running = [
        subprocess.Popen([sys.executable, "-c", script, url, name], stdout=subprocess.PIPE, text=True)
        for name in "abcd"
    ]
    for one in running:
        answers.append(one.communicate()[0].strip())

    [winner] = [name for name, answer in zip("abcd", answers, strict=True) if answer == "True"]
    assert said(records.document("grant", "ann")).body == winner.encode()


# Outages.


def test_rows_go_on_where_they_stopped_after_an_outage(own_postgres: Postgres) -> None:
    records = PostgresRecords(own_postgres.url)
    said(records.append_audit([b"1", b"2"], KEY))
    own_postgres.kill()
    with pytest.raises(StoreUnavailableError):
        said(records.append_audit([b"3"], KEY))
    own_postgres.restart()
    again = PostgresRecords(own_postgres.url)

    said(again.append_audit([b"4"], KEY))

    assert [row.body for row in said(again.audit_rows())] == [b"1", b"2", b"4"]
    assert said(again.audit_rows())[2].hash == link(said(again.audit_rows())[1].hash, 3, b"4", KEY)
    records.close()
    again.close()


# In memory.


def test_in_memory_expired_documents_go_without_anybody_asking() -> None:
    clock = FakeClock()
    records = MemoryRecords(clock=clock)

    for number in range(10 * SWEPT):
        records.put_document(Document("flow", f"{number}", 0, b"", expires_at=clock.now() + 10.0))
        clock.advance(1.0)

    assert len(records._documents) <= 2 * SWEPT + 100
    assert len(records.documents("flow", limit=100)) == 9


def test_in_memory_of_the_audit_log_the_oldest_rows_go() -> None:
    records = MemoryRecords(max_finished=10)

    for number in range(100):
        records.append_audit([b"%d" % number])

    head, rows = records.audit_head(), records.audit_rows()
    assert [row.seq for row in rows] == list(range(91, 101))
    assert (head.seq, head.start_seq) == (100, 90)
    assert rows[0].hash == link(head.start_hash, 91, b"90")
    assert head.start_hash != GENESIS


def test_a_task_and_a_document_in_one_batch_are_both_written(records: Records) -> None:
    answers = [records.submit(Task(task_id="1", tool="t")), records.put_document(Document("grant", "a", 0, b""))]
    answers.append(records.append_audit([b"row"]))  # type: ignore[arg-type]

    written, version, head = map(said, answers)

    assert (written, version > 0, head.seq) == (True, True, 1)
