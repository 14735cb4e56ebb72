"""toolpost audit: what it finds, shows, exports and puts away, and its exit codes."""

import base64
import csv
import io
import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from toolpost.calls.call import Caller
from toolpost.calls.errors import StoreUnavailableError
from toolpost.calls.events import CallFinished
from toolpost.engine.audit_operations import AuditOperations
from toolpost.stores import open_records
from toolpost.stores.sql_documents import SqlDocuments
from toolpost.telemetry import audit_files
from toolpost.telemetry.audit import AuditLog
from toolpost.telemetry.audit_files import COLUMNS, row_line, rows_in
from toolpost.telemetry.audit_keys import audit_key
from toolpost.telemetry.audit_rows import Face
from toolpost.testing import FakeClock
from toolpost.transports.cli import main

SECRET = "k" * 40
FACE = Face("Shop.Order", "1.0.0", "sha256:0")
PAY = Face("Shop.Pay", "1.0.0", "sha256:0")


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"sqlite:///{tmp_path}/records.db"
    monkeypatch.setenv("TOOL_EXECUTOR_RECORDS_URL", url)
    monkeypatch.setenv("SECRET_KEY", SECRET)
    monkeypatch.chdir(tmp_path)
    return url


@pytest.fixture
def log(url: str) -> str:
    """A log of ten calls, one an hour from midnight on; rows 1 (opened) to 22 (closed)."""
    write(url, 10)
    return url


def write(url: str, calls: int, **given: Any) -> None:
    records, clock = open_records(url), FakeClock(1_795_651_200.0)
    audit = AuditLog(records, key=audit_key(SECRET), clock=clock, values="redacted")
    for number in range(calls):
        face = PAY if number % 5 == 4 else FACE
        user = "bob" if number % 2 else "ann"
        audit.begin(face, f"c{number}", Caller(user_id=user, tenant="acme"), None, given or {"order": number})
        clock.advance(1.0)
        about = {"tool": face.tool, "version": "1", "status": "ok", "elapsed_s": 1.0, "user_id": user, "tenant": "acme"}
        audit.observe(CallFinished(call_id=f"c{number}", **about))
        clock.advance(3599.0)
    audit.close()
    records.close()


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["audit", *arguments, "--no-toolbox"])


def answer(*arguments: str, exit_code: int = 0) -> Any:
    result = invoke(*arguments, "--json")
    assert result.exit_code == exit_code, result.output
    return orjson.loads(result.stdout)


def damage(*statements: str) -> None:
    with closing(sqlite3.connect("records.db", isolation_level=None)) as connection:
        for name in ("kept", "stays", "head_grows", "head_stays"):
            connection.execute(f"drop trigger if exists toolpost_audit_{name}")
        for statement in statements:
            connection.execute(statement)


ALTER = "update toolpost_audit set body = cast(replace(cast(body as text), '\"ann\"', '\"eve\"') as blob) where seq = 6"


# verify


def test_a_log_that_is_as_it_was_written_is_said_to_be_so(log: str) -> None:
    result = invoke("verify")
    told = answer("verify")

    assert result.exit_code == 0
    assert result.stdout.startswith("rows 1 to 22 (22) are as they were written\nanchor: 22:")
    assert (told["ok"], told["rows"], told["first"], told["last"], told["findings"]) == (True, 22, 1, 22, [])


def test_a_row_that_was_altered_is_named_with_its_call_and_the_exit_code_is_1(log: str) -> None:
    damage(ALTER)
    result = invoke("verify")
    told = answer("verify", exit_code=1)

    assert result.exit_code == 1
    assert result.stdout.splitlines()[0].startswith("altered: row 6 was altered or put in")
    assert result.stdout.splitlines()[0].endswith("(call c2)")
    assert "the log is NOT as it was written" in result.stdout
    assert [(finding["what"], finding["seq"], finding["call"]) for finding in told["findings"]] == [
        ("altered", 6, "c2")
    ]


def test_an_anchor_finds_an_end_that_was_cut_off(log: str) -> None:
    anchor = answer("verify")["anchor"]
    damage("delete from toolpost_audit where seq > 20")
    head = "update toolpost_audit_head set seq = 20, hash = (select hash from toolpost_audit where seq = 20)"
    damage(head)

    assert invoke("verify").exit_code == 0
    told = answer("verify", "--anchor", anchor, exit_code=1)
    assert [(finding["what"], finding["seq"]) for finding in told["findings"]] == [("truncated", 22)]


