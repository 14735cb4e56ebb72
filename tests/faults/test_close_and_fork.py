"""Executors that are closed while calls hold claims, and processes that fork while they do."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

from tests.faults.fleet import ROOT, charge, source_path, until
from tests.faults.shop import tool_of
from tests.faults.worker import made
from toolpost.testing import executor_for

LEASE_S = 0.6
ONCE = {"idempotency": {"key_fields": ("order",), "lease_s": LEASE_S}}


def test_an_executor_closed_while_bodies_run_lets_none_run_twice(lasting, effects, start):
    worker = start("a", lasting, ONCE, {"name": "Pay.Thread", "manner": "blocking", **ONCE}).ready()
    effects.shut("a")
    names = ["Pay.Charge", "Pay.Thread"]
    numbers = [worker.ask([charge(how, tool=name)], how=how) for name in names for how in ("tasks", "threads")]
    until(lambda: len(effects.seen("begin")) == 4, what="the bodies")

    closing = worker.ask(close=True)
    effects.open("a")
    worker.answer(closing)
    results = [result for number in numbers for result in worker.answer(number)]
    (late,) = worker.make([charge("late")])

    assert {result["code"] for result in results} <= {None, "cancelled", "timeout", "overloaded", "store_unavailable"}
    assert late["code"] in ("overloaded", "store_unavailable")
    with executor_for(*(tool_of(effects, "here", name=name, **ONCE) for name in names), **lasting) as executor:
        again = [executor.execute_sync(made(charge(how, tool=n))) for n in names for how in ("tasks", "threads")]
    for first, repeat in zip(results, again, strict=True):
        if repeat.success:
            assert repeat.source == "replay"
            assert first["data"] in (None, repeat.data)
        else:
            assert repeat.failure.code == "outcome_unknown"
    assert len(effects.seen("begin")) == 4


def test_an_executor_closed_after_its_calls_has_told_all_their_ends(lasting, effects, start):
    worker = start("a", lasting, ONCE).ready()

    results = worker.make([charge(f"o-{n}") for n in range(40)] + [charge(f"broken-{n}") for n in range(10)])
    worker.answer(worker.ask(close=True))
    worker.kill()

    with executor_for(tool_of(effects, "here", **ONCE), **lasting) as executor:
        again = [executor.execute_sync(made(charge(result["order"]))) for result in results]
        assert executor.claims().unsettled() == []
    assert [result.data for result in again[:40]] == [result["data"] for result in results[:40]]
    assert {result.source for result in again[:40]} == {"replay"}
    assert {result.failure.code for result in again[40:]} == {"BROKEN"}


@contextmanager
def forked(effects, settings, tools, **calls):
    """A process that forks in the middle of these calls; at the end its exit code is checked and it is gone."""
    said = {"folder": str(effects.folder), "settings": settings, "tools": tools, **calls}
    with effects.folder.joinpath("log").open("wb") as log:
        forking = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forking", json.dumps(said)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": source_path()},
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
        code = forking.wait(30)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(forking.pid, signal.SIGKILL)
        forking.wait()
    assert code == 0, effects.folder.joinpath("log").read_text()[-3000:]


def answers(effects, who):
    """How the calls of the parent or the child ended, by order."""
    return {line["order"]: line for line in effects.seen("answer", who=who)}


def test_a_forked_child_uses_the_claims_it_inherited_and_leaves_its_parents_alone(lasting, effects):
    slow = {"name": "Pay.Slow", "idempotency": {**ONCE["idempotency"], "rerun_unknown": True}}
    charges = {
        "before": [("Pay.Charge", "early")],
        "held": [("Pay.Charge", "of the parent")],
        "child": [
            ("Pay.Charge", "early"),
            ("Pay.Charge", "of the parent"),
            ("Pay.Charge", "own"),
            ("Pay.Slow", "slow"),
        ],
        "after": [("Pay.Charge", "late"), ("Pay.Charge", "early")],
    }
    tools = [("parent", {**ONCE, "only": "of the parent"}), ("child", slow)]
    effects.shut("parent")
    effects.shut("child")

    impatient = tool_of(effects, "here", **{**slow, "idempotency": {**slow["idempotency"], "in_flight": "refuse"}})
    with executor_for(impatient, **lasting) as executor, forked(effects, lasting, tools, **charges):
        (held,) = until(lambda: effects.seen("begin", order="slow"), what="the child's body")
        renewals, left_s = 0, 0.0

        def renewed_often():
            nonlocal renewals, left_s
            claim = executor.claims().show(held["key"])
            assert claim.state == "in_flight"
            renewals += claim.left_s > left_s
            left_s = claim.left_s
            return renewals > 7

        until(renewed_often)
        assert executor.execute_sync(made(charge("slow", tool="Pay.Slow"))).failure.code == "in_progress"
        effects.open("child")
        effects.open("parent")

    parent, child = answers(effects, "parent"), answers(effects, "child")
    assert {line["code"] for line in [*parent.values(), *child.values()]} == {None}
    assert child["of the parent"]["data"] == parent["of the parent"]["data"]
    assert child["early"]["data"] == parent["early"]["data"]
    sources = {order: line["source"] for order, line in child.items()}
    assert sources == {"early": "replay", "of the parent": "replay", "own": "run", "slow": "run"}
    assert len(effects.seen("begin")) == 5


def test_a_forked_child_keeps_the_place_it_takes(redis_url, effects):
    place = {"name": "Pay.Place", "concurrency": {"calls": 2, "wait_s": 0.0, "lease_s": LEASE_S}}
    calls = {"before": [], "held": [("Pay.Place", "parent")], "child": [("Pay.Place", "child")], "after": []}
    effects.shut("both")

    state = {"state_url": redis_url}
    here = tool_of(effects, "here", **place)
    with executor_for(here, **state) as executor, forked(effects, state, [("both", place)], **calls):
        (held,) = until(lambda: effects.seen("begin", order="child"), what="the child's body")

        def three_leases_later():
            assert executor.execute_sync(made(charge("here", tool="Pay.Place"))).failure.code == "concurrency_limited"
            return time.monotonic() > held["at"] + 3 * LEASE_S

        until(three_leases_later)
        effects.open("both")

    assert answers(effects, "parent")["parent"]["code"] is None
    assert answers(effects, "child")["child"]["code"] is None
