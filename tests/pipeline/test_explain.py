"""explain: what each stage decided, by which rule and in which time; nothing of it without being asked."""

import traceback
from dataclasses import replace

import pytest

from toolpost import (
    Breaker,
    Cache,
    FunctionToolExecutor,
    FunctionToolSpec,
    Hints,
    Idempotency,
    RateLimit,
    Retry,
    RetryConfig,
    Tool,
    ToolError,
    ToolExecutor,
    create_tool_call,
)
from toolpost.pipeline.compile import ORDER
from toolpost.testing import executor_for

STAGES = [stage.__name__ for stage in ORDER] + ["runner"]


def guarded(**more):
    @Tool(
        name="Orders.Find",
        register=False,
        permissions=("orders",),
        rate_limit=RateLimit(calls=100, by="user"),
        idempotency=Idempotency(only_caller=True),
        cache=Cache(ttl_s=60, per="user"),
        breaker=Breaker(failures=2),
        retry=Retry(attempts=3, wait_s=0.0),
        hints=Hints(read_only=True),
        **more,
    )
    async def find(path: str) -> str:
        if path == "away":
            raise ConnectionError("the index is away")
        return path

    return find


def call(path="a.txt", **more):
    return create_tool_call("Orders.Find", {"path": path}, user_id="ann", scopes=frozenset({"orders"}), **more)


def decisions(result):
    return {entry["stage"]: entry["decision"] for entry in result.explanation}


async def test_every_stage_says_what_it_decided_in_order():
    with executor_for(guarded()) as executor:
        result = await executor.execute_tool_call(call(), explain=True)

    assert [entry["stage"] for entry in result.explanation] == STAGES
    assert decisions(result) | {"cache": "", "retry": "", "limit": "", "breaker": ""} == {
        "settle": "settled",
        "trace": "not in the chain",
        "validate": "passed",
        "screen": "passed",
        "authorize": "passed",
        "limit": "",
        "once": "no key: the call runs without the policy",
        "cache": "",
        "breaker": "",
        "retry": "",
        "timeout": "not in the chain",
        "runner": "ran",
    } | dict.fromkeys(("audit", "grant", "approve", "spend", "reveal"), "not in the chain")
    rules = {entry["stage"]: entry.get("rule") for entry in result.explanation}
    assert rules["limit"] == "RateLimit(calls=100)"
    assert rules["breaker"] == "Breaker(failures=2)"
    assert rules["authorize"] == "permission 'orders'"


async def test_a_hit_says_so_and_what_lies_behind_it_was_not_reached():
    with executor_for(guarded()) as executor:
        await executor.execute_tool_call(call())
        result = await executor.execute_tool_call(call(), explain=True)

    told = decisions(result)
    assert "hit" in told["cache"]
    assert [told[name] for name in ("breaker", "retry", "runner")] == ["not reached"] * 3


async def test_a_replay_is_explained_with_its_key():
    with executor_for(guarded()) as executor:
        await executor.execute_tool_call(call(idempotency_key="k"))
        result = await executor.execute_tool_call(call(idempotency_key="k"), explain=True)

    once = next(entry for entry in result.explanation if entry["stage"] == "once")
    assert once["decision"] == "replays the result of an earlier call"
    assert len(once["notes"][0]["key"]) == 64


async def test_a_refusal_names_the_stage_and_the_reason():
    with executor_for(guarded()) as executor:
        result = await executor.execute_tool_call(
            create_tool_call("Orders.Find", {"path": "a.txt"}, user_id="ann"), explain=True
        )

    authorize = next(entry for entry in result.explanation if entry["stage"] == "authorize")
    assert authorize["decision"] == "refused"
    assert authorize["error"].startswith("denied: the caller lacks the permission 'orders'")
    assert decisions(result)["limit"] == "not reached"


async def test_attempts_and_an_opened_circuit_are_told():
    with executor_for(guarded()) as executor:
        await executor.execute_tool_call(call("away"))
        result = await executor.execute_tool_call(call("away"), explain=True)
        held = await executor.execute_tool_call(call("away"), explain=True)

    runner = next(entry for entry in result.explanation if entry["stage"] == "runner")
    assert (runner["entered"], runner["decision"]) == (3, "failed")
    assert "opened the circuit" in decisions(result)["breaker"]
    assert "refused" in decisions(held)["breaker"]
    assert held.usage.circuit_opened


