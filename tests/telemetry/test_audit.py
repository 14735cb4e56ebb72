"""The audit log: what its rows say and never say, and that they get into the chain once, whatever happens meanwhile."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings, strategies as st

from tests.services import Postgres
from tests.stores.holders import line, process
from toolpost.calls.call import Caller
from toolpost.calls.clock import SYSTEM_CLOCK
from toolpost.calls.errors import ConfigurationError, PermissionDeniedError, StoreUnavailableError, ToolTimeoutError
from toolpost.calls.events import CallFinished, CallStarted
from toolpost.calls.redaction import Redactor
from toolpost.engine.audit_operations import AuditOperations
from toolpost.stores import Records, open_records
from toolpost.stores.memory_records import MemoryRecords
from toolpost.stores.postgres import PostgresRecords
from toolpost.telemetry import audit_writer
from toolpost.telemetry.audit import AuditLog
from toolpost.telemetry.audit_keys import audit_key, chain_keys
from toolpost.telemetry.audit_rows import MAX_ARGUMENTS, Face, Values
from toolpost.testing import FakeClock
from toolpost.testing.records_claims_contract import said

SECRET = "the secret_key"
FACE = Face("Shop.Order", "1.2.0", "sha256:feed", frozenset({"marked"}))
ANN = Caller(user_id="ann", tenant="acme", session_id="s1", scopes=frozenset({"b", "a"}), roles=frozenset({"clerk"}))


def ended(call: str = "c1", **more: Any) -> CallFinished:
    about = {"tool": "Shop.Order", "version": "1.2.0", "status": "ok", "elapsed_s": 0.25, "attempts": 1, **more}
    return CallFinished(call_id=call, **about)


def told(log: AuditLog, records: Records, timeout_s: float = 10.0) -> list[dict[str, Any]]:
    """All rows, once they are written."""
    assert log.flush(timeout_s)
    return [orjson.loads(row.body) for row in said(records.audit_rows(0, 100_000))]


def arguments(mode: Values = "digests", redactor: Redactor | None = None, **given: Any) -> Any:
    """What a row says of a call's arguments."""
    records = MemoryRecords()
    with closing(AuditLog(records, values=mode, key=audit_key(SECRET), redactor=redactor)) as log:
        log.begin(FACE, "c1", ANN, None, given)
        return told(log, records)[1]["arguments"]


def until(holds: Callable[[], bool], longest_s: float = 20.0) -> None:
    end = time.monotonic() + longest_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


# What rows say.


def test_a_call_has_a_start_and_a_finish_that_say_who_what_when_and_how() -> None:
    records = MemoryRecords()
    with closing(AuditLog(records, key=audit_key(SECRET), clock=FakeClock(1_795_723_200.5))) as log:
        log.begin(FACE, "c1", ANN, "t1", {"order": 7})
        log.observe(ended(user_id="ann", tenant="acme", session_id="s1", task_id="t1"))
        opened, start, finish = told(log, records)

    where = {"by": start["by"], "k": audit_key(SECRET).id, "v": 1, "at": "2026-11-26T20:00:00.500Z"}
    who = {"user": "ann", "tenant": "acme", "session": "s1", "task": "t1"}
    what = {"call": "c1", "tool": "Shop.Order", "version": "1.2.0"}
    digest = start["arguments"]["order"]
    more = {"definition": "sha256:feed", "scopes": ["a", "b"], "roles": ["clerk"], "arguments": {"order": digest}}
    assert start == {"kind": "start", "n": 2, **where, **who, **what, **more}
    assert finish == {
        "kind": "finish", "n": 3, "status": "ok", "decision": "allowed", "outcome": "ran", "attempts": 1, "ms": 250.0,
        "source": "run", **where, **who, **what,
    }  # fmt: skip
    assert (opened["kind"], opened["data"]["mode"], opened["data"]["pid"]) == ("opened", "on", os.getpid())