@pytest.mark.parametrize("anchor", ["22", "x:00", "22:zz", f"22:{'0' * 63}"])
def test_what_is_no_anchor_is_refused(log: str, anchor: str) -> None:
    result = invoke("verify", "--anchor", anchor)

    assert result.exit_code == 2
    assert "is no anchor; write SEQ:HASH" in result.stderr


def test_another_secret_key_verifies_nothing_and_says_so(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "another" * 5)
    without = answer("verify", exit_code=1)
    monkeypatch.setenv("TOOL_EXECUTOR_SECRET_KEY_PREVIOUS", f"older, {SECRET}")
    known = answer("verify")

    assert [finding["what"] for finding in without["findings"]] == ["unknown key"]
    assert known["ok"]


def test_calls_without_an_end_are_listed_and_are_no_fault(url: str) -> None:
    records = open_records(url)
    audit = AuditLog(records, key=audit_key(SECRET))
    audit.begin(FACE, "killed", Caller(), None, {})
    audit.flush()
    records.close()

    result = invoke("verify")

    assert result.exit_code == 0
    assert "1 calls began and have no end" in result.stdout
    assert "Shop.Order, call killed" in result.stdout


def test_an_empty_log_has_no_rows(url: str) -> None:
    result = invoke("verify")

    assert (result.exit_code, result.stdout) == (0, "the log has no rows\n")


def test_records_in_memory_have_no_log_to_look_at() -> None:
    for command in (["verify"], ["tail"], ["export"], ["rotate", "--keep", "1", "--to", "x"]):
        result = invoke(*command)
        assert result.exit_code == 2
        assert "records_url names no store that other processes share" in result.stderr


# tail


def test_the_newest_rows_are_shown_one_a_line(log: str) -> None:
    lines = invoke("tail", "-n", "3").stdout.splitlines()

    assert len(lines) == 3
    assert lines[0] == "2026-11-26T09:00:00.000Z 20 start Shop.Pay user=bob tenant=acme call=c9"
    assert re.match(
        r"2026-11-26T09:00:01.000Z 21 finish Shop.Pay ok, ran user=bob tenant=acme call=c9 1000 ms$", lines[1]
    )


def test_rows_are_chosen_by_what_they_are_about(log: str) -> None:
    def seqs(*arguments: str) -> list[int]:
        lines = invoke("tail", "-n", "100", "--json", *arguments).stdout.splitlines()
        return [orjson.loads(line)["seq"] for line in lines]

    assert seqs("--tool", "Shop.Pay") == [10, 11, 20, 21]
    assert seqs("--user", "bob", "--kind", "start") == [4, 8, 12, 16, 20]
    assert seqs("--call", "c3") == [8, 9]
    assert seqs("--tenant", "other") == []
    assert seqs("--since", "2026-11-26T08:00", "--until", "2026-11-26T09:00:01Z") == [18, 19, 20]
    assert seqs("--since", "2026-11-26T10:00:00+02:00", "--kind", "start") == [18, 20]
    assert len(seqs()) == 22
    assert invoke("tail", "-n", "0").stdout == ""


def test_what_is_no_time_is_refused(log: str) -> None:
    result = invoke("tail", "--since", "yesterday")

    assert result.exit_code == 2
    assert "'yesterday' is no time; write 2026-11-26" in result.stderr


def test_control_characters_of_others_do_not_reach_the_terminal(url: str) -> None:
    write(url, 1, **{"\x1b[2J": "\x1b]0;owned\x07"})
    records = open_records(url)
    audit = AuditLog(records, key=audit_key(SECRET))
    audit.note("no\x1b[31mte", user="a\nb\x1b[0m")
    audit.close()
    records.close()

    assert "\x1b" not in invoke("tail", "-n", "100").stdout


def test_new_rows_are_followed(log: str) -> None:
    command = [sys.executable, "-m", "toolpost", "audit", "tail", "-n", "1", "-f", "--no-toolbox", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as following:
        assert following.stdout is not None
        first = orjson.loads(following.stdout.readline())
        write(log, 1)
        rows = [orjson.loads(following.stdout.readline()) for _ in range(4)]
        following.terminate()

    assert first["seq"] == 22
    assert [(row["seq"], row["kind"]) for row in rows] == [
        (23, "opened"),
        (24, "start"),
        (25, "finish"),
        (26, "closed"),
    ]


def followed(monkeypatch: pytest.MonkeyPatch, *arguments: str, sleeps: int = 0) -> Result:
    """tail -f from the first row on, until it has slept so often."""
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) > sleeps:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.setattr(AuditOperations, "newest", lambda *_: [])
    return invoke("tail", "-f", *arguments)


