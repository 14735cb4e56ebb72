"""What a body gives beside its value: artifacts and what it used, from the context to the result and the wire."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from typing import Any

import pytest

from toolpost import (
    Cache,
    ConfigurationError,
    FunctionToolExecutor,
    FunctionToolSpec,
    Hints,
    Idempotency,
    OutputValidationError,
    Retry,
    Tool,
    ToolContext,
    ToolResult,
    ToolType,
    create_tool_call,
    format_tool_result_for_llm,
)
from toolpost.calls import artifacts
from toolpost.calls.errors import RemoteToolError
from toolpost.calls.redaction import Redactor
from toolpost.pipeline import reveal
from toolpost.testing import executor_for
from toolpost.transports.wire import ARTIFACTS, encode_result

SECRET = "canary-secret-value"


@Tool(name="Files.Make", description="Make files.", register=False)
async def make(ctx: ToolContext, names: list[str], text: str = "hello") -> dict[str, Any]:
    for name in names:
        ctx.artifact(name, text)
    return {"made": len(names)}


@Tool(name="Files.MakeInThread", description="Make files.", register=False)
def make_in_thread(ctx: ToolContext, names: list[str], text: str = "hello") -> dict[str, Any]:
    for name in names:
        ctx.artifact(name, text.encode())
    return {"made": len(names)}


@pytest.mark.parametrize("tool", [make, make_in_thread])
def test_artifacts_are_in_the_result_of_a_call(tool: Any) -> None:
    name = tool.tool_definition.name
    with executor_for(tool) as executor:
        call = create_tool_call(name, {"names": ["a.txt", "plots/one.png"]})
        blocked, awaited = executor.execute_sync(call), asyncio.run(executor.execute_tool_call(call))
        without = executor.execute_sync(create_tool_call(name, {"names": []}))

    for result in (blocked, awaited):
        assert result.success, result.error
        assert result.artifacts == {"a.txt": b"hello", "plots/one.png": b"hello"}
    assert (without.artifacts, without.to_dict().get("artifacts")) == ({}, None)


def test_what_a_body_gave_before_it_failed_is_in_the_result() -> None:
    @Tool(name="Files.Fail", description="Fail.", register=False)
    async def fail(ctx: ToolContext) -> str:
        ctx.artifact("log.txt", "so far")
        ctx.used(cpu_s=0.5)
        raise RuntimeError("no more")

    with executor_for(fail) as executor:
        result = executor.execute_sync(create_tool_call("Files.Fail", {}))

    assert not result.success
    assert result.artifacts == {"log.txt": b"so far"}
    assert result.usage is not None
    assert result.usage.cpu_s == 0.5


def test_only_the_last_attempt_counts() -> None:
    attempts = 0

    @Tool(
        name="Files.Again",
        description="Try.",
        register=False,
        retry=Retry(attempts=3, wait_s=0.0),
        hints=Hints(idempotent=True),
    )
    async def again(ctx: ToolContext) -> str:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            ctx.artifact(f"{attempts}.txt", "")
            raise RemoteToolError("try again", kind="unavailable")
        return "done"

    with executor_for(again) as executor:
        result = executor.execute_sync(create_tool_call("Files.Again", {}))

    assert (result.success, attempts, result.artifacts) == (True, 3, {})


def test_a_context_that_is_handed_in_twice_has_no_artifacts_of_the_call_before() -> None:
    seen: list[int] = []

    async def body(args: dict[str, Any], ctx: ToolContext) -> dict[str, Any]:
        seen.append(len(ctx.artifacts))
        ctx.artifact("a.txt", "x")
        return {}

    spec = FunctionToolSpec(
        id="files-1", tool_name="files", description="d", tool_type=ToolType.FUNCTION, parameters=[]
    )
    context = ToolContext(user_id="ann")
    context.artifact("own.txt", "of the caller")
    context.used(cpu_s=9.0)
    runs = FunctionToolExecutor(spec, body)
    results = [asyncio.run(runs.execute({}, context)) for _ in range(2)]

    assert [result.artifacts for result in results] == [{"a.txt": b"x"}] * 2
    assert [result.usage.cpu_s for result in results if result.usage] == [0.0, 0.0]
    assert seen == [0, 0]


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../up", "a/../b", "a//b", "a\0b", "a\nb", "a\\b", "x" * 600, 5, None]
)
def test_a_name_that_leads_elsewhere_is_refused(name: Any) -> None:
    with pytest.raises(OutputValidationError, match="name is"):
        ToolContext().artifact(name, b"")


def test_what_is_no_data_and_what_is_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "MAX_ARTIFACTS", 2)
    monkeypatch.setattr(artifacts, "MAX_ARTIFACT_BYTES", 10)
    context = ToolContext()

    context.artifact("a", b"12345678")
    context.artifact("a", b"1234")  # in its place
    context.artifact("b", b"123456")
    with pytest.raises(OutputValidationError, match="one more than the 2"):
        context.artifact("c", b"")
    with pytest.raises(OutputValidationError, match="has 7 bytes, and a call may give 10 in all"):
        context.artifact("b", b"1234567")
    with pytest.raises(OutputValidationError, match="bytes or text, got dict"):
        context.artifact("d", {})  # type: ignore[arg-type]

    assert context.artifacts == {"a": b"1234", "b": b"123456"}


def test_artifacts_are_given_from_many_threads_without_one_being_lost_for_the_others() -> None:
    context = ToolContext()
    threads = [threading.Thread(target=context.artifact, args=(f"{n}.txt", b"x")) for n in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(context.artifacts) == 200


# -- secrets ----------------------------------------------------------------------------------------------------------


def test_secrets_are_hidden_in_text_and_its_name_and_what_is_no_text_is_left_out() -> None:
    hidden_forms = [SECRET, base64.b64encode(SECRET.encode()).decode(), json.dumps({"key": SECRET})]

    @Tool(name="Files.Leak", description="Leak.", register=False)
    async def leak(ctx: ToolContext) -> str:
        for number, text in enumerate(hidden_forms):
            ctx.artifact(f"{number}.txt", text)
        ctx.artifact(f"{SECRET}.txt", "plain")
        ctx.artifact("bad.bin", b"\xff\xfe" + SECRET.encode() + b"\x00")
        ctx.artifact("good.bin", b"\xff\xfe\x00")
        return "done"

    with executor_for(leak, secret_key=SECRET) as executor:
        result = executor.execute_sync(create_tool_call("Files.Leak", {}))

    shown = repr(result.artifacts) + repr(result.warnings)
    assert not any(form in shown for form in hidden_forms)
    assert result.artifacts["good.bin"] == b"\xff\xfe\x00"
    assert "bad.bin" not in result.artifacts
    assert any("bad.bin" in warning for warning in result.warnings)
    assert len(result.artifacts) == 5


def test_names_that_become_the_same_when_a_secret_in_them_is_hidden_are_told_apart() -> None:
    other = "other-canary-value"
    given = {f"{SECRET}.txt": b"1", "[hidden].txt": b"2", f"{other}.txt": b"3"}
    redactor = Redactor()
    redactor.add(SECRET)
    redactor.add(other)

    shown, withheld = artifacts.without_secrets(given, redactor)

    assert withheld == []
    assert sorted(shown.values()) == [b"1", b"2", b"3"]
    assert shown["[hidden].txt"] == b"2"
    assert not any(SECRET in name or other in name for name in shown)


async def test_large_artifacts_are_looked_through_without_holding_up_other_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_in: dict[str, int] = {}
    real = reveal.without_secrets

    def watched(given: Any, redactor: Any) -> Any:
        looked_in.update(dict.fromkeys(given, threading.get_ident()))
        return real(given, redactor)

    monkeypatch.setattr(reveal, "without_secrets", watched)
    here = threading.get_ident()

    @Tool(name="Files.Large", description="Leak much.", register=False)
    async def large(ctx: ToolContext, name: str, size: int) -> str:
        await asyncio.sleep(0)
        ctx.artifact(name, "x" * size + SECRET)
        return "done"

    with executor_for(large, secret_key=SECRET) as executor:
        result = await executor.execute_tool_call(
            create_tool_call("Files.Large", {"name": "large", "size": reveal.AT_ONCE})
        )
        await executor.execute_tool_call(create_tool_call("Files.Large", {"name": "small", "size": 10}))

    assert looked_in["large"] != here
    assert looked_in["small"] == here
    assert SECRET.encode() not in result.artifacts["large"]
    assert len(result.artifacts["large"]) > reveal.AT_ONCE


# -- cache and replay -------------------------------------------------------------------------------------------------


def test_a_result_with_artifacts_is_not_cached_and_one_without_is() -> None:
    runs: list[str] = []

    @Tool(name="Files.Kept", description="Keep.", register=False, cache=Cache(ttl_s=60))
    async def kept(ctx: ToolContext, name: str = "") -> str:
        runs.append(name)
        if name:
            ctx.artifact(name, "x")
        return "done"

    @Tool(name="Files.KeptInline", description="Keep.", register=False, cache=Cache(ttl_s=60), runs_in="inline")
    def inline(ctx: ToolContext, name: str = "") -> str:
        runs.append(name)
        if name:
            ctx.artifact(name, "x")
        return "done"

    for tool in (kept, inline):
        runs.clear()
        with executor_for(tool) as executor:
            calls = [create_tool_call(tool.tool_definition.name, {"name": name}) for name in ("a", "a", "", "")]
            results = [executor.execute_sync(call) for call in calls]

        assert [result.source for result in results] == ["run", "run", "run", "cache"]
        assert [list(result.artifacts) for result in results] == [["a"], ["a"], [], []]
        assert runs == ["a", "a", ""]

        runs.clear()
        with executor_for(tool) as executor:
            for _ in range(2):
                executor.call_sync(tool.tool_definition.name, name="a")
                executor.call_sync(tool.tool_definition.name)

        assert runs == ["a", "", "a"]


def test_a_replay_has_the_value_and_no_artifacts() -> None:
    @Tool(name="Files.Once", description="Once.", register=False, idempotency=Idempotency())
    async def once(ctx: ToolContext) -> str:
        ctx.artifact("a.txt", "x")
        return "done"

    with executor_for(once) as executor:
        calls = [create_tool_call("Files.Once", {}, idempotency_key="k") for _ in range(2)]
        first, again = (executor.execute_sync(call) for call in calls)

    assert (first.source, list(first.artifacts)) == ("run", ["a.txt"])
    assert (again.source, again.data, again.artifacts) == ("replay", first.data, {})


# -- the wire ---------------------------------------------------------------------------------------------------------


def result_with(data: Any) -> ToolResult:
    return ToolResult(call_id="1", tool_name="T", success=True, data=data, artifacts={"a.png": b"12345"})


@pytest.mark.parametrize("format", ["openai", "openai-chat", "anthropic", "gemini", "mcp", "toolpost"])
@pytest.mark.parametrize("data", [{"x": 1}, "text", [1, 2], None])
def test_every_format_tells_of_artifacts_by_name_and_size(format: Any, data: Any) -> None:
    encoded = json.dumps(encode_result(result_with(data), format))
    without = json.dumps(encode_result(ToolResult(call_id="1", tool_name="T", success=True, data=data), format))

    assert "a.png" in encoded
    assert "5" in encoded
    assert "12345" not in encoded
    assert "artifacts" not in without


def test_an_object_stays_an_object_and_may_tell_of_its_artifacts_itself() -> None:
    listed = [{"name": "a.png", "bytes": 5}]

    plain = json.loads(encode_result(result_with({"x": 1}), "openai")["output"])
    own = json.loads(encode_result(result_with({"artifacts": "see there"}), "openai")["output"])

    assert plain == {"x": 1, "artifacts": listed}
    assert own == {"artifacts": "see there"}
    assert encode_result(result_with({"x": 1}), "mcp")["_meta"][ARTIFACTS] == listed
    assert encode_result(result_with({"x": 1}), "mcp")["structuredContent"] == {"x": 1}
    assert json.loads(format_tool_result_for_llm(result_with({"x": 1}))["content"])["artifacts"] == listed


# -- what a body used -------------------------------------------------------------------------------------------------


def test_what_a_body_used_is_in_the_usage_and_in_the_metrics() -> None:
    @Tool(name="Programs.Run", description="Run.", register=False)
    async def run(ctx: ToolContext, cpu_s: float) -> str:
        ctx.used(cpu_s=cpu_s, peak_memory_bytes=int(cpu_s * 1000), denied_syscalls={"ptrace": 2}, exit_signal="SIGKILL")
        ctx.used(written_bytes=7)
        return "done"

    with executor_for(run) as executor:
        results = [executor.execute_sync(create_tool_call("Programs.Run", {"cpu_s": cpu_s})) for cpu_s in (0.5, 0.25)]
        metrics = executor.get_metrics()

    usage = results[0].usage
    assert usage is not None
    assert (usage.cpu_s, usage.peak_memory_bytes, usage.written_bytes) == (0.5, 500, 7)
    assert (usage.denied_syscalls, usage.exit_signal) == ({"ptrace": 2}, "SIGKILL")
    counted = {
        "runs": 2,
        "cpu_s": 0.75,
        "peak_memory_bytes": 500,
        "written_bytes": 14,
        "denied_syscalls": {"ptrace": 4},
        "signals": {"SIGKILL": 2},
    }
    assert metrics["programs"] == metrics["tools"]["Programs.Run"]["programs"] == counted


def test_a_tool_that_runs_no_programs_has_no_numbers_of_any() -> None:
    with executor_for(make) as executor:
        executor.execute_sync(create_tool_call("Files.Make", {"names": []}))

        assert "programs" not in executor.get_metrics()


def test_names_of_calls_and_signals_are_bounded() -> None:
    from toolpost.telemetry.metrics import MAX_ERROR_CODES, ToolStats

    stats = ToolStats("T")
    for number in range(MAX_ERROR_CODES + 10):
        stats.use({"denied_syscalls": {f"call{number}": 1}})

    denied = stats.to_dict()["programs"]["denied_syscalls"]
    assert (len(denied), denied["(other)"]) == (MAX_ERROR_CODES + 1, 10)


def test_what_only_the_engine_knows_cannot_be_told_by_a_body() -> None:
    with pytest.raises(ConfigurationError, match="but not attempts"):
        ToolContext().used(attempts=5)


# -- what an executor keeps for its tools -----------------------------------------------------------------------------


class Kept:
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def test_a_shared_thing_is_made_once_for_an_executor_and_closed_with_it() -> None:
    made: list[Kept] = []

    @Tool(name="Shared.Use", description="Use.", register=False)
    async def use(ctx: ToolContext) -> int:
        return id(ctx.shared("kept", lambda: made.append(Kept()) or made[-1]))

    with executor_for(use) as one, executor_for(use) as other:
        first, again, elsewhere = (executor.call_sync("Shared.Use") for executor in (one, one, other))

        assert first == again != elsewhere
        assert [kept.closed for kept in made] == [0, 0]
    assert [kept.closed for kept in made] == [1, 1]


def test_one_that_cannot_be_closed_does_not_keep_the_others_open(caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(Kept):
        def close(self) -> None:
            raise OSError("stuck")

    good = Kept()

    @Tool(name="Shared.Use", description="Use.", register=False)
    async def use(ctx: ToolContext) -> str:
        ctx.shared("a", Stuck)
        ctx.shared("b", lambda: good)
        return "done"

    with executor_for(use) as executor:
        executor.call_sync("Shared.Use")

    assert good.closed == 1
    assert "Stuck could not be closed" in caplog.text


def test_a_context_of_no_call_keeps_nothing() -> None:
    with pytest.raises(ConfigurationError, match="shared"):
        ToolContext().shared("kept", Kept)