def test_a_refusal_says_which_stage_and_which_rule() -> None:
    records = MemoryRecords()
    error = PermissionDeniedError("no", details={"rule": "shop.own-orders", "secret": "not told", "approval_id": "a-1"})
    late = ToolTimeoutError("late")
    late.outcome = "unknown"
    with closing(AuditLog(records)) as log:
        log.observe(ended("c1", status="rejected", error=error))
        log.observe(ended("c2", status="failed", error=late))
        _, refused, failed = told(log, records)

    assert {name: refused[name] for name in ("decision", "stage", "code", "rule", "approval_id", "outcome")} == {
        "decision": "refused", "stage": "authorize", "code": "denied", "rule": "shop.own-orders", "approval_id": "a-1",
        "outcome": "not_run",
    }  # fmt: skip
    assert "secret" not in refused
    assert (failed["decision"], failed["code"], failed["outcome"]) == ("allowed", "timeout", "unknown")
    assert "stage" not in failed


def test_other_events_are_noted_with_what_they_are_about() -> None:
    records = MemoryRecords()
    with closing(AuditLog(records)) as log:
        log.note("approval.approved", user="bob", tool="Shop.Order", call="c1", reason="fine", token="hush-hush")
        log.observe(CallStarted(call_id="c", tool="t", version="1", at=0.0))
        _, row = told(log, records)

    assert (row["kind"], row["user"], row["tool"], row["call"]) == ("approval.approved", "bob", "Shop.Order", "c1")
    assert row["data"] == {"reason": "fine", "token": "[hidden]"}


def test_rows_are_canonical_json() -> None:
    records = MemoryRecords()
    with closing(AuditLog(records, values="redacted")) as log:
        log.begin(FACE, "c\ud800", Caller(user_id="\ud800x"), None, {"b": 1, "a": {"y": [1.5, None], "x": "\u00e4"}})
        log.flush()

    for row in records.audit_rows():
        assert orjson.dumps(orjson.loads(row.body), option=orjson.OPT_SORT_KEYS) == row.body


def test_rows_end_with_one_that_says_the_process_ended_in_order() -> None:
    records = MemoryRecords()
    log = AuditLog(records)
    log.begin(FACE, "c1", ANN, None, {})
    log.close()
    log.close()

    assert [orjson.loads(row.body)["kind"] for row in records.audit_rows()] == ["opened", "start", "closed"]


def test_a_log_that_was_not_used_writes_nothing() -> None:
    records = MemoryRecords()
    AuditLog(records).close()

    assert records.audit_rows() == []


# What rows say of arguments.


def test_digests_are_equal_for_equal_values_and_cannot_be_tried_without_the_key() -> None:
    import hashlib

    first = arguments(a=1, b="1", c={"x": 1, "y": 2})
    second = arguments(a=1, c={"y": 2, "x": 1})
    records = MemoryRecords()
    with closing(AuditLog(records, key=audit_key("another"))) as log:
        log.begin(FACE, "c1", ANN, None, {"a": 1})
        other = told(log, records)[1]["arguments"]

    assert first["a"] == second["a"] != first["b"]
    assert first["c"] == second["c"]
    assert other["a"] != first["a"]
    guesses = {hashlib.new(name, b"1").hexdigest()[:32] for name in ("sha256", "blake2b")}
    assert first["a"].removeprefix("mac:") not in guesses | {hashlib.blake2b(b"1", digest_size=16).hexdigest()}


def test_without_a_secret_key_digests_have_a_key_that_nobody_knows() -> None:
    records = MemoryRecords()
    rows = []
    for _ in range(2):
        with closing(AuditLog(records)) as log:
            log.begin(FACE, "c1", ANN, None, {"a": 1, "b": 1})
            rows.append([row for row in told(log, records) if row["kind"] == "start"][-1]["arguments"])

    assert rows[0]["a"] == rows[0]["b"] != rows[1]["a"]


def test_names_alone_are_written_where_that_is_asked() -> None:
    assert arguments("names", order=1, note="x") == ["order", "note"]


@pytest.mark.parametrize("mode", ["digests", "redacted"])
def test_arguments_that_are_secrets_by_name_or_mark_are_never_written(mode: Values) -> None:
    told = arguments(mode, api_key="sesame-1", marked="sesame-2", password="sesame-3", card={"cvc_token": "sesame-4"})

    assert (told["api_key"], told["marked"], told["password"]) == ("[hidden]",) * 3
    assert "sesame" not in orjson.dumps(told).decode()


