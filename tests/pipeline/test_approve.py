"""approve and spend: who is asked, what a grant is bound to, that it is used once, and what gives it back."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import pytest
from hypothesis import given, strategies as st
from pydantic import BaseModel, Field, HttpUrl, SecretStr

from toolpost import (
    Approval,
    ApprovalChanged,
    BaseTool,
    Breaker,
    Cache,
    Caller,
    Concurrency,
    ConfigurationError,
    FunctionToolExecutor,
    FunctionToolSpec,
    Hints,
    Idempotency,
    InputValidationError,
    PermissionDeniedError,
    RateLimit,
    Retry,
    StoreUnavailableError,
    Tool,
    ToolError,
    ToolExecutor,
    create_tool_call,
    policy,
)
from toolpost.testing import FakeClock, executor_for
from toolpost.testing.executor import Recorder


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def stores(request, tmp_path):
    """The settings of an executor whose approvals live in each kind of store."""
    if request.param == "memory":
        return {}
    if request.param == "sqlite":
        return {"records_url": f"sqlite:///{tmp_path}/records.db"}
    return {"records_url": request.getfixturevalue("postgres_url")}


def refunding(approval=None, **options):
    """A tool that counts its runs; what it is told to do decides how it ends."""
    state = {"runs": []}

    @Tool(name="Shop.Refund", register=False, approval=approval or Approval(reason="money leaves"), **options)
    async def refund(order: int, amount: float = 5.0) -> dict:
        state["runs"].append((order, amount))
        if "body" in state:
            await state["body"]()
        return {"order": order, "amount": amount}

    return refund, state


def call(order=1, user="ann", **more):
    fields = {name: more.pop(name) for name in list(more) if name not in ("amount",)}
    return create_tool_call("Shop.Refund", {"order": order, **more}, user_id=user, **fields)


def code(result):
    return result.failure.code if result.failure else "ok"


def asked(result):
    assert code(result) == "approval_required", result.failure
    return result.failure.details["approval_id"]


async def test_a_call_waits_for_its_approval_and_then_runs_once(stores):
    tool, state = refunding()
    with executor_for(tool, **stores) as executor:
        first = asked(await executor.execute_tool_call(call()))
        again = asked(await executor.execute_tool_call(call()))
        await asyncio.to_thread(executor.approvals.approve, first, by="ops")
        ran = await executor.execute_tool_call(call())
        anew = asked(await executor.execute_tool_call(call()))

        history = [event["what"] for event in executor.approvals.show(first).history]

    assert first == again != anew
    assert (code(ran), ran.data, state["runs"]) == ("ok", {"order": 1, "amount": 5.0}, [(1, 5.0)])
    assert history == ["asked", "approved", "reserved", "consumed"]


def test_callers_that_block_are_asked_as_well(stores):
    runs = []

    @Tool(name="Shop.Refund", register=False, approval=Approval())
    def refund(order: int) -> int:
        runs.append(order)
        return order

    with executor_for(refund, **stores) as executor:
        executor.approvals.approve(asked(executor.execute_sync(call())), by="ops")
        results = [code(executor.execute_sync(call())) for _ in range(2)]

    assert (results, runs) == (["ok", "approval_required"], [1])


OTHERS = {
    "arguments": {"amount": 6.0},
    "another order": {"order": 2},
    "user": {"user": "bob"},
    "nobody": {"user": None},
    "tenant": {"tenant": "acme"},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
async def test_a_grant_is_for_no_other_call(other):
    tool, state = refunding()
    with executor_for(tool) as executor:
        first = asked(await executor.execute_tool_call(call()))
        executor.approvals.approve(first, by="ops")

        assert asked(await executor.execute_tool_call(call(**other))) != first
        assert state["runs"] == []
        assert code(await executor.execute_tool_call(call(amount=5))) == "ok"  # a default that is said is the same call


@pytest.mark.parametrize(("per", "expected"), [("user", "ok"), ("session", "approval_required")])
async def test_a_grant_is_for_the_user_or_for_the_session_as_the_policy_says(per, expected):
    tool, _ = refunding(Approval(per=per))
    with executor_for(tool) as executor:
        executor.approvals.approve(asked(await executor.execute_tool_call(call(session_id="s1"))), by="ops")

        assert code(await executor.execute_tool_call(call(session_id="s2"))) == expected
        assert code(await executor.execute_tool_call(call(session_id="s1"))) == (
            "ok" if per == "session" else "approval_required"
        )


CHANGES = {
    "version": {"version": "2.0.0"},
    "description": {"description": "Another."},
    "schema": {"parameters": {"order": {"type": "integer"}, "amount": {"type": "number", "default": 5, "maximum": 9}}},
    "approvers": {"approval": Approval(reason="money leaves", approvers=("role:cfo",))},
    "code": {"body": 1},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_grant_is_void_once_the_definition_has_changed(change):
    change = dict(change)
    tool, state = refunding()
    if change.pop("body", None):

        @Tool(name="Shop.Refund", register=False, approval=Approval(reason="money leaves"))
        async def other(order: int, amount: float = 5.0) -> dict:
            return {"order": order, "amount": amount, "changed": True}

    else:
        other, state = refunding(**change)
    with executor_for(tool) as executor:
        first = asked(await executor.execute_tool_call(call()))
        executor.approvals.approve(first, by="ops")
        executor.add(other, replace=True)

        assert asked(await executor.execute_tool_call(call())) != first
        assert state["runs"] == []


async def test_nobody_can_approve_what_has_changed_since_it_was_asked():
    tool, _ = refunding()
    other, _ = refunding(description="Another.")
    with executor_for(tool) as executor:
        first = asked(await executor.execute_tool_call(call()))
        executor.add(other, replace=True)

        with pytest.raises(ConfigurationError, match="has changed since"):
            executor.approvals.approve(first, by="ops")


async def test_what_nobody_decides_or_uses_in_time_is_void():
    tool, state = refunding(Approval(expires_s=60))
    with executor_for(tool, clock=(clock := FakeClock())) as executor:
        first = asked(await executor.execute_tool_call(call()))
        clock.advance(61)
        with pytest.raises(ConfigurationError, match="is expired"):
            executor.approvals.approve(first, by="ops")
        second = asked(await executor.execute_tool_call(call()))
        clock.advance(59)
        executor.approvals.approve(second, by="ops")  # a decision is good for as long again
        clock.advance(59)
        third = await executor.execute_tool_call(call())
        executor.approvals.approve(asked(await executor.execute_tool_call(call())), by="ops")
        clock.advance(61)
        late = asked(await executor.execute_tool_call(call()))

    assert first != second != late
    assert (code(third), len(state["runs"])) == ("ok", 1)


async def test_a_denial_gives_the_model_the_reason_until_it_expires():
    tool, state = refunding(Approval(expires_s=60))
    with executor_for(tool, clock=(clock := FakeClock())) as executor:
        first = asked(await executor.execute_tool_call(call()))
        executor.approvals.deny(first, by="ops", reason="the order was never paid")
        denied = await executor.execute_tool_call(call())
        clock.advance(61)
        later = asked(await executor.execute_tool_call(call()))

    assert code(denied) == "approval_denied"
    assert "the order was never paid" in denied.failure.message
    assert (later != first, state["runs"]) == (True, [])


async def test_edited_arguments_are_what_is_granted_and_what_the_model_is_told():
    tool, state = refunding()
    with executor_for(tool) as executor:
        first = asked(await executor.execute_tool_call(call(amount=500)))
        record = executor.approvals.approve(first, by="ops", reason="at most 50", arguments={"order": 1, "amount": 50})
        told = await executor.execute_tool_call(call(amount=500))
        ran = await executor.execute_tool_call(call(**told.failure.details["arguments"]))
        again = await executor.execute_tool_call(call(amount=50))

    assert (code(told), told.failure.details["approval_id"]) == ("approval_denied", record.id)
    assert told.failure.details["arguments"] == {"order": 1, "amount": 50.0}
    assert "at most 50" in told.failure.message
    assert (code(ran), code(again), state["runs"]) == ("ok", "approval_required", [(1, 50.0)])


async def test_edited_arguments_are_checked_like_any_others_when_they_are_approved():
    tool, _ = refunding()
    with executor_for(tool) as executor:
        first = asked(await executor.execute_tool_call(call()))
        with pytest.raises(InputValidationError, match="'order' must be an integer"):
            executor.approvals.approve(first, by="ops", arguments={"order": "x"})
        with pytest.raises(ConfigurationError, match="leave them out"):
            executor.approvals.approve(first, by="ops", arguments={"order": 1})

        assert executor.approvals.show(first).state == "pending"


async def test_edited_arguments_are_screened_and_authorised_again_at_the_call():
    @Tool(name="Files.Drop", register=False, approval=Approval(), permissions=("files:drop",))
    async def drop(path: str) -> str:
        return path

    may = frozenset({"files:drop"})
    with executor_for(drop) as executor:
        made = create_tool_call("Files.Drop", {"path": "a.txt"}, user_id="ann", scopes=may)
        first = asked(await executor.execute_tool_call(made))
        executor.approvals.approve(first, by="ops", arguments={"path": "../../etc/passwd"})
        screened = await executor.execute_approved(first, caller=Caller(user_id="ann", scopes=may))
        made = create_tool_call("Files.Drop", {"path": "b.txt"}, user_id="ann", scopes=may)
        second = asked(await executor.execute_tool_call(made))
        executor.approvals.approve(second, by="ops", arguments={"path": "c.txt"})
        denied = await executor.execute_approved(second)
        ran = await executor.execute_approved(second, caller=Caller(user_id="ann", scopes=may))

    assert (code(screened), code(denied), code(ran)) == ("screened", "denied", "ok")


async def test_an_approved_call_is_made_from_what_was_approved():
    tool, state = refunding()
    with executor_for(tool) as executor:
        first = asked(await executor.execute_tool_call(call(amount=500)))
        executor.approvals.approve(first, by="ops", arguments={"order": 1, "amount": 50})
        with pytest.raises(PermissionDeniedError, match="another caller"):
            await executor.execute_approved(first, caller=Caller(user_id="bob"))
        ran = await executor.execute_approved(first)
        again = await executor.execute_approved(first)

    assert (code(ran), code(again), state["runs"]) == ("ok", "approval_required", [(1, 50.0)])


async def test_a_call_whose_arguments_are_not_kept_cannot_be_made_from_its_approval():
    @Tool(name="Login", register=False, approval=Approval())
    async def login(user: str, password: str) -> str:
        return user

    with executor_for(login) as executor:
        made = create_tool_call("Login", {"user": "u", "password": "hunter2-hunter2"}, user_id="ann")
        first = asked(await executor.execute_tool_call(made))
        record = executor.approvals.approve(first, by="ops")
        with pytest.raises(ConfigurationError, match="/password is hidden"):
            await executor.execute_approved(first)
        ran = await executor.execute_tool_call(made)

    assert "hunter2" not in str(record.body())
    assert code(ran) == "ok"


# -- who decides ------------------------------------------------------------------------------------------------------


async def test_nobody_approves_a_call_of_their_own_unless_the_policy_says_so():
    tool, _ = refunding()
    with executor_for(tool) as executor:
        first = asked(await executor.execute_tool_call(call()))
        for own in ("ann", " Ann ", Caller(user_id="ann", roles=frozenset({"ops"}))):
            with pytest.raises(PermissionDeniedError, match="of their own"):
                executor.approvals.approve(first, by=own)
        assert executor.approvals.deny(first, by=Caller(user_id="ann"), reason="a mistake").state == "denied"

    tool, _ = refunding(Approval(self_approval=True))
    with executor_for(tool) as executor:
        first = asked(await executor.execute_tool_call(call()))
        assert executor.approvals.approve(first, by="ann").state == "approved"


@pytest.mark.parametrize(
    ("by", "may"),
    [
        (Caller(user_id="bob", roles=frozenset({"ops"})), True),
        (Caller(user_id="bob", scopes=frozenset({"refunds:approve"})), True),
        (Caller(user_id="eve"), True),
        (Caller(user_id="bob", roles=frozenset({"dev"})), False),
        (Caller(user_id="bob", roles=frozenset({"ops"}), tenant="acme"), False),
        (Caller(roles=frozenset({"ops"})), False),
        ("an operator", True),
        ("", False),
    ],
)
async def test_approvers_are_those_whom_the_policy_names(by, may):
    tool, _ = refunding(Approval(approvers=("role:ops", "scope:refunds:approve", "user:eve")))
    with executor_for(tool) as executor:
        first = asked(await executor.execute_tool_call(call()))
        if may:
            assert executor.approvals.approve(first, by=by).state == "approved"
        else:
            with pytest.raises((PermissionDeniedError, ConfigurationError)):
                executor.approvals.approve(first, by=by)
            assert executor.approvals.show(first).state == "pending"


# -- who is asked -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("approval", "amount", "why"),
    [
        (Approval(where={"amount": {"exclusiveMinimum": 100}}), 100, None),
        (Approval(where={"amount": {"exclusiveMinimum": 100}}), 101, 'amount: {"exclusiveMinimum":100}'),
        (Approval(where={"amount": {"const": 5}}), None, 'amount: {"const":5}'),  # the default
        (Approval(when=lambda caller, arguments: arguments["amount"] > 100), 50, None),
        (Approval(when=lambda caller, arguments: caller.user_id == "ann" and "ann is new"), 50, "ann is new"),
        (Approval(reason="it is much", when=lambda caller, arguments: True), 50, "it is much"),
        (Approval(when=lambda caller, arguments: 1 / 0), 50, "could not be told (ZeroDivisionError)"),
        (Approval(when=lambda caller, arguments: asyncio.sleep(0)), 50, "could not be told (TypeError)"),
    ],
)
async def test_conditions_on_the_arguments_say_whether_a_person_is_asked(approval, amount, why):
    tool, state = refunding(approval)
    with executor_for(tool) as executor:
        result = await executor.execute_tool_call(call(**({} if amount is None else {"amount": amount})))

    assert code(result) == ("ok" if why is None else "approval_required")
    if why is not None:
        assert why in result.failure.details["reason"]
    assert len(state["runs"]) == (why is None)


@given(st.floats(min_value=0, max_value=1000, allow_nan=False), st.integers(0, 1000))
def test_a_condition_holds_for_exactly_the_arguments_that_fit_it(amount, bound):
    tool, _ = refunding(Approval(where={"amount": {"exclusiveMinimum": bound}}))
    with executor_for(tool) as executor:
        result = executor.execute_sync(call(amount=amount))

    assert (code(result) == "approval_required") == (amount > bound)


@pytest.mark.parametrize(
    "wrong",
    [
        {"where": {"amount": {"type": "nope"}}},
        {"where": {"amount": {"not": {"format": "emial"}}}},
        {"where": {"amount": {"pattern": r"^(a+)+\1$"}}},  # gives up, and so fits not, where it has to go back far
        {"where": {}},
        {"where": {"amount": 3}},
        {"when": 3},
        {"expires_s": 0},
        {"expires_s": float("inf")},
        {"wait_s": -1},
        {"approvers": "role:ops"},
        {"approvers": ("ops",)},
        {"per": "tenant"},
        {"max_pending": 0},
        {"self_approval": "no"},
        {"reason": None},
    ],
)
def test_a_policy_that_cannot_hold_is_refused_where_it_is_written(wrong):
    with pytest.raises(ConfigurationError, match="Approval"):
        Approval(**wrong)


def test_a_condition_on_a_parameter_that_is_not_there_is_refused():
    tool, _ = refunding(Approval(where={"amuont": {"exclusiveMinimum": 100}}))
    with executor_for(tool) as executor, pytest.raises(ConfigurationError, match="'amuont', which is no parameter"):
        executor.call_sync("Shop.Refund", order=1)


@pytest.mark.parametrize(
    ("setting", "hints", "own", "expected"),
    [
        (True, Hints(destructive=True), {}, "approval_required"),
        (True, Hints(destructive=True), {"approval": None}, "ok"),
        (True, Hints(destructive=False), {}, "ok"),
        (True, None, {}, "ok"),
        (False, Hints(destructive=True), {}, "ok"),
    ],
)
async def test_tools_that_say_they_are_destructive_may_be_asked_about_all_at_once(setting, hints, own, expected):
    @Tool(name="Shop.Refund", register=False, hints=hints, **own)
    async def refund(order: int) -> int:
        return order

    with executor_for(refund, approve_destructive=setting) as executor:
        assert code(await executor.execute_tool_call(call())) == expected


async def test_all_ways_of_writing_a_tool_may_ask_for_approval():
    class Shop(BaseTool):
        @policy(Approval())
        async def refund(self, order: int) -> int:
            return order

    @policy(Approval())
    async def plain(order: int) -> int:
        return order

    spec = FunctionToolSpec(
        id="refund-v1",
        tool_name="Spec.Refund",
        description="Refund.",
        parameters=[{"name": "order", "type": "integer"}],
        approval=Approval(reason="money leaves", where={"order": {"minimum": 1}}),
    )
    assert FunctionToolSpec.model_validate(spec.model_dump()).approval == {
        "reason": "money leaves",
        "where": {"order": {"minimum": 1}},
    }
    with executor_for(Shop(), Tool(name="Plain", register=False)(plain), spec.define(lambda args: 1)) as executor:
        for name in ("Shop.refund", "Plain", "Spec.Refund"):
            made = create_tool_call(name, {"order": 1}, user_id="ann")
            executor.approvals.approve(asked(await executor.execute_tool_call(made)), by="ops")
            assert [code(await executor.execute_tool_call(made)) for _ in range(2)] == ["ok", "approval_required"], name


def test_the_executor_of_a_spec_asks_as_well():
    spec = FunctionToolSpec(
        id="r", tool_name="Spec.R", description="R.", parameters=[], approval={"reason": "money leaves"}
    )

    result = asyncio.run(FunctionToolExecutor(spec, lambda args: 1).execute({}))

    assert result.failure.code == "approval_required"


def test_code_has_no_place_in_a_spec():
    with pytest.raises(ConfigurationError, match="say it as where"):
        FunctionToolSpec(
            id="r", tool_name="R", description="R.", parameters=[], approval=Approval(when=lambda caller, args: True)
        )
    with pytest.raises(ConfigurationError, match="did you mean 'reason'"):
        FunctionToolSpec(id="r", tool_name="R", description="R.", parameters=[], approval={"reson": "x"})


def test_a_tool_that_asks_nobody_has_neither_stage():
    @Tool(name="Plain", register=False)
    def plain(n: int) -> int:
        return n

    with executor_for(plain) as executor:
        told = executor.execute_sync(create_tool_call("Plain", {"n": 1}), explain=True).explanation

    absent = {entry["stage"] for entry in told if entry["decision"] == "not in the chain"}
    assert {"approve", "spend"} <= absent


# -- once -------------------------------------------------------------------------------------------------------------


async def test_of_fifty_equal_calls_in_tasks_exactly_one_runs(stores):
    tool, state = refunding()
    state["body"] = lambda: asyncio.sleep(0.02)
    with executor_for(tool, **stores) as executor:
        first = asked(await executor.execute_tool_call(call()))
        await asyncio.to_thread(executor.approvals.approve, first, by="ops")
        results = await executor.execute_tool_calls([call() for _ in range(50)], concurrency=50)
        pending = await asyncio.to_thread(executor.approvals.list)

    codes = [code(result) for result in results]
    assert (codes.count("ok"), len(state["runs"])) == (1, 1)
    assert set(codes) <= {"ok", "in_progress", "approval_required"}
    assert len(pending) <= 1


def test_of_fifty_equal_calls_in_threads_exactly_one_runs(stores):
    runs = []

    @Tool(name="Shop.Refund", register=False, approval=Approval(), runs_in="inline")
    def refund(order: int) -> int:
        runs.append(order)
        return order

    with executor_for(refund, **stores) as executor, ThreadPoolExecutor(50) as threads:
        executor.approvals.approve(asked(executor.execute_sync(call())), by="ops")
        codes = list(threads.map(lambda _: code(executor.execute_sync(call())), range(50)))

    assert (codes.count("ok"), len(runs)) == (1, 1)
    assert set(codes) <= {"ok", "in_progress", "approval_required"}


async def test_fifty_equal_calls_ask_one_question(stores):
    tool, state = refunding()
    with executor_for(tool, **stores) as executor:
        results = await executor.execute_tool_calls([call() for _ in range(50)], concurrency=50)
        waiting = await asyncio.to_thread(executor.approvals.list)

    assert {asked(result) for result in results} == {one.id for one in waiting}
    assert (len(waiting), state["runs"]) == (1, [])


async def test_all_attempts_of_a_call_use_one_grant():
    tool, state = refunding(retry=Retry(attempts=3, wait_s=0.0, on=(ToolError,), insist=True))
    fail = iter([True, True, False])

    async def body():
        if next(fail):
            raise ToolError("not yet", code="TRANSIENT")

    state["body"] = body
    with executor_for(tool) as executor:
        first = asked(await executor.execute_tool_call(call()))
        executor.approvals.approve(first, by="ops")
        ran = await executor.execute_tool_call(call())

        assert (code(ran), len(state["runs"])) == ("ok", 3)
        assert executor.approvals.show(first).state == "consumed"


async def test_a_body_that_failed_has_used_its_grant():
    tool, state = refunding()

    async def body():
        raise ToolError("half done", code="BROKEN")

    state["body"] = body
    with executor_for(tool) as executor:
        first = asked(await executor.execute_tool_call(call()))
        executor.approvals.approve(first, by="ops")

        assert code(await executor.execute_tool_call(call())) == "BROKEN"
        assert asked(await executor.execute_tool_call(call())) != first


async def test_a_call_that_is_refused_later_keeps_its_grant(stores):
    tool, state = refunding(
        rate_limit=RateLimit(calls=2, per_s=60, by="tool"),
        breaker=Breaker(failures=1, recovery_s=3600),
    )
    with executor_for(tool, **stores) as executor:
        first = asked(await executor.execute_tool_call(call()))
        await asyncio.to_thread(executor.approvals.approve, first, by="ops")
        executor.circuits.force("Shop.Refund", "open")
        broken = [code(await executor.execute_tool_call(call())) for _ in range(2)]
        limited = code(await executor.execute_tool_call(call()))
        executor.circuits.reset("Shop.Refund")
        executor._buckets._buckets.clear()
        ran = code(await executor.execute_tool_call(call()))
        record = await asyncio.to_thread(executor.approvals.show, first)

    assert (broken, limited, ran, len(state["runs"])) == (["circuit_open"] * 2, "rate_limited", "ok", 1)
    given_back = [event for event in record.history if event["what"] == "given back"]
    assert [event["why"] for event in given_back] == ["circuit_open"] * 2


async def test_a_call_that_waits_for_a_person_spends_no_token():
    tool, _ = refunding(rate_limit=RateLimit(calls=1, per_s=60, by="tool"))
    with executor_for(tool) as executor:
        (first,) = {asked(await executor.execute_tool_call(call())) for _ in range(3)}
        executor.approvals.approve(first, by="ops")

        assert code(await executor.execute_tool_call(call())) == "ok"


async def test_a_call_that_finds_no_place_keeps_its_grant():
    tool, state = refunding(concurrency=Concurrency(calls=1, wait_s=0))
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def body():
        begun.set()
        await go_on.wait()

    state["body"] = body
    with executor_for(tool) as executor:
        for order in (1, 2):
            executor.approvals.approve(asked(await executor.execute_tool_call(call(order))), by="ops")
        holding = asyncio.ensure_future(executor.execute_tool_call(call(1)))
        await begun.wait()
        refused = code(await executor.execute_tool_call(call(2)))
        busy = code(await executor.execute_tool_call(call(1)))
        go_on.set()

        assert (refused, busy) == ("concurrency_limited", "in_progress")
        assert (code(await holding), code(await executor.execute_tool_call(call(2)))) == ("ok", "ok")


async def test_a_call_that_is_cut_in_its_body_has_used_its_grant():
    tool, state = refunding(timeout_seconds=0.05)
    state["body"] = lambda: asyncio.sleep(60)
    with executor_for(tool) as executor:
        first = asked(await executor.execute_tool_call(call()))
        executor.approvals.approve(first, by="ops")

        assert code(await executor.execute_tool_call(call())) == "timeout"
        assert executor.approvals.show(first).standing(0) == "consumed"


async def test_a_grant_whose_process_died_counts_as_used():
    """The record stays reserved for ever: what the process did nobody knows."""
    tool, state = refunding(timeout_seconds=30)
    with executor_for(tool, clock=(clock := FakeClock())) as executor:
        first = asked(await executor.execute_tool_call(call()))
        executor.approvals.approve(first, by="ops")
        approvals = executor._guards.approvals
        record = executor.approvals.show(first)

        async def had(answer):
            return answer

        assert await approvals.reserve(record, record.subject, "a call that died", 90.0, had) is not None
        busy = code(await executor.execute_tool_call(call()))
        clock.advance(91)
        anew = asked(await executor.execute_tool_call(call()))
        lost = executor.approvals.list("lost")

    assert busy == "in_progress"
    assert ([one.id for one in lost], anew != first, state["runs"]) == ([first], True, [])


async def test_two_that_take_one_grant_at_the_same_moment_get_it_once(stores):
    tool, _ = refunding()
    with executor_for(tool, **stores) as executor:
        first = asked(await executor.execute_tool_call(call()))
        await asyncio.to_thread(executor.approvals.approve, first, by="ops")
        approvals, record = executor._guards.approvals, await asyncio.to_thread(executor.approvals.show, first)

        async def had(answer):
            return await answer if hasattr(answer, "__await__") else answer

        taken = await asyncio.gather(
            *(approvals.reserve(record, record.subject, f"call {n}", 60.0, had) for n in range(8))
        )

    assert sum(one is not None for one in taken) == 1


# -- with idempotency keys and the cache ------------------------------------------------------------------------------


async def test_a_replay_needs_no_approval_and_runs_nothing(stores):
    tool, state = refunding(idempotency=Idempotency())
    with executor_for(tool, **stores) as executor:
        keyed = {"idempotency_key": "k1"}
        first = asked(await executor.execute_tool_call(call(**keyed)))
        await asyncio.to_thread(executor.approvals.approve, first, by="ops")
        ran = await executor.execute_tool_call(call(**keyed))
        replays = [await executor.execute_tool_call(call(**keyed)) for _ in range(2)]
        other_key = code(await executor.execute_tool_call(call(idempotency_key="k2")))
        still = await executor.execute_tool_call(call(**keyed))  # though the other one waits for an approval now

    assert (ran.source, [one.source for one in replays], still.source) == ("run", ["replay"] * 2, "replay")
    assert (other_key, len(state["runs"])) == ("approval_required", 1)


async def test_a_key_whose_result_is_gone_runs_nothing_without_another_approval(stores):
    tool, state = refunding(idempotency=Idempotency())
    with executor_for(tool, **stores) as executor:
        first = asked(await executor.execute_tool_call(call(idempotency_key="k1")))
        await asyncio.to_thread(executor.approvals.approve, first, by="ops")
        ran = await executor.execute_tool_call(call(idempotency_key="k1"), explain=True)
        (key,) = {note["key"] for entry in ran.explanation for note in entry.get("notes", ()) if "key" in note}
        assert await asyncio.to_thread(executor.claims().forget, key)

        assert asked(await executor.execute_tool_call(call(idempotency_key="k1"))) != first
        assert len(state["runs"]) == 1
        second = asked(await executor.execute_tool_call(call(idempotency_key="k1")))
        await asyncio.to_thread(executor.approvals.approve, second, by="ops")
        assert code(await executor.execute_tool_call(call(idempotency_key="k1"))) == "ok"
        assert len(state["runs"]) == 2


async def test_a_run_that_failed_is_not_run_again_by_its_key_alone():
    tool, state = refunding(idempotency=Idempotency(failures="run"))

    async def body():
        raise ToolError("no", code="BROKEN")

    state["body"] = body
    with executor_for(tool) as executor:
        first = asked(await executor.execute_tool_call(call(idempotency_key="k1")))
        executor.approvals.approve(first, by="ops")

        assert code(await executor.execute_tool_call(call(idempotency_key="k1"))) == "BROKEN"
        assert asked(await executor.execute_tool_call(call(idempotency_key="k1"))) != first
        assert len(state["runs"]) == 1


async def test_a_key_is_no_pass_for_other_arguments_or_users():
    tool, state = refunding(idempotency=Idempotency())
    with executor_for(tool) as executor:
        executor.approvals.approve(asked(await executor.execute_tool_call(call(idempotency_key="k1"))), by="ops")
        assert code(await executor.execute_tool_call(call(idempotency_key="k1"))) == "ok"

        for other in ({"amount": 6.0}, {"user": "bob"}, {"tenant": "acme"}):
            assert code(await executor.execute_tool_call(call(idempotency_key="k1", **other))) == "approval_required"
        assert len(state["runs"]) == 1


async def test_fifty_calls_with_one_key_get_the_one_result():
    tool, state = refunding(idempotency=Idempotency())
    state["body"] = lambda: asyncio.sleep(0.02)
    with executor_for(tool) as executor:
        executor.approvals.approve(asked(await executor.execute_tool_call(call(idempotency_key="k1"))), by="ops")
        results = await executor.execute_tool_calls([call(idempotency_key="k1") for _ in range(50)], concurrency=50)

    assert ({code(one) for one in results}, len(state["runs"])) == ({"ok"}, 1)


async def test_a_kept_result_spends_no_grant_and_is_not_renewed_without_one():
    tool, state = refunding(cache=Cache(ttl_s=10, stale_s=100, per="user"))
    with executor_for(tool, clock=(clock := FakeClock())) as executor:
        executor.approvals.approve(asked(await executor.execute_tool_call(call())), by="ops")
        assert code(await executor.execute_tool_call(call())) == "ok"
        second = asked(await executor.execute_tool_call(call()))  # kept or not, it is another call
        executor.approvals.approve(second, by="ops")
        hit = await executor.execute_tool_call(call())
        clock.advance(11)
        stale = await executor.execute_tool_call(call())
        for _ in range(20):
            await asyncio.sleep(0)

        assert (hit.source, stale.source, len(state["runs"])) == ("cache", "cache", 1)
        assert executor.approvals.show(second).state == "approved"


# -- waiting, bounds, outages -----------------------------------------------------------------------------------------


async def test_a_call_may_wait_for_the_decision():
    tool, state = refunding(Approval(wait_s=20))
    with executor_for(tool, clock=(clock := FakeClock())) as executor:
        waiting = asyncio.ensure_future(executor.execute_tool_call(call()))
        while not executor.approvals.list():
            await asyncio.sleep(0)
        executor.approvals.approve(executor.approvals.list()[0].id, by="ops")
        for _ in range(5):
            await asyncio.sleep(0)
            clock.advance(1)

        assert (code(await waiting), len(state["runs"])) == ("ok", 1)


async def test_a_call_waits_no_longer_than_it_said_nor_to_its_deadline():
    tool, _ = refunding(Approval(wait_s=20), timeout_seconds=10)
    with executor_for(tool, clock=(clock := FakeClock())) as executor:
        waiting = asyncio.ensure_future(executor.execute_tool_call(call()))
        while not waiting.done():
            await asyncio.sleep(0)
            clock.advance(0.1)

        assert code(await waiting) == "approval_required"
        assert clock.monotonic() < 10


def test_a_caller_that_blocks_may_wait_for_the_decision_too():
    @Tool(name="Shop.Refund", register=False, approval=Approval(wait_s=20))
    def refund(order: int) -> int:
        return order

    with executor_for(refund) as executor:
        found = []
        thread = threading.Thread(target=lambda: found.append(executor.execute_sync(call())))
        thread.start()
        while not executor.approvals.list():
            pass
        executor.approvals.approve(executor.approvals.list()[0].id, by="ops")
        thread.join()

    assert code(found[0]) == "ok"


async def test_no_more_than_so_many_calls_of_a_caller_and_tool_wait_for_a_person():
    tool, _ = refunding(Approval(max_pending=3))
    with executor_for(tool) as executor:
        codes = [code(await executor.execute_tool_call(call(order))) for order in range(4)]
        again = code(await executor.execute_tool_call(call(0)))
        other = code(await executor.execute_tool_call(call(0, user="bob")))
        executor.approvals.deny(executor.approvals.list()[0].id, by="ops", reason="no")
        after = code(await executor.execute_tool_call(call(3)))

    assert codes == ["approval_required"] * 3 + ["rate_limited"]
    assert (again, other, after) == ("approval_required",) * 3


async def test_a_store_that_is_away_refuses_and_runs_nothing():
    tool, state = refunding()
    with executor_for(tool, records_url="postgresql://nobody@127.0.0.1:1/none") as executor:
        result = await executor.execute_tool_call(call())

    assert (code(result), state["runs"]) == (StoreUnavailableError.code, [])


async def test_what_is_kept_and_cannot_be_read_refuses():
    tool, state = refunding()
    with executor_for(tool) as executor:
        first = asked(await executor.execute_tool_call(call()))
        records, record = executor.records, executor.approvals.show(first)
        records.put_document(records.document("approval", record.subject[:24])._replace(body=b'{"state": "approved"'))

        result = await executor.execute_tool_call(call())

    assert (result.failure.code, state["runs"]) == ("engine_error", [])


async def test_the_grant_of_another_call_under_its_key_runs_nothing():
    """Only the start of a digest names a document: the whole of it is compared."""
    tool, state = refunding()
    with executor_for(tool) as executor:
        first = executor.approvals.approve(asked(await executor.execute_tool_call(call(1))), by="ops")
        second = executor.approvals.show(asked(await executor.execute_tool_call(call(2))))
        records = executor.records
        granted = records.document("approval", first.subject[:24])
        records.put_document(granted._replace(key=second.subject[:24]))

        result = await executor.execute_tool_call(call(2))

    assert (result.failure.code, state["runs"]) == ("engine_error", [])


async def test_observers_and_the_audit_log_are_told_and_cannot_break_a_call():
    tool, _ = refunding()
    recorder, notes = Recorder(), []

    class Audit:
        def note(self, kind, **fields):
            notes.append((kind, fields.get("by")))
            raise RuntimeError("the disk is full")

    with executor_for(tool, observers=[recorder]) as executor:
        executor._guards.audit = Audit()
        executor.approvals.approve(asked(await executor.execute_tool_call(call())), by="ops")
        assert code(await executor.execute_tool_call(call())) == "ok"

    assert [event.what for event in recorder.of(ApprovalChanged)] == ["asked", "approved", "reserved", "consumed"]
    kinds = ["approval.asked", "approval.approved", "approval.reserved", "approval.consumed"]
    assert notes == [(kind, "ops" if kind == "approval.approved" else None) for kind in kinds]


async def test_explaining_tells_who_was_asked_and_that_the_grant_was_used():
    tool, _ = refunding()
    with executor_for(tool) as executor:
        pending = await executor.execute_tool_call(call(), explain=True)
        executor.approvals.approve(asked(pending), by="ops")
        ran = await executor.execute_tool_call(call(), explain=True)

    def decisions(result):
        return {entry["stage"]: entry["decision"] for entry in result.explanation}

    assert decisions(pending)["approve"] == "pending"
    assert (decisions(ran)["approve"], decisions(ran)["spend"]) == ("approved", "reserved; used")


def test_an_executor_of_another_process_sees_the_same_approvals(tmp_path):
    url = f"sqlite:///{tmp_path}/records.db"
    tool, state = refunding()
    with executor_for(tool, records_url=url) as executor:
        first = asked(asyncio.run(executor.execute_tool_call(call())))
    with ToolExecutor(records_url=url) as operators:
        operators.approvals.approve(first, by="ops")
    with executor_for(tool, records_url=url) as executor:
        assert code(asyncio.run(executor.execute_tool_call(call()))) == "ok"

    assert state["runs"] == [(1, 5.0)]


# -- arguments that are not what they seem ----------------------------------------------------------------------------


class Payment(BaseModel):
    to: str
    note: str = Field("", exclude=True)


def paying(kind, **approval):
    @Tool(name="Shop.Pay", register=False, approval=Approval(**approval))
    def pay(what: kind) -> str:
        return str(what)

    return pay


def pay_call(what):
    return create_tool_call("Shop.Pay", {"what": what}, user_id="ann")


def test_a_condition_on_a_parameter_with_an_alias_asks():
    @Tool(name="Shop.Pay", register=False, approval=Approval(where={"amt": {"minimum": 100}}))
    def pay(amount: Annotated[float, Field(alias="amt")]) -> float:
        return amount

    with executor_for(pay) as executor:
        codes = [
            code(executor.execute_sync(create_tool_call("Shop.Pay", {"amt": amount}, user_id="ann")))
            for amount in (99, 100)
        ]

    assert codes == ["ok", "approval_required"]


def test_a_condition_on_what_a_models_dump_leaves_out_asks():
    where = {"what": {"properties": {"note": {"const": "x"}}, "required": ["note"]}}
    with executor_for(paying(Payment, where=where)) as executor:
        codes = [code(executor.execute_sync(pay_call({"to": "a", "note": note}))) for note in ("y", "x")]

    assert codes == ["ok", "approval_required"]


def test_a_grant_is_for_no_other_model_and_its_approver_sees_all_of_it():
    with executor_for(paying(Payment)) as executor:
        first = asked(executor.execute_sync(pay_call({"to": "a", "note": "x"})))
        assert executor.approvals.approve(first, by="ops").arguments == {"what": {"to": "a", "note": "x"}}

        assert asked(executor.execute_sync(pay_call({"to": "a", "note": "y"}))) != first
        assert code(executor.execute_sync(pay_call({"to": "a", "note": "x"}))) == "ok"


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [(HttpUrl, "https://a.example/", "https://b.example/"), (SecretStr, "hunter2-a", "hunter2-b")],
)
def test_values_whose_class_says_nothing_of_equality_are_told_by_what_they_were_made_of(kind, one, other):
    with executor_for(paying(kind)) as executor:
        first = asked(executor.execute_sync(pay_call(one)))
        record = executor.approvals.approve(first, by="ops")

        assert "hunter2" not in str(record.body())
        assert asked(executor.execute_sync(pay_call(other))) != first
        assert code(executor.execute_sync(pay_call(one))) == "ok"


def test_what_has_no_json_form_is_said_to_be_cut_and_the_rest_is_shown():
    @Tool(name="Shop.Pay", register=False, approval=Approval())
    def pay(amount: int, stamp: bytes) -> int:
        return amount

    with executor_for(pay) as executor:
        made = create_tool_call("Shop.Pay", {"amount": 7, "stamp": b"\0"}, user_id="ann")
        record = executor.approvals.show(asked(executor.execute_sync(made)))

    assert (record.arguments, record.cut, record.whole) == ({"amount": 7, "stamp": "[bytes]"}, ("/stamp",), False)


def test_with_a_secret_key_nobody_tells_from_digests_what_is_hidden(tmp_path):
    url, tool = f"sqlite:///{tmp_path}/records.db", paying(SecretStr)

    def ask(**settings):
        with executor_for(tool, records_url=url, **settings) as executor:
            approval_id = asked(executor.execute_sync(pay_call("0000")))
            return approval_id, executor.approvals.show(approval_id).arguments_digest

    plain, keyed, again, other = ask(), ask(secret_key="k" * 32), ask(secret_key="k" * 32), ask(secret_key="j" * 32)

    assert keyed == again
    assert len({plain, keyed, other}) == len({one[1] for one in (plain, keyed, other)}) == 3


def test_an_edit_that_would_grant_what_nobody_looks_for_is_refused(tmp_path):
    tool, _ = refunding()
    url = f"sqlite:///{tmp_path}/records.db"
    with executor_for(tool, records_url=url, secret_key="k" * 32) as executor:
        first = asked(asyncio.run(executor.execute_tool_call(call(amount=500))))
    with executor_for(tool, records_url=url) as executor:
        with pytest.raises(ConfigurationError, match="another secret_key"):
            executor.approvals.approve(first, by="ops", arguments={"order": 1, "amount": 5})
        executor.approvals.approve(first, by="ops")
    with executor_for(tool, records_url=url, secret_key="k" * 32) as executor:
        assert code(asyncio.run(executor.execute_tool_call(call(amount=500)))) == "ok"
