"""A call that a person must approve, over processes: each step is a program of its own, on records that they share."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from tests.faults.fleet import until
from tests.journeys.refunds import TOOLS as REFUNDS
from tests.transports.cli_shop import environment
from toolpost import create_tool_call
from toolpost.testing import FakeClock, executor_for
from toolpost.transports.cli_options import ExitCode

ROOT = Path(__file__).resolve().parents[2]
TOOLS = f"{Path(__file__).resolve().parent / 'refunds.py'}:TOOLS"
PROCESSES = 4


@pytest.fixture(params=["sqlite", "postgres"])
def records(request, tmp_path):
    """Where the approvals live."""
    return f"sqlite:///{tmp_path}/records.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def effects(tmp_path):
    """What the tool did, one line a run."""
    return tmp_path / "effects"


def toolpost(records, effects, *arguments):
    """A command of the program, in a process of its own: its exit code, and what it answers."""
    done = subprocess.run(
        [sys.executable, "-m", "toolpost", "--no-toolbox", "--tools", TOOLS, "--json", *arguments],
        env=environment(EFFECTS=str(effects), TOOL_EXECUTOR_RECORDS_URL=records),
        capture_output=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode in (0, ExitCode.REJECTED), done.stderr.decode()
    return done.returncode, orjson.loads(done.stdout)


def call(records, effects, amount=500):
    """What ann's call is told: its code ("ok"), message, and what else she needs to go on."""
    arguments = ("Shop.Refund", "order=1", f"amount={amount}", "--user", "ann")
    exit_code, told = toolpost(records, effects, "call", *arguments)
    assert exit_code == (0 if told["success"] else ExitCode.REJECTED)
    return {"code": "ok"} if told["success"] else {**told["metadata"], "message": told["error"]}


def runs(effects):
    return effects.read_text().splitlines() if effects.exists() else []


def test_an_approved_call_runs_once_over_restarts(records, effects):
    first = call(records, effects)
    approval_id = first["approval_id"]
    _, approved = toolpost(records, effects, "approvals", "approve", approval_id, "--by", "eve")
    ran = call(records, effects)
    again = call(records, effects)

    assert first["code"] == "approval_required"
    assert (approved["state"], ran["code"], runs(effects)) == ("approved", "ok", ["1 500"])
    assert again["code"] == "approval_required"
    assert again["approval_id"] != approval_id


def test_a_denied_call_tells_its_reason_and_an_edited_one_what_to_call_with(tmp_path, effects):
    records = f"sqlite:///{tmp_path}/records.db"
    with shop(records) as executor:
        denied_id = asked(executor.execute_sync(refund_call(500)))
        edited_id = asked(executor.execute_sync(refund_call(900)))
    toolpost(records, effects, "approvals", "deny", denied_id, "--reason", "it was never paid", "--by", "eve")
    edit = ("--arguments", '{"order": 1, "amount": 150}', "--by", "eve")
    _, granted = toolpost(records, effects, "approvals", "approve", edited_id, *edit)
    with shop(records, effects) as executor:
        denied = executor.execute_sync(refund_call(500)).failure
        told = executor.execute_sync(refund_call(900)).failure
        ran = [executor.execute_sync(refund_call(150)).success for _ in range(2)]

    assert denied.code == told.code == "approval_denied"
    assert "it was never paid" in denied.message
    assert (told.details["arguments"], told.details["approval_id"]) == ({"order": 1, "amount": 150.0}, granted["id"])
    assert (ran, runs(effects)) == ([True, False], ["1 150"])


def test_one_grant_runs_once_however_many_processes_threads_and_tasks_want_it(records, effects):
    with shop(records) as executor:
        approval_id = asked(executor.execute_sync(refund_call(500)))
        executor.approvals.approve(approval_id, by="eve")

    workers = [started(records, effects) for _ in range(PROCESSES)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    codes = [code for worker in workers for code in json.loads(worker.communicate()[0])]

    assert codes.count("ok") == 1
    assert set(codes) <= {"ok", "in_progress", "approval_required"}
    assert [line for line in runs(effects) if line == "1 500"] == ["1 500"]
    with shop(records) as executor:
        history = [event["what"] for event in executor.approvals.show(approval_id).history]
        assert len(executor.approvals.list()) <= 1
    assert history == ["asked", "approved", "reserved", "consumed"]


def test_a_grant_whose_process_is_killed_within_the_body_is_used(tmp_path, effects):
    records = f"sqlite:///{tmp_path}/records.db"
    with shop(records) as executor:
        approval_id = asked(executor.execute_sync(refund_call(500)))
        executor.approvals.approve(approval_id, by="eve")

    dying = started(records, effects, HANGS="1")
    dying.stdin.write("\n")
    dying.stdin.close()
    try:
        until(lambda: "1 500" in runs(effects), what="the body")
    finally:
        dying.kill()
        dying.wait()
        dying.stdout.close()

    with shop(records, effects) as executor:
        assert executor.execute_sync(refund_call(500)).failure.code == "in_progress"
        assert executor.approvals.show(approval_id).state == "reserved"
    later = FakeClock(time.time() + 3600)
    with shop(records, effects, clock=later) as executor:
        assert asked(executor.execute_sync(refund_call(500))) != approval_id
        assert executor.approvals.show(approval_id).standing(later.now()) == "lost"
    assert [line for line in runs(effects) if line == "1 500"] == ["1 500"]


def shop(records, effects=None, **more):
    """An executor with the tool, on these records."""
    if effects is not None:
        os.environ["EFFECTS"] = str(effects)  # which the fixture of the environment takes back
    return executor_for(*REFUNDS, records_url=records, **more)


def refund_call(amount):
    return create_tool_call("Shop.Refund", {"order": 1, "amount": amount}, user_id="ann")


def asked(result):
    assert result.failure.code == "approval_required", result.failure
    return result.failure.details["approval_id"]


def started(records, effects, **env):
    """A process of many equal calls, which waits for a line."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    return subprocess.Popen(
        [sys.executable, "-m", "tests.journeys.refunds", records],
        cwd=ROOT,
        env={**os.environ, "EFFECTS": str(effects), "PYTHONPATH": path, **env},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