def test_redacted_values_are_cut_and_scrubbed() -> None:
    told = arguments(
        "redacted",
        text="x" * 1000,
        url="https://ann:sesame@host/",
        deep={"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}},
        many=list(range(1000)),
        odd=object(),
        big=2**80,
        huge=10**5000,
        plain=[1, 2.5, True, None],
    )

    assert told["text"] == "x" * 200 + "... (1000 characters)"
    assert told["url"] == "https://[hidden]@host/"
    assert told["deep"] == {"a": {"b": {"c": {"d": {"e": {"f": "..."}}}}}}
    assert told["many"][-1] == "and 950 more"
    assert (told["odd"], told["big"], told["plain"]) == ("<object>", str(2**80), [1, 2.5, True, None])
    assert told["huge"].startswith("0x")


def test_a_megabyte_of_arguments_makes_a_small_row() -> None:
    given = {"text": "x" * 1_000_000, "list": ["y" * 1000] * 1000, "object": {f"k{i}": "z" * 100 for i in range(9999)}}

    for mode, most in (("names", 100), ("digests", 500), ("redacted", 20_000)):
        assert len(orjson.dumps(arguments(mode, **given))) < most  # type: ignore[arg-type]


def test_of_many_arguments_the_first_are_told() -> None:
    given = {f"n{number}": number for number in range(5000)}

    for mode in ("names", "digests", "redacted"):
        told = arguments(mode, **given)  # type: ignore[arg-type]
        assert len(told) == MAX_ARGUMENTS + 1
        assert "and 4900 more" in (told if mode == "names" else told.values())


class Sly:
    """A value that does not want to be looked at."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class Maze(dict[str, Any]):
    def __getitem__(self, name: str) -> Any:
        raise RuntimeError("no")


def test_arguments_that_cannot_be_read_are_said_to_be_so() -> None:
    circle: list[Any] = []
    circle.append(circle)
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]

    told = arguments(sly=Sly(), circle=circle, deep=deep, half="\ud800", big=2**70, nan=float("nan"))
    assert all(value.startswith("mac:") for value in told.values())
    shown = arguments("redacted", sly=Sly(), circle=circle, deep=deep, half="\ud800")
    assert (shown["sly"], shown["half"]) == ("<Sly>", "?")
    records = MemoryRecords()
    with closing(AuditLog(records)) as log:
        log.begin(FACE, "c1", ANN, None, Maze(a=1))
        assert _row(log, records)["arguments"] == "unreadable"


def _row(log: AuditLog, records: MemoryRecords) -> dict[str, Any]:
    return told(log, records)[1]


CANARY = "canary-7f3a9c-tweet"
PLACES = st.sampled_from("value nested name user tenant session task call tool rule note".split())
CUTS = st.integers(0, 1000) | st.sampled_from([cut + off for cut in (128, 200, 512, 800) for off in range(-18, 2)])


@given(place=PLACES, mode=st.sampled_from(["names", "digests", "redacted"]), at=CUTS)
@settings(max_examples=150)
def test_a_secret_that_is_known_is_in_no_row_wherever_it_comes_in(place: str, mode: Values, at: int) -> None:
    redactor, records = Redactor(), MemoryRecords()
    redactor.add(CANARY)
    text = "x" * at + CANARY + "y"
    given: dict[Any, Any] = {"value": {"a": text}, "nested": {"a": [{"b": (text, {text: 1})}]}, "name": {text: 1}}
    fields = {"user": "user_id", "tenant": "tenant", "session": "session_id"}
    caller = Caller(**{fields[place]: text} if place in fields else {})  # type: ignore[arg-type]
    error = PermissionDeniedError(text, details={"rule": text if place == "rule" else "r"})
    with closing(AuditLog(records, values=mode, redactor=redactor)) as log:
        call, task = (text if place == "call" else "c"), (text if place == "task" else None)
        log.begin(FACE, call, caller, task, given.get(place, {}))
        log.observe(ended(call, status="rejected", error=error, task_id=task, user_id=caller.user_id))
        log.refused(call, text if place == "tool" else "t", error, caller, task)
        log.note("kind", about={"it": text if place == "note" else ""})
        log.flush()

    bodies = b"\n".join(row.body for row in records.audit_rows())
    assert len(records.audit_rows()) >= 5
    assert CANARY[:8].encode() not in bodies


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("place", ["call", "task", "user_id", "tenant", "session_id", "scopes", "roles"])
def test_what_looks_like_a_key_is_in_no_row_though_it_is_an_id(place: str, cut: bool) -> None:
    key, records = "ghp_" + "a1B2" * 9, MemoryRecords()
    text = "x" * 150 + " " + key if cut else key
    given = {place: frozenset([text]) if place in ("scopes", "roles") else text}
    call, task = given.pop("call", "c1"), given.pop("task", None)
    caller = Caller(**given)  # type: ignore[arg-type]
    with closing(AuditLog(records)) as log:
        log.begin(FACE, str(call), caller, task, {})  # type: ignore[arg-type]
        log.observe(ended(str(call), task_id=task, user_id=caller.user_id, session_id=caller.session_id))
        log.refused(str(call), "T", PermissionDeniedError("no"), caller, task)  # type: ignore[arg-type]
        log.flush()

    bodies = b"\n".join(row.body for row in records.audit_rows())
    assert b"ghp_" not in bodies
    assert b"[hidden]" in bodies


# How rows get into the store.


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/records.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def records(url: str) -> Iterator[Records]:
    store = open_records(url)
    yield store
    store.close()


def operations(records: Records) -> AuditOperations:
    return AuditOperations(records, audit_key(SECRET), chain_keys([SECRET]), SYSTEM_CLOCK)


def test_a_thousand_calls_make_few_transactions(records: Any) -> None:
    said(records.ping())
    before = records.batches
    with closing(AuditLog(records, key=audit_key(SECRET))) as log:
        for number in range(1000):
            log.begin(FACE, f"c{number}", ANN, None, {"order": number})
            log.observe(ended(f"c{number}"))
        assert log.flush()
        assert records.batches - before < 60

    assert operations(records).verify().rows == 2002


def test_rows_are_written_soon_without_anybody_asking(records: Records) -> None:
    log = AuditLog(records)

    log.begin(FACE, "c1", ANN, None, {})

    until(lambda: len(said(records.audit_rows())) == 2)
    log.close()


def test_threads_share_a_log(records: Records) -> None:
    log = AuditLog(records, key=audit_key(SECRET))

    def work(name: str) -> None:
        for number in range(200):
            log.begin(FACE, f"{name}{number}", ANN, None, {})
            log.observe(ended(f"{name}{number}"))

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()

    report = operations(records).verify()
    assert (report.ok, report.rows, report.open) == (True, 1602, [])


WRITE = """
import sys
from toolpost.calls.call import Caller
from toolpost.calls.events import CallFinished
from toolpost.stores import open_records
from toolpost.telemetry.audit import AuditLog
from toolpost.telemetry.audit_keys import audit_key
from toolpost.telemetry.audit_rows import Face
records = open_records(sys.argv[1])
log = AuditLog(records, key=audit_key("the secret_key"), mode=sys.argv[3])
face = Face("Shop.Order", "1.0.0", "")
print("ready", flush=True)
sys.stdin.readline()
number = 0
while number < int(sys.argv[4]):
    call = f"{sys.argv[2]}{number}"
    started = log.begin(face, call, Caller(user_id=sys.argv[2]), None, {"order": number})
    if started is not None:
        started.wait()
        print(call, flush=True)
    log.observe(CallFinished(call_id=call, tool=face.tool, version="1", status="ok", elapsed_s=0.0))
    number += 1
log.close()
print("done", flush=True)
"""


def test_processes_write_one_chain(records: Records, url: str) -> None:
    said(records.ping())
    with ExitStack() as stack:
        writers = [stack.enter_context(process(WRITE, url, name, "on", "250")) for name in "abcd"]
        assert [line(writer) for writer in writers] == ["ready"] * 4
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("\n")
            writer.stdin.flush()
        assert [line(writer) for writer in writers] == ["done"] * 4

    report = operations(records).verify()
    assert (report.ok, report.rows, report.open) == (True, 4 * 502, [])


def test_a_process_that_is_killed_leaves_a_chain_that_fits_and_every_start_that_it_was_told_of(
    records: Records, url: str
) -> None:
    said(records.ping())
    with process(WRITE, url, "k", "required", "100000") as writer:
        assert line(writer) == "ready"
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
        known = [line(writer) for _ in range(20)]
        writer.kill()
        writer.wait()
        assert writer.stdout is not None
        known += [text for text in writer.stdout.read().split("\n") if text]

    report = operations(records).verify()
    rows = [orjson.loads(row.body) for row in said(records.audit_rows(0, 100_000))]
    started = {row["call"] for row in rows if row["kind"] == "start"}
    ended = {row["call"] for row in rows if row["kind"] == "finish"}
    assert report.ok
    assert started >= set(known[:-1])
    assert {one.call for one in report.open} == started - ended


def test_a_forked_child_writes_rows_of_its_own_and_none_of_its_parents(tmp_path: Path) -> None:
    records = open_records(f"sqlite:///{tmp_path}/records.db")
    log = AuditLog(records, key=audit_key(SECRET))
    log.begin(FACE, "before", ANN, None, {})
    log.flush()
    log.begin(FACE, "parent", ANN, None, {})
    child = os.fork()
    if child == 0:
        log.begin(FACE, "child", ANN, None, {})
        os._exit(0 if log.flush() else 1)
    _, status = os.waitpid(child, 0)
    log.close()

    rows = [orjson.loads(row.body) for row in said(records.audit_rows())]
    calls = [row["call"] for row in rows if row["kind"] == "start"]
    assert status == 0
    assert sorted(calls) == ["before", "child", "parent"]
    assert len({row["by"] for row in rows}) == 2
    assert [row["kind"] for row in rows].count("opened") == 2
    assert operations(records).verify().ok
    records.close()


# Outages.


def test_while_the_store_is_away_rows_wait_and_are_written_once_when_it_is_back(own_postgres: Postgres) -> None:
    records = PostgresRecords(own_postgres.url)
    log = AuditLog(records, key=audit_key(SECRET))
    log.begin(FACE, "c0", ANN, None, {})
    assert log.flush()
    own_postgres.kill()

    for number in range(1, 50):
        log.begin(FACE, f"c{number}", ANN, None, {})
        log.observe(ended(f"c{number}"))
    until(lambda: log.problem is not None)
    waiting = log.waiting
    own_postgres.restart()
    until(lambda: log.waiting == 0)

    assert (waiting, log.problem, log.lost) == (98, None, 0)
    log.close()
    report = operations(records).verify()
    assert (report.ok, report.rows, [one.call for one in report.open]) == (True, 1 + 1 + 98 + 1, ["c0"])
    records.close()


class Forgetful:
    """Records whose answers to some appends are lost: before they were done, or after."""

    durable = True

    def __init__(self, records: Records, *fates: str) -> None:
        self.records, self.fates, self.asked = records, list(fates), 0

    def append_audit(self, bodies: Any, key: bytes = b"") -> Any:
        fate = self.fates.pop(0) if self.fates else "done"
        self.asked += 1
        if fate != "before":
            answer = self.records.append_audit(bodies, key)
            if fate == "done":
                return answer
            said(answer)
        from toolpost.stores import Pending

        lost: Pending[Any] = Pending()
        lost.sent, lost._done, lost.error = True, True, StoreUnavailableError(f"lost {fate}")
        return lost

    def __getattr__(self, name: str) -> Any:
        return getattr(self.records, name)


@pytest.mark.parametrize("fates", [["after"], ["before"], ["after", "before"], ["before", "after", "after"]])
def test_rows_whose_answer_was_lost_are_not_written_twice(records: Records, fates: list[str]) -> None:
    store: Any = Forgetful(records, *fates)
    log = AuditLog(store, key=audit_key(SECRET))
    for number in range(20):
        log.begin(FACE, f"c{number}", ANN, None, {})
    until(lambda: log.waiting == 0)
    log.begin(FACE, "last", ANN, None, {})
    log.close()

    calls = [orjson.loads(row.body).get("call") for row in said(records.audit_rows())]
    assert calls == [None, *(f"c{number}" for number in range(20)), "last", None]
    assert operations(records).verify().ok


def test_rows_beyond_what_is_kept_are_counted_said_and_told(
    own_postgres: Postgres, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit_writer, "MOST_ROWS", 20)
    records = PostgresRecords(own_postgres.url)
    log = AuditLog(records, key=audit_key(SECRET))
    log.begin(FACE, "c", ANN, None, {})
    assert log.flush()
    own_postgres.kill()

    for number in range(50):
        log.begin(FACE, f"c{number}", ANN, None, {})
    own_postgres.restart()
    until(lambda: log.waiting == 0)
    log.close()

    assert log.lost == 30
    assert "rows are lost from now on" in caplog.text
    rows = [orjson.loads(row.body) for row in said(records.audit_rows())]
    [lost] = [row for row in rows if row["kind"] == "lost"]
    assert lost["data"]["rows"] == 30
    report = operations(records).verify()
    assert (report.ok, report.lost) == (True, 30)
    records.close()


@pytest.mark.parametrize(("most", "bytes_each"), [(20, 0), (10_000, 5000)], ids=["rows", "bytes"])
def test_rows_that_wait_are_bounded_by_their_number_and_their_bytes(
    monkeypatch: pytest.MonkeyPatch, most: int, bytes_each: int
) -> None:
    monkeypatch.setattr(audit_writer, "MOST_ROWS", most)
    monkeypatch.setattr(audit_writer, "MOST_BYTES", 50_000)
    monkeypatch.setattr(audit_writer, "CLOSE_S", 0.1)
    log = AuditLog(PostgresRecords("postgresql://nobody@127.0.0.1:1/none"), values="redacted")
    log.note("first")
    until(lambda: log.problem is not None)

    for number in range(100):
        log.begin(FACE, f"c{number}", ANN, None, {f"a{part}": "x" * 200 for part in range(bytes_each // 200)})

    assert log.lost >= 80
    for _ in range(4):  # further tries, each with further losses
        log._writer._take()
        log.begin(FACE, "more", ANN, None, {"a": "x" * bytes_each})
    assert log.waiting <= 21
    log.close()


def test_what_cannot_be_written_by_the_end_is_told_in_the_programs_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit_writer, "CLOSE_S", 0.2)
    records = PostgresRecords("postgresql://nobody@127.0.0.1:1/none")
    log = AuditLog(records, key=audit_key(SECRET))
    log.begin(FACE, "c-17", ANN, None, {})

    log.close()

    lines = [record.getMessage() for record in caplog.records if record.name == "toolpost.audit"]
    assert any("the audit log cannot be written" in text for text in lines)
    assert any('"call":"c-17"' in text and "could not be written in time" in text for text in lines)
    records.close()


def test_the_programs_log_says_where_the_chain_stands(records: Records, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "toolpost.audit")
    log = AuditLog(records, key=audit_key(SECRET))
    for number in range(1200):
        log.begin(FACE, f"c{number}", ANN, None, {})
    log.close()

    anchors = [record.getMessage() for record in caplog.records if record.getMessage().startswith("audit anchor")]
    head = said(records.audit_head())
    assert len(anchors) == 2
    assert anchors[-1] == f"audit anchor seq={head.seq} hash={head.hash.hex()}"


def test_required_needs_records_that_survive() -> None:
    with pytest.raises(ConfigurationError, match="needs records that survive the process; set records_url"):
        AuditLog(MemoryRecords(), mode="required")


def test_keys_are_derived_and_never_shown() -> None:
    key = audit_key(SECRET)

    assert len({key.chain, key.values, SECRET.encode()}) == 3
    assert repr(key) == f"AuditKey({key.id!r})"
    assert audit_key(SECRET) == key != audit_key("other")
    assert chain_keys([SECRET, "", "other"]) == {key.id: key.chain, audit_key("other").id: audit_key("other").chain}