def test_rows_that_nobody_asked_for_are_passed_without_a_pause(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolpost.engine.audit_operations.PAGE", 3)

    result = followed(monkeypatch, "--call", "c9")

    assert [line.split()[2] for line in result.stdout.splitlines()] == ["start", "finish"]


def test_following_waits_for_a_store_that_is_away(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    since, times = AuditOperations.since, []

    def now_and_then(*given: Any) -> Any:
        times.append(1)
        if len(times) < 4:
            raise StoreUnavailableError("the store is away")
        return since(*given)

    monkeypatch.setattr(AuditOperations, "since", now_and_then)
    result = followed(monkeypatch, "--call", "c9", sleeps=3)

    assert result.stderr.count("the store is away; waiting until it is back") == 1
    assert len(result.stdout.splitlines()) == 2


# export


def test_json_lines_are_verified_without_the_store(log: str) -> None:
    assert invoke("export", "-o", "out.jsonl").exit_code == 0
    Path("records.db").unlink()

    told = answer("verify", "--file", "out.jsonl")

    assert (told["ok"], told["rows"]) == (True, 22)
    assert stat.S_IMODE(os.stat("out.jsonl").st_mode) == 0o600


def lines_of(path: str) -> list[bytes]:
    return Path(path).read_bytes().splitlines(keepends=True)


def hidden(lines: list[bytes], seq: int) -> list[bytes]:
    """Lines without a row, where the next says what it is linked to as in a choice of rows, and the last fits."""
    before, behind = orjson.loads(lines[seq]), orjson.loads(lines[seq + 1])
    last = orjson.loads(lines[-1])
    told = orjson.dumps({**behind, "before": before["hash"]}) + b"\n"
    end = orjson.dumps({**last, "rows": last["rows"] - 1}) + b"\n"
    return [*lines[:seq], told, *lines[seq + 2 : -1], end]


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (lambda lines: [*lines[:6], lines[6].replace(b'"ann"', b'"eve"'), *lines[7:]], [("altered", 6)]),
        (lambda lines: [*lines[:6], *lines[7:]], [("missing", 6), ("truncated", 22)]),
        (lambda lines: [*lines[:6], lines[7], lines[6], *lines[8:]], None),
        (lambda lines: lines[:-1], [("truncated", 22)]),
        (lambda lines: lines[:-2], [("truncated", 21)]),
        (lambda lines: [lines[0], *lines[2:]], [("missing", 1), ("truncated", 22)]),
        (lambda lines: hidden(lines, 6), [("missing", 6)]),
    ],
    ids=["altered", "deleted", "swapped", "no last line", "cut off", "without its first row", "deleted as by a choice"],
)
def test_a_file_that_was_changed_is_found_out(log: str, edit: Any, found: Any) -> None:
    invoke("export", "-o", "out.jsonl")
    Path("out.jsonl").write_bytes(b"".join(edit(lines_of("out.jsonl"))))

    told = answer("verify", "--file", "out.jsonl", exit_code=1)

    findings = [(finding["what"], finding["seq"]) for finding in told["findings"]]
    assert findings if found is None else findings == found


@pytest.mark.parametrize(
    "edit",
    [
        lambda line: line.replace(b'"row":{', b'"row":{"user":"eve","user":"ann",'),
        lambda line: line.replace(b'{"seq":', b'{"seq":900,"seq":'),
        lambda line: line.replace(b'"seq":6', b'"seq":6.7'),
        lambda line: line.replace(b'{"seq":', b'{"user":"eve","seq":'),
        lambda line: orjson.dumps(orjson.loads(line) | {"raw": raw_of(line), "row": {"user": "eve"}}) + b"\n",
        lambda line: line + line.replace(b'{"seq":', b'{"end_seq":1,"seq":').replace(b'"ann"', b'"eve"'),
        lambda line: line + b'{"end_seq":1,"end_hash":"00","rows":1}\n',
    ],
    ids=["name twice", "number twice", "no whole number", "more", "raw and row", "row as an end", "end in the middle"],
)
def test_a_line_that_other_readers_read_otherwise_is_refused(log: str, edit: Any) -> None:
    invoke("export", "-o", "out.jsonl")
    lines = lines_of("out.jsonl")
    Path("out.jsonl").write_bytes(b"".join([*lines[:6], edit(lines[6]), *lines[7:]]))

    result = invoke("verify", "--file", "out.jsonl")

    assert result.exit_code == 2
    assert re.search(r"line [78]", result.stderr)


