"""The tasks extension: durable, bound to its caller, asked, answered, cancelled, and what is a failure of whom."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.transports.mcp_door import FORMS, TASKS, Mcp, key_of, mcp_door
from toolpost import Approval, Hints, Question, Tool, ToolContext, policy
from toolpost.errors import EngineError
from toolpost.transports.mcp_tasks import KIND
from toolpost.worker.keeping import had

BOTH = {**TASKS, **FORMS}
YES = {"action": "accept", "content": {"ok": True}}
TASK = Hints(task="optional")


@Tool(register=False, hints=TASK)
async def compute(label: str, fails: bool = False) -> str:
    """Compute, or fail."""
    if fails:
        raise RuntimeError("no such label")
    return f"{label} done"


@Tool(register=False, hints=TASK)
async def waits() -> str:
    """Wait for ever."""
    await asyncio.Event().wait()
    return "never"


@Tool(register=False, hints=Hints(task="required"))
async def crash() -> str:
    """The engine itself is at fault."""
    raise EngineError("the store is gone")


@Tool(register=False, hints=TASK)
async def two(context: ToolContext) -> str:
    """Ask two things at once."""
    answers = await context.ask({"a": Question.form("A?"), "b": Question.form("B?")})
    return f"{answers['a']['action']} {answers['b']['action']}"


@Tool(register=False, hints=Hints(task="after_input"))
async def named(context: ToolContext) -> str:
    """Ask first, then take long."""
    answer = (await context.ask({"who": Question.form("Who?")}))["who"]
    return f"Hello, {answer['content']['name']}"


@Tool(register=False, hints=TASK)
@policy(Approval(self_approval=True))
async def refund() -> str:
    """A person must approve."""
    return "refunded"


async def begun(door: Mcp, name: str, arguments: Any = None, **more: Any) -> str:
    """The id of the task that a call has become."""
    created = await door.call(name, arguments, capabilities=BOTH, **more)
    assert created["resultType"] == "task", created
    task_id: str = created["taskId"]
    return task_id


async def standing(door: Mcp, task_id: str, *statuses: str, **more: Any) -> dict[str, Any]:
    """The task once it has one of these statuses."""
    async with asyncio.timeout(10):
        while True:
            task: dict[str, Any] = (await door.ask("tasks/get", {"taskId": task_id}, capabilities=BOTH, **more))[
                "result"
            ]
            if task["status"] in statuses:
                return task
            await asyncio.sleep(0.01)


async def test_a_call_becomes_a_task_whose_result_is_fetched() -> None:
    async with mcp_door(compute) as door:
        created = await door.call("compute", {"label": "x"}, capabilities=BOTH)
        done = await standing(door, created["taskId"], "completed")

        assert created["resultType"] == "task"
        assert created["status"] == "working"
        assert created["ttlMs"] == 604_800_000
        assert created["pollIntervalMs"] > 0
        assert "requestState" not in created
        assert done["resultType"] == "complete"
        assert done["result"]["content"] == [{"type": "text", "text": "x done"}]


async def test_a_client_that_knows_no_tasks_waits_for_the_result() -> None:
    async with mcp_door(compute, crash) as door:
        plain = await door.call("compute", {"label": "x"})
        refused = await door.error("tools/call", {"name": "crash", "arguments": {}})

        assert plain["content"][0]["text"] == "x done"
        assert refused["code"] == -32021
        assert list(refused["data"]["requiredCapabilities"]["extensions"]) == list(TASKS["extensions"])


async def test_a_tool_that_fails_is_completed_and_an_engine_that_fails_is_failed() -> None:
    async with mcp_door(compute, crash) as door:
        failed = await standing(door, await begun(door, "compute", {"label": "x", "fails": True}), "completed")
        broken = await standing(door, await begun(door, "crash"), "failed")

        assert failed["result"]["isError"] is True
        assert "no such label" in failed["result"]["content"][0]["text"]
        assert broken["error"]["code"] == -32603
        assert "result" not in broken


async def test_bad_arguments_are_refused_before_there_is_a_task() -> None:
    async with mcp_door(compute) as door:
        refused = await door.call("compute", {}, capabilities=BOTH)

        assert refused["isError"] is True
        assert refused["_meta"]["toolpost/error"]["code"] == "invalid_input"
        assert await had(door.executor.records.documents(KIND)) == []


async def test_a_task_can_be_cancelled_and_one_that_has_ended_stays_as_it_is() -> None:
    async with mcp_door(waits, compute) as door:
        waiting, over = await begun(door, "waits"), await begun(door, "compute", {"label": "x"})
        await standing(door, over, "completed")
        acks = [await door.ask("tasks/cancel", {"taskId": one}, capabilities=BOTH) for one in (waiting, over)]

        await standing(door, waiting, "cancelled")
        assert (await standing(door, over, "completed", "cancelled"))["status"] == "completed"
        assert [ack["result"]["resultType"] for ack in acks] == ["complete", "complete"]


async def test_a_task_asks_and_goes_on_once_all_is_answered() -> None:
    async with mcp_door(two) as door:
        task_id = await begun(door, "two")
        asked = await standing(door, task_id, "input_required")
        for responses in ({"unknown": YES}, {"a": 5}, {"a": YES}):
            update = {"taskId": task_id, "inputResponses": responses}
            assert (await door.ask("tasks/update", update, capabilities=BOTH))["result"]["resultType"] == "complete"
        half = await standing(door, task_id, "input_required")
        last = {"taskId": task_id, "inputResponses": {"b": {"action": "decline"}}}
        await door.ask("tasks/update", last, capabilities=BOTH)
        done = await standing(door, task_id, "completed")

        assert set(asked["inputRequests"]) == {"a", "b"}
        assert set(half["inputRequests"]) == {"b"}
        assert done["result"]["content"][0]["text"] == "accept decline"


async def test_a_task_with_an_idempotency_key_goes_on_with_its_answers() -> None:
    async with mcp_door(two) as door:
        keyed = {"toolpost/idempotency_key": "k"}
        task_id = await begun(door, "two", meta=keyed)
        await standing(door, task_id, "input_required")
        await door.ask("tasks/update", {"taskId": task_id, "inputResponses": {"a": YES, "b": YES}}, capabilities=BOTH)

        done = await standing(door, task_id, "completed")

        assert done["result"]["content"][0]["text"] == "accept accept"


async def test_a_task_that_waits_for_an_answer_can_be_cancelled() -> None:
    async with mcp_door(two) as door:
        task_id = await begun(door, "two")
        await standing(door, task_id, "input_required")
        await door.ask("tasks/cancel", {"taskId": task_id}, capabilities=BOTH)

        assert (await standing(door, task_id, "cancelled", "input_required"))["status"] == "cancelled"


async def test_a_tool_may_ask_first_and_become_a_task_then() -> None:
    async with mcp_door(named) as door:
        asked = await door.call("named", capabilities=BOTH)
        given = {"who": {"action": "accept", "content": {"name": "Ann"}}}
        task_id = await begun(door, "named", requestState=asked["requestState"], inputResponses=given)

        assert asked["resultType"] == "input_required"
        assert (await standing(door, task_id, "completed"))["result"]["content"][0]["text"] == "Hello, Ann"


async def test_an_approval_within_a_task_is_given_in_the_client() -> None:
    async with mcp_door(refund) as door:
        ann = key_of(door.executor, "ann")
        task_id = await begun(door, "refund", headers=ann)
        asked = await standing(door, task_id, "input_required", headers=ann)
        given = {key: {"action": "accept", "content": {"approve": True}} for key in asked["inputRequests"]}
        await door.ask("tasks/update", {"taskId": task_id, "inputResponses": given}, capabilities=BOTH, headers=ann)

        assert (await standing(door, task_id, "completed", headers=ann))["result"]["isError"] is False


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
async def test_a_task_is_its_callers_alone_and_its_id_no_call(method: str) -> None:
    async with mcp_door(compute) as door:
        ann, bob = key_of(door.executor, "ann"), key_of(door.executor, "bob")
        task_id = await begun(door, "compute", {"label": "x"}, headers=ann)
        params = {"taskId": task_id, "inputResponses": {}}

        assert "result" in await door.ask(method, params, capabilities=BOTH, headers=ann)
        for stranger in (bob, None):
            assert (await door.error(method, params, capabilities=BOTH, headers=stranger))["code"] == -32602
        unknown = {"taskId": "nothing", "inputResponses": {}}
        assert (await door.error(method, unknown, capabilities=BOTH))["code"] == -32602
        assert (await door.error(method, params))["code"] == -32021
        assert (await door.error(method, params, capabilities=BOTH, headers={**ann, "mcp-name": "x"}))["code"] == -32020


async def test_a_task_and_its_result_survive_the_server(tmp_path: Path) -> None:
    records = f"sqlite:///{tmp_path}/calls.db"
    async with mcp_door(two, compute, records_url=records) as door:
        asking, done = await begun(door, "two"), await begun(door, "compute", {"label": "x"})
        await standing(door, asking, "input_required")
        await standing(door, done, "completed")

    async with mcp_door(two, compute, records_url=records) as door:
        assert (await standing(door, done, "completed"))["result"]["content"][0]["text"] == "x done"
        update = {"taskId": asking, "inputResponses": {"a": YES, "b": YES}}
        await door.ask("tasks/update", update, capabilities=BOTH)
        assert (await standing(door, asking, "completed"))["result"]["content"][0]["text"] == "accept accept"


async def test_a_key_makes_two_tasks_of_one_call() -> None:
    runs: list[str] = []

    @Tool(register=False, hints=TASK)
    async def pay() -> int:
        """Pay."""
        runs.append("paid")
        return len(runs)

    async with mcp_door(pay, idempotency_keys="all") as door:
        meta = {"toolpost/idempotency_key": "order-1"}
        first, second = await begun(door, "pay", meta=meta), await begun(door, "pay", meta=meta)
        results = [(await standing(door, one, "completed"))["result"]["structuredContent"] for one in (first, second)]

        assert results == [{"result": 1}, {"result": 1}]
        assert runs == ["paid"]


async def test_the_methods_that_the_extension_took_away_are_not_there() -> None:
    async with mcp_door(compute) as door:
        for method in ("tasks/list", "tasks/result"):
            assert (await door.error(method, {}, capabilities=BOTH))["code"] == -32601
        capabilities = (await door.ask("server/discover"))["result"]["capabilities"]
        assert capabilities["extensions"] == TASKS["extensions"]
        assert "tasks" not in capabilities


async def test_a_tool_whose_calls_turn_out_to_take_long_becomes_a_task_unless_it_says_never() -> None:
    @Tool(register=False)
    async def slow() -> str:
        """Slow, as it turns out."""
        return "done"

    @Tool(register=False, hints=Hints(task="never"))
    async def stubborn() -> str:
        """Slow as well."""
        return "done"

    async with mcp_door(slow, stubborn) as door:
        at_first = await door.call("slow", capabilities=BOTH)
        for name in ("slow", "stubborn"):
            for _ in range(5):
                door.executor._metrics.tool(name).record(30.0, None, False, False)

        assert at_first["resultType"] == "complete"
        await standing(door, await begun(door, "slow"), "completed")
        assert (await door.call("slow"))["resultType"] == "complete"
        assert (await door.call("stubborn", capabilities=BOTH))["resultType"] == "complete"
