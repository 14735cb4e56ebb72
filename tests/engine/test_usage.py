"""Usage and cost in results: bytes, tokens, money, attempts and flags, the same however a call is made."""

import logging

import pytest

from toolpost import (
    Breaker,
    Cache,
    CostCalculator,
    FunctionToolExecutor,
    FunctionToolSpec,
    Idempotency,
    Price,
    Retry,
    StringParameter,
    Tool,
    ToolContext,
    ToolUsage,
    create_tool_call,
)
from toolpost.testing import executor_for

PRICES = {"Echo": Price(per_call_usd=0.01, per_1k_tokens_in_usd=1.0)}


def echo(**more):
    trouble = []

    @Tool(name="Echo", register=False, **more)
    async def tool(text: str) -> dict:
        if trouble:
            raise trouble.pop(0)
        return {"text": text}

    return tool, trouble


def call(text="hello", **more):
    return create_tool_call("Echo", {"text": text}, **more)


async def test_bytes_are_those_of_arguments_and_result_as_json():
    tool, _ = echo()
    with executor_for(tool) as executor:
        usage = (await executor.execute_tool_call(call())).usage

    assert usage == ToolUsage(input_bytes=len('{"text":"hello"}'), output_bytes=len('{"text":"hello"}'), attempts=1)


async def test_attempts_and_retries_are_counted_and_each_attempt_is_paid():
    tool, trouble = echo(retry=Retry(attempts=3, wait_s=0.0, insist=True))
    trouble[:] = [ConnectionError(), ConnectionError()]
    with executor_for(tool, usage=CostCalculator({"Echo": Price(per_call_usd=0.01)})) as executor:
        usage = (await executor.execute_tool_call(call())).usage

    assert (usage.attempts, usage.retries, usage.cost_usd) == (3, 2, pytest.approx(0.03))


async def test_a_hit_and_a_replay_are_flagged_and_cost_nothing():
    tool, _ = echo(cache=Cache(ttl_s=60), idempotency=Idempotency(only_caller=True))
    with executor_for(tool, usage=CostCalculator(PRICES)) as executor:
        first = (await executor.execute_tool_call(call(idempotency_key="k"))).usage
        replay = (await executor.execute_tool_call(call(idempotency_key="k"))).usage
        hit = (await executor.execute_tool_call(call())).usage

    assert first.cost_usd > 0.01
    assert (replay.idempotency_reused, replay.cached_hit, replay.attempts, replay.cost_usd) == (True, False, 0, 0.0)
    assert (hit.idempotency_reused, hit.cached_hit, hit.attempts, hit.cost_usd) == (False, True, 0, 0.0)


async def test_an_open_circuit_is_flagged():
    tool, trouble = echo(breaker=Breaker(failures=1))
    trouble[:] = [ConnectionError()]
    with executor_for(tool) as executor:
        opened = (await executor.execute_tool_call(call())).usage
        held = (await executor.execute_tool_call(call())).usage

    assert (opened.circuit_opened, held.circuit_opened) == (True, True)
    assert (opened.attempts, held.attempts) == (1, 0)


async def test_a_failure_has_a_usage_and_no_output():
    tool, trouble = echo()
    trouble[:] = [ValueError("no")]
    with executor_for(tool, usage=CostCalculator(PRICES)) as executor:
        usage = (await executor.execute_tool_call(call())).usage

    assert (usage.attempts, usage.output_bytes, usage.tokens_out) == (1, 0, 0)
    assert usage.cost_usd > 0.01


async def test_a_tools_own_calculator_goes_before_the_executors():
    class Fixed:
        def calculate(self, args, result, *, tool=None, **flags):
            return ToolUsage(cost_usd=7.0, **flags)

    tool, _ = echo(usage=Fixed())
    with executor_for(tool, usage=CostCalculator(PRICES)) as executor:
        assert (await executor.execute_tool_call(call())).usage.cost_usd == 7.0


async def test_a_calculator_that_breaks_is_logged_and_the_call_goes_on(caplog):
    class Broken:
        def calculate(self, args, result, *, tool=None, **flags):
            raise RuntimeError("no price list")

    tool, _ = echo()
    with caplog.at_level(logging.WARNING), executor_for(tool, usage=Broken()) as executor:
        result = await executor.execute_tool_call(call())

    assert result.success
    assert result.usage.attempts == 1
    assert "no price list" in caplog.text


@pytest.mark.parametrize("way", ["tool_call", "sync", "spec"])
async def test_usage_is_the_same_whichever_way_a_call_is_made(way):
    tool, _ = echo()
    spec = FunctionToolSpec(
        id="e", tool_name="Echo", description="", parameters=[StringParameter(name="text", required=True)]
    )
    with executor_for(tool, usage=CostCalculator(PRICES)) as executor:
        if way == "tool_call":
            result = await executor.execute_tool_call(call())
        elif way == "sync":
            import asyncio

            result = await asyncio.to_thread(executor.execute_sync, call())
        else:

            async def body(args):
                return {"text": args["text"]}

            result = await FunctionToolExecutor(spec, body, executor=executor).execute({"text": "hello"}, ToolContext())

    assert result.usage == ToolUsage(
        input_bytes=16, output_bytes=16, tokens_in=4, tokens_out=4, cost_usd=0.01 + 0.004, attempts=1
    )


async def test_refused_arguments_are_not_counted():
    tool, _ = echo()
    with executor_for(tool) as executor:
        usage = (await executor.execute_tool_call(create_tool_call("Echo", {"tex": "x" * 1000}))).usage

    assert (usage.input_bytes, usage.attempts) == (2, 0)