def raw_of(line: bytes) -> str:
    return base64.b64encode(orjson.dumps(orjson.loads(line)["row"])).decode()


def test_no_reader_takes_a_character_of_a_row_for_the_end_of_a_line(url: str) -> None:
    write(url, 1, **{"a\u2028b\x85c\u2029": "d\u2028\ne\x85"})
    invoke("export", "-o", "out.jsonl")
    lines = Path("out.jsonl").read_text().splitlines()

    assert [list(json.loads(line)) for line in lines[1:-1]] == [["seq", "hash", "row"]] * 4
    assert json.loads(lines[2])["row"]["arguments"] == {"a\u2028b\x85c\u2029": "d\u2028\ne\x85"}
    assert answer("verify", "--file", "out.jsonl")["ok"]


def test_a_file_that_was_only_laid_out_anew_is_as_it_was(log: str) -> None:
    invoke("export", "-o", "out.jsonl")
    Path("out.jsonl").write_text("\r\n".join(json.dumps(orjson.loads(line)) for line in lines_of("out.jsonl")))

    assert answer("verify", "--file", "out.jsonl")["ok"]


@pytest.mark.parametrize("text", ["", "{}\n", "not JSON\n", '{"toolpost_audit":1,"start_seq":"x","start_hash":1}\n'])
def test_a_file_that_is_no_export_is_refused(url: str, text: str) -> None:
    Path("odd.jsonl").write_text(text)

    result = invoke("verify", "--file", "odd.jsonl")

    assert result.exit_code == 2
    assert "odd.jsonl" in result.stderr


def test_a_choice_of_rows_is_verified_row_by_row(log: str) -> None:
    invoke("export", "--user", "bob", "-o", "bob.jsonl")
    kept, said = answer("verify", "--file", "bob.jsonl"), invoke("verify", "--file", "bob.jsonl").output
    Path("bob.jsonl").write_bytes(Path("bob.jsonl").read_bytes().replace(b'"order":3', b'"order":4'))
    changed = answer("verify", "--file", "bob.jsonl", exit_code=1)

    assert (kept["ok"], kept["rows"], kept["apart"]) == (True, 10, True)
    assert not answer("verify")["apart"]
    assert "a choice of rows" in said
    assert [(finding["what"], finding["seq"]) for finding in changed["findings"]] == [("altered", 8)]


def test_a_row_that_somebody_made_unreadable_is_exported_as_it_is(log: str) -> None:
    damage("update toolpost_audit set body = x'ff00' where seq = 6")
    invoke("export", "-o", "out.jsonl")

    told = answer("verify", "--file", "out.jsonl", exit_code=1)

    assert [(finding["what"], finding["seq"]) for finding in told["findings"]] == [("altered", 6)]


def test_csv_has_every_row_and_no_formula(url: str) -> None:
    write(url, 1, **{"=cmd|' /C calc'!A0": '=HYPERLINK("http://evil")', "two": "a\nb\x00"})
    records = open_records(url)
    audit = AuditLog(records, key=audit_key(SECRET))
    for user in ("=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\r=1", "\uff1d1", "\u200b\ufeff=1", "ann"):
        audit.note("k", user=user)
    audit.close()
    records.close()

    rows = list(csv.DictReader(io.StringIO(invoke("export", "--format", "csv").stdout)))

    assert list(rows[0]) == list(COLUMNS)
    assert [row["seq"] for row in rows] == [str(number) for number in range(1, 17)]
    users = [row["user"] for row in rows if row["kind"] == "k"]
    plain = ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "' =1", "\\u0009=1", "\\u000d=1", "'\uff1d1"]
    assert users == [*plain, "'\u200b\ufeff=1", "ann"]
    cells = [cell for row in rows for cell in row.values()]
    assert not [cell for cell in cells if cell.lstrip()[:1] in ("=", "+", "@") or "\n" in cell or "\x00" in cell]


