"""Results that are kept and read back say what they said; reports have one JSON form."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given, settings as examples, strategies as st

from toolpost import Caller, Failure, ToolCall, ToolExecutor, ToolResult, ToolUsage, encode_result
from toolpost.stores import Finish, Task, TaskRow
from toolpost.testing import executor_for
from toolpost.worker.keeping import finish_of, had, recorded_task, report_of, task_of
from toolpost.worker.reports import Accept, CallReport, KeptArtifact, described, report_json, result_json, state_of

TEXT = st.text(max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=8,
)
OBJECT = st.dictionaries(st.text("abcd", min_size=1, max_size=4), JSON, max_size=3)
LINES = st.lists(st.text("ab ", max_size=8), max_size=2)
USAGE = st.none() | st.builds(
    ToolUsage,
    input_bytes=st.integers(0, 9),
    cost_usd=st.floats(0, 9),
    cached_hit=st.booleans(),
    denied_syscalls=st.none() | st.dictionaries(st.text("ab", min_size=1), st.integers(1, 9), max_size=2),
    exit_signal=st.none() | st.just("SIGKILL"),
)
FAILURE = st.builds(
    Failure,
    code=st.sampled_from(["tool_failed", "cancelled", "rate_limited", "invalid_input"]),
    message=st.text("abc é", max_size=30),
    status=st.integers(400, 599),
    error_type=st.just("OperationError"),
    retryable=st.booleans(),
    retry_after_s=st.none() | st.floats(0, 100),
    outcome=st.sampled_from(["not_run", "ran", "stopped", "unknown"]),
    details=OBJECT,
    rejected=st.booleans(),
)


@st.composite
def results(draw: st.DrawFn) -> ToolResult:
    success = draw(st.booleans())
    failure = None if success else draw(FAILURE)
    return ToolResult(
        call_id="c",
        tool_name="Math.Add",
        success=success,
        data=draw(JSON) if success else None,
        error=None if failure is None else failure.message,
        execution_time_ms=draw(st.floats(0, 1e6)),
        status_code=200 if failure is None else failure.status,
        metadata=draw(OBJECT),
        failure=failure,
        source=draw(st.sampled_from(["run", "cache", "replay"])),
        attempts=draw(st.integers(0, 5)),
        usage=draw(USAGE),
        warnings=draw(LINES),
        logs=draw(LINES),
        explanation=draw(st.none() | st.lists(OBJECT, max_size=2)),
    )


@pytest.fixture(scope="module")
def executor() -> Iterator[ToolExecutor]:
    with executor_for() as made:
        yield made


def row_of(finish: Finish, **more: Any) -> TaskRow:
    return TaskRow(
        **{
            "task_id": finish.task_id,
            "tool": "Math.Add",
            "tenant": "",
            "state": finish.state,
            "attempt": 1,
            "max_attempts": 1,
            "fence": 1,
            "owner": None,
            "created_at": 1.0,
            "updated_at": 2.0,
            "due_at": None,
            "value": finish.value,
            "blob": finish.blob,
            "report": finish.report,
            "arguments": b"{}",
            "finished_at": 2.0,
            **more,
        }
    )


@given(results())
@examples(max_examples=150)
async def test_a_result_that_is_read_back_is_the_one_that_was_kept(executor: ToolExecutor, result: ToolResult) -> None:
    kept = await report_of(row_of(await finish_of(result, "c", executor)), executor)

    assert kept.result == result
    assert kept.state == state_of(result)
    for format in ("openai", "anthropic", "gemini", "mcp"):
        assert kept.result is not None
        assert encode_result(kept.result, format) == encode_result(result, format)
    assert orjson.loads(orjson.dumps(report_json(kept)))["success"] is result.success


async def test_files_are_described_and_their_bytes_lie_in_blobs(executor: ToolExecutor) -> None:
    result = ToolResult(call_id="c", tool_name="t", success=True, data=1, artifacts={"a/b.png": b"\x89PNG"})
    [artifact] = described(result.artifacts)
    finish = await finish_of(replace(result, artifacts={}), "c", executor, artifacts=(artifact,))

    report = await report_of(row_of(finish), executor)

    assert report.artifacts == (KeptArtifact(name="a/b.png", digest=artifact.digest, size=4, media_type="image/png"),)
    assert report_json(report)["artifacts"] == [
        {"name": "a/b.png", "size": 4, "digest": artifact.digest, "media_type": "image/png"}
    ]


async def test_large_values_lie_in_durable_blobs_and_come_back(tmp_path: Any) -> None:
    with executor_for(blobs_url=f"file://{tmp_path}/blobs") as executor:
        result = ToolResult(call_id="c", tool_name="t", success=True, data="x" * 100_000)

        finish = await finish_of(result, "c", executor)

        assert finish.value is None
        assert finish.blob is not None
        assert (await report_of(row_of(finish), executor)).result == result
        in_a_list = await report_of(row_of(finish), executor, whole=False)
        assert in_a_list.result is not None
        assert in_a_list.result.data is None


async def test_large_arguments_lie_in_durable_blobs(tmp_path: Any) -> None:
    async def big(text: str) -> int:
        return len(text)

    from toolpost import Tool

    with executor_for(Tool(name="Big", register=False)(big), blobs_url=f"file://{tmp_path}/blobs") as executor:
        call = ToolCall("c", "Big", {"text": "x" * 100_000})

        task = await task_of(call, Accept(), executor.registry.get_tool("Big"), {"text": "x…"}, executor)

        assert task.blob is not None
        assert task.arguments == b"{}"
        assert await had(executor.blobs.size(task.blob)) == 100_011


async def test_a_recorded_call_holds_no_more_than_may_be_shown() -> None:
    call = ToolCall("c", "Math.Add@1.0.0", {"password": "hunter22"}, user_id="u", tenant="t")

    task = recorded_task(call, {"password": "[hidden]"}, "1.0.0")

    assert task.tool == "Math.Add"
    assert b"hunter22" not in task.arguments


def test_reports_have_times_as_rfc_3339_and_leave_out_what_is_not_so() -> None:
    report = CallReport(
        call_id="c", tool="t", state="queued", caller=Caller(user_id="u"), created_at=1_750_000_000.25, accepted=True
    )

    assert report_json(report) == {
        "call_id": "c",
        "tool": "t",
        "state": "queued",
        "accepted": True,
        "arguments": {},
        "created_at": "2025-06-15T15:06:40.250Z",
        "attempt": 0,
        "max_attempts": 1,
        "priority": 0,
        "user_id": "u",
    }


def test_an_error_has_its_problems_apart_from_its_other_details() -> None:
    failure = Failure(
        code="invalid_input",
        message="no",
        status=400,
        error_type="ToolValidationError",
        details={"errors": [{"path": "/a"}], "rule": "r"},
        retry_after_s=1.5,
        outcome="not_run",
    )
    result = ToolResult(call_id="c", tool_name="t", success=False, error="no", status_code=400, failure=failure)

    error = result_json(result)["error"]

    assert error["errors"] == [{"path": "/a"}]
    assert error["details"] == {"rule": "r"}
    assert (error["code"], error["retryable"], error["retry_after_s"], error["outcome"]) == (
        "invalid_input",
        False,
        1.5,
        "not_run",
    )


async def test_what_a_store_ended_itself_has_a_result_too(executor: ToolExecutor) -> None:
    base = Finish(task_id="c", fence=0, state="cancelled")

    cancelled = await report_of(row_of(base, state="cancelled", error_code="cancelled", attempt=0), executor)
    dead = await report_of(row_of(base, state="dead", error_code="lost", attempt=3), executor)

    assert cancelled.result is not None
    assert cancelled.result.failure is not None
    assert (cancelled.result.failure.code, cancelled.result.failure.outcome) == ("cancelled", "not_run")
    assert dead.result is not None
    assert dead.result.failure is not None
    assert (dead.result.failure.code, dead.result.failure.outcome) == ("outcome_unknown", "unknown")


async def test_values_without_a_json_form_do_not_keep_a_call_from_being_kept(executor: ToolExecutor) -> None:
    odd = {"far": 2**70, "lone": "\ud800", "set": {1}, "nan": math.nan}
    result = ToolResult(call_id="c", tool_name="t", success=True, data=odd)

    kept = await report_of(row_of(await finish_of(result, "c", executor)), executor)

    assert kept.result is not None
    assert kept.result.data["far"] == str(2**70)


async def test_tasks_carry_scopes_and_roles_and_no_more(executor: ToolExecutor) -> None:
    from toolpost.stores import Work
    from toolpost.worker.keeping import call_of

    task = Task(task_id="c", tool="t", extra={"scopes": ["a"], "roles": ["r"], "accepted": True}, tenant="x")

    call = await call_of(Work(task=task, fence=1, attempt=1), executor)

    assert call.caller == Caller(tenant="x", scopes=frozenset({"a"}), roles=frozenset({"r"}))
