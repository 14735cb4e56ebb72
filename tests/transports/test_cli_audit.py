"""toolpost audit: what it finds, shows, exports and puts away, and its exit codes."""

import csv
import io
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
from toolpost.calls.events import CallFinished
from toolpost.stores import open_records
from toolpost.telemetry.audit import AuditLog
from toolpost.telemetry.audit_files import COLUMNS, rows_in
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


# export


def test_json_lines_are_verified_without_the_store(log: str) -> None:
    assert invoke("export", "-o", "out.jsonl").exit_code == 0
    Path("records.db").unlink()

    told = answer("verify", "--file", "out.jsonl")

    assert (told["ok"], told["rows"]) == (True, 22)
    assert stat.S_IMODE(os.stat("out.jsonl").st_mode) == 0o600


def lines_of(path: str) -> list[bytes]:
    return Path(path).read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (lambda lines: [*lines[:6], lines[6].replace(b'"ann"', b'"eve"'), *lines[7:]], [("altered", 6)]),
        (lambda lines: [*lines[:6], *lines[7:]], [("missing", 6), ("truncated", 22)]),
        (lambda lines: [*lines[:6], lines[7], lines[6], *lines[8:]], None),
        (lambda lines: lines[:-1], [("truncated", 22)]),
        (lambda lines: lines[:-2], [("truncated", 21)]),
        (lambda lines: [lines[0], *lines[2:]], [("missing", 1), ("truncated", 22)]),
    ],
    ids=["altered", "deleted", "swapped", "no last line", "cut off", "without its first row"],
)
def test_a_file_that_was_changed_is_found_out(log: str, edit: Any, found: Any) -> None:
    invoke("export", "-o", "out.jsonl")
    Path("out.jsonl").write_bytes(b"".join(edit(lines_of("out.jsonl"))))

    told = answer("verify", "--file", "out.jsonl", exit_code=1)

    findings = [(finding["what"], finding["seq"]) for finding in told["findings"]]
    assert findings if found is None else findings == found


@pytest.mark.parametrize("text", ["", "{}\n", "not JSON\n", '{"toolpost_audit":1,"start_seq":"x","start_hash":1}\n'])
def test_a_file_that_is_no_export_is_refused(url: str, text: str) -> None:
    Path("odd.jsonl").write_text(text)

    result = invoke("verify", "--file", "odd.jsonl")

    assert result.exit_code == 2
    assert "odd.jsonl" in result.stderr


def test_a_choice_of_rows_is_verified_row_by_row(log: str) -> None:
    invoke("export", "--user", "bob", "-o", "bob.jsonl")
    kept = answer("verify", "--file", "bob.jsonl")
    Path("bob.jsonl").write_bytes(Path("bob.jsonl").read_bytes().replace(b'"order":3', b'"order":4'))
    changed = answer("verify", "--file", "bob.jsonl", exit_code=1)

    assert (kept["ok"], kept["rows"]) == (True, 10)
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
    for user in ("=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\r=1", "\uff1d1", "ann"):
        audit.note("k", user=user)
    audit.close()
    records.close()

    rows = list(csv.DictReader(io.StringIO(invoke("export", "--format", "csv").stdout)))

    assert list(rows[0]) == list(COLUMNS)
    assert [row["seq"] for row in rows] == [str(number) for number in range(1, 16)]
    users = [row["user"] for row in rows if row["kind"] == "k"]
    assert users == ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "' =1", "\\u0009=1", "\\u000d=1", "'\uff1d1", "ann"]
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