def test_cef_escapes_what_would_end_a_field(url: str) -> None:
    records = open_records(url)
    audit = AuditLog(records, key=audit_key(SECRET))
    audit.note("a|b\\c", user="x=1 suser=root", tool="t|t\nCEF:0")
    audit.close()
    records.close()

    lines = invoke("export", "--format", "cef").stdout.splitlines()

    assert len(lines) == 3
    assert "|a\\|b\\\\c|a\\|b\\\\c t\\|t" in lines[1]
    assert " suser=x\\=1 suser\\=root" in f" {lines[1].rpartition('|')[2]}"
    assert all(re.match(r"CEF:0\|toolpost\|toolpost\|[^|]+\|", line) for line in lines)


def test_a_file_that_is_there_is_not_written_over(log: str) -> None:
    Path("there.jsonl").write_text("mine")

    for command in (["export", "-o", "there.jsonl"], ["rotate", "--keep", "2", "--to", "there.jsonl"]):
        result = invoke(*command)
        assert result.exit_code == 2
        assert "there.jsonl" in result.stderr
    assert Path("there.jsonl").read_text() == "mine"


@pytest.mark.parametrize("command", [["export", "-o"], ["rotate", "--keep", "4", "--to"]])
def test_a_disk_that_is_full_leaves_no_half_of_a_file_and_every_row(
    url: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("TOOL_EXECUTOR_RECORDS_URL", postgres_url)
    write(postgres_url, 10)
    program = [sys.executable, "-m", "toolpost", "audit", *command, "out.jsonl", "--no-toolbox"]
    limit = f"import os, resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n{LIMITED}"

    full = subprocess.run([sys.executable, "-c", limit, *program], capture_output=True, text=True, timeout=60)

    assert full.returncode == 2
    assert "out.jsonl: File too large" in full.stderr
    assert not Path("out.jsonl").exists()
    assert (answer("verify")["ok"], answer("verify")["first"]) == (True, 1)
    assert invoke(*command, "out.jsonl").exit_code == 0
    assert answer("verify", "--file", "out.jsonl")["ok"]


LIMITED = "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); os.execv(sys.argv[1], sys.argv[1:])"
"""Files beyond 2,000 bytes are refused, as by a disk that is full. The rows are in a server, which has no limit."""


# rotate


def test_old_rows_go_into_a_file_and_the_chain_goes_on(log: str) -> None:
    first = answer("rotate", "--before", "2026-11-26T03:00", "--to", "one.jsonl")
    second = answer("rotate", "--keep", "4", "--to", "two.jsonl")
    left = answer("verify")
    whole = answer("verify", "--file", "one.jsonl", "--file", "two.jsonl", "--then-records")

    assert (first["rows"], first["first"], first["last"]) == (7, 1, 7)
    assert second["first"] == 8
    assert (left["ok"], left["first"]) == (True, second["last"] + 1)
    assert (whole["ok"], whole["first"], whole["rows"]) == (True, 1, whole["last"])
    assert stat.S_IMODE(os.stat("one.jsonl").st_mode) == 0o600


def test_a_file_of_a_rotation_whose_beginning_was_cut_off_is_found(log: str) -> None:
    invoke("rotate", "--keep", "8", "--to", "one.jsonl")
    invoke("rotate", "--keep", "4", "--to", "two.jsonl")
    lines = lines_of("one.jsonl")
    fifth, last = orjson.loads(lines[5]), orjson.loads(lines[-1])
    head = orjson.loads(lines[0]) | {"start_seq": 5, "start_hash": fifth["hash"]}
    end = last | {"rows": last["rows"] - 5}
    Path("one.jsonl").write_bytes(b"\n".join([orjson.dumps(head), b"".join(lines[6:-1]) + orjson.dumps(end), b""]))

    told = answer("verify", "--file", "one.jsonl", "--file", "two.jsonl", "--then-records", exit_code=1)
    alone = invoke("verify", "--file", "one.jsonl")

    assert [(finding["what"], finding["seq"]) for finding in told["findings"]] == [("start", 5)]
    assert "one.jsonl begins with row 6" in told["findings"][0]["said"]
    assert "rows before 6 were not looked at" in alone.output


def test_no_row_goes_before_the_file_and_its_folder_are_synced(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done, fsync, rotate_audit = [], os.fsync, SqlDocuments.rotate_audit

    def synced(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def taken(records: Any, through: int) -> Any:
        done.append("rows")
        return rotate_audit(records, through)

    monkeypatch.setattr("os.fsync", synced)
    monkeypatch.setattr(SqlDocuments, "rotate_audit", taken)
    answer("rotate", "--keep", "8", "--to", "one.jsonl")

    assert done == ["file", "folder", "rows"]


def test_a_file_that_does_not_hold_what_was_written_takes_no_row(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for a disk that fails: what is written into the file is another row than was given."""
    monkeypatch.setattr(audit_files, "row_line", lambda row: row_line(row._replace(hash=bytes(32))))

    result = invoke("rotate", "--keep", "8", "--to", "one.jsonl")

    assert result.exit_code == 2
    assert "does not hold what was written into it" in result.stderr
    assert not Path("one.jsonl").exists()
    assert answer("verify")["first"] == 1


def test_files_are_verified_in_their_order_and_none_may_be_missing(log: str) -> None:
    for number in range(3):
        invoke("rotate", "--keep", str(12 - 4 * number), "--to", f"{number}.jsonl")
    files = [["--file", f"{number}.jsonl"] for number in range(3)]

    assert answer("verify", *files[0], *files[1], *files[2], "--then-records")["ok"]
    assert answer("verify", *files[0], *files[1])["ok"]
    gap = answer("verify", *files[0], *files[2], exit_code=1)["findings"]
    answer("verify", *files[1], *files[0], exit_code=1)
    answer("verify", *files[0], "--then-records", exit_code=1)
    assert gap[0]["what"] == "missing"


def test_the_rotation_is_in_the_log_with_the_files_digest(log: str) -> None:
    import hashlib

    done = answer("rotate", "--keep", "3", "--to", "old.jsonl")
    [row] = [orjson.loads(line) for line in invoke("tail", "--json", "--kind", "rotated").stdout.splitlines()]

    digest = hashlib.sha256(Path("old.jsonl").read_bytes()).hexdigest()
    assert done["sha256"] == digest
    assert row["data"]["sha256"] == digest
    assert (row["data"]["through"], row["data"]["rows"], row["data"]["file"]) == (19, 19, "old.jsonl")


def test_a_rotation_that_broke_off_in_the_middle_is_no_fault_and_can_be_done_again(log: str) -> None:
    invoke("rotate", "--keep", "2", "--to", "before.jsonl")
    write(log, 10)
    rows = answer("verify")
    invoke("rotate", "--keep", "2", "--to", "old.jsonl")
    damage(*_as_if_only_gone(Path("old.jsonl"), rows["first"] + 5))
    left = answer("verify")
    again = answer("rotate", "--keep", "2", "--to", "again.jsonl")

    assert (left["ok"], left["first"]) == (True, rows["first"] + 5)
    assert again["first"] == rows["first"] + 5
    assert answer("verify")["ok"]


def _as_if_only_gone(file: Path, first: int) -> list[str]:
    """Statements that put back the rows of a file from first on, as where a rotation took only those before."""
    rows = {row.seq: row for row in rows_in(file)}
    put = [
        f"insert into toolpost_audit values ({row.seq}, x'{row.body.hex()}', x'{row.hash.hex()}')"
        for row in rows.values()
        if row.seq >= first
    ]
    head = f"update toolpost_audit_head set start_seq = {first - 1}, start_hash = x'{rows[first - 1].hash.hex()}'"
    return [*put, head]


def test_a_log_that_was_tampered_with_is_not_rotated(log: str) -> None:
    damage(ALTER)
    result = invoke("rotate", "--keep", "1", "--to", "old.jsonl")

    assert result.exit_code == 2
    assert "nothing is rotated: row 6 was altered" in result.stderr
    assert not Path("old.jsonl").exists()
    assert answer("verify", exit_code=1)["rows"] == 22


def test_where_nothing_is_old_enough_nothing_is_done(log: str) -> None:
    for command in (["--keep", "100"], ["--before", "2020-01-01"]):
        result = invoke("rotate", *command, "--to", "old.jsonl")
        assert (result.exit_code, result.stdout) == (0, "there is no row to take\n")
    assert not Path("old.jsonl").exists()


@pytest.mark.parametrize("options", [[], ["--keep", "1", "--before", "2026-01-01"]])
def test_rotation_is_told_one_way_which_rows_go(log: str, options: list[str]) -> None:
    result = invoke("rotate", *options, "--to", "old.jsonl")

    assert result.exit_code == 2
    assert "either --before TIME or --keep N" in result.stderr


def test_a_rotation_whose_beginning_was_rewritten_is_found(log: str) -> None:
    invoke("rotate", "--keep", "4", "--to", "old.jsonl")
    damage("update toolpost_audit_head set start_hash = zeroblob(32)")

    told = answer("verify", exit_code=1)

    assert [(finding["what"], finding["seq"]) for finding in told["findings"]] == [("start", 18)]