async def test_times_are_each_stages_own_and_add_up():
    with executor_for(guarded()) as executor:
        result = await executor.execute_tool_call(call(), explain=True)

    times = [entry["us"] for entry in result.explanation if "us" in entry]
    assert all(time >= 0 for time in times)
    assert 0 < sum(times) <= result.execution_time_ms * 1000


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_result_explains_nothing_unless_asked(blocking):
    @Tool(name="Plain", register=False, runs_in="inline")
    def plain(n: int) -> int:
        return n

    asked = create_tool_call("Plain", {"n": 1})
    with executor_for(plain) as executor:
        if blocking:
            silent, told = executor.execute_sync(asked), executor.execute_sync(asked, explain=True)
        else:
            silent = await executor.execute_tool_call(asked)
            told = await executor.execute_tool_call(asked, explain=True)

    assert silent.explanation is None
    assert decisions(told)["runner"] == "ran"
    assert told.data == silent.data


async def test_nothing_of_explaining_is_in_the_plain_chain():
    seen = []

    @Tool(name="Plain", register=False, idempotency=Idempotency(), breaker=Breaker(), retry=Retry(insist=True))
    async def plain(n: int) -> int:
        seen.append({frame.filename.rpartition("/")[2] for frame in traceback.extract_stack()})
        return n

    with executor_for(plain) as executor:
        await executor.execute_tool_call(create_tool_call("Plain", {"n": 1}), explain=True)
        await executor.execute_tool_call(create_tool_call("Plain", {"n": 2}))

    explained, not_explained = seen
    assert "explain.py" in explained
    assert "explain.py" not in not_explained
    assert "settle.py" in not_explained


async def test_an_explained_call_shares_state_with_the_others():
    with executor_for(guarded()) as executor:
        first = await executor.execute_tool_call(call(), explain=True)
        second = await executor.execute_tool_call(call())

    assert (first.source, second.source) == ("run", "cache")


async def test_an_error_is_told_of_the_stage_that_raised_it():
    @Tool(name="Two", register=False, rate_limit=RateLimit(calls=1))
    async def two(n: int) -> int:
        return n

    with executor_for(two) as executor:
        for _ in range(2):
            result = await executor.execute_tool_call(create_tool_call("Two", {"n": 1}), explain=True)

    told = {entry["stage"]: entry for entry in result.explanation}
    assert (told["validate"]["decision"], "error" in told["validate"]) == ("passed", False)
    assert told["limit"]["decision"] == "refused"
    assert told["limit"]["error"].startswith("rate_limited: ")


async def test_a_result_that_does_not_fit_is_the_failure_of_its_check():
    @Tool(name="Odd", register=False, returns={"type": "integer"})
    async def odd() -> object:
        return "text"

    with executor_for(odd) as executor:
        result = await executor.execute_tool_call(create_tool_call("Odd", {}), explain=True)

    told = {entry["stage"]: entry for entry in result.explanation}
    assert (told["validate"]["decision"], told["runner"]["decision"]) == ("failed", "ran")
    assert told["validate"]["error"].startswith("invalid_output: ")


@pytest.mark.parametrize("fails", [False, True])
async def test_an_executor_of_a_spec_explains_too(fails):
    spec = FunctionToolSpec(
        id="s", tool_name="s", description="s", parameters=[], retry=RetryConfig(max_attempts=2, base_delay_s=0)
    )

    async def body(args):
        if fails:
            raise ToolError("no")
        return 1

    with ToolExecutor() as own:
        executor = FunctionToolExecutor(spec, body, executor=own)
        silent, result = await executor.execute({}), await executor.execute({}, explain=True)

    told = {entry["stage"]: entry["decision"] for entry in result.explanation}
    assert silent.explanation is None
    assert told["runner"] == ("failed" if fails else "ran")
    assert told["cache"] == "not in the chain"


async def test_a_failure_that_is_replayed_is_told_as_a_replay_by_an_executor_of_a_spec():
    spec = FunctionToolSpec(id="s", tool_name="s", description="s", parameters=[])

    async def body(args):
        raise ToolError("no")

    with ToolExecutor() as own:
        executor = FunctionToolExecutor(spec, body, executor=own)
        policies = replace(executor.definition.policies, idempotency=Idempotency(failures="replay"))
        executor.definition = replace(executor.definition, policies=policies)
        first, second = await executor.execute({}), await executor.execute({})

    assert (first.source, second.source) == ("run", "replay")
    assert second.usage.idempotency_reused
