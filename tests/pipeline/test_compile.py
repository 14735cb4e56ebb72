"""The order of the stages is one place, and holds for every tool."""

import itertools

import pytest
from hypothesis import given, settings, strategies as st

from toolpost import (
    Breaker,
    Cache,
    Hints,
    Idempotency,
    RateLimit,
    Retry,
    Screening,
    Timeout,
    Tool,
    ToolExecutionError,
    create_tool_call,
)
from toolpost.calls.policies import Policies
from toolpost.pipeline.compile import ORDER, with_stages
from toolpost.pipeline.screen import screen
from toolpost.pipeline.settle import settle
from toolpost.testing import executor_for

NAMES = """
    settle trace audit validate screen authorize grant approve limit once cache spend breaker retry timeout reveal
""".split()


def test_the_order_is_pinned():
    assert [stage.__name__ for stage in ORDER] == NAMES


def test_further_stages_stand_only_between_validate_and_timeout():
    extra = lambda tool, services, next: next  # noqa: E731

    assert [s.__name__ for s in with_stages(screen, extra)][4:6] == ["screen", "<lambda>"]
    with pytest.raises(ValueError, match="between"):
        with_stages(settle, extra)
    with pytest.raises(ValueError, match="between"):
        with_stages(ORDER[-1], extra)


CODES = {
    "validate": "invalid_input",
    "screen": "screened",
    "authorize": "unauthenticated",
    "limit": "rate_limited",
}


@settings(max_examples=40, deadline=None)
@given(st.sets(st.sampled_from(sorted(CODES))))
def test_of_several_reasons_to_refuse_the_outermost_stage_speaks(broken):
    """Whatever mix of gates would refuse a call, the first in the order does, and nothing further is touched."""
    ran = []

    def body(path: str, n: int = 0):
        ran.append(path)
        return path

    tool = Tool(
        name="Ordered",
        register=False,
        requires_auth=True,
        cache=Cache(ttl_s=60, per="global"),
        rate_limit=RateLimit(calls=1, per_s=60, by="tool"),
        screening=Screening(roles={"path": "path"}),
    )(body)
    with executor_for(tool) as executor:
        good = create_tool_call("Ordered", {"path": "a.txt"}, user_id="ann")
        assert executor.execute_sync(good).success  # fills the cache and empties the bucket
        if "limit" not in broken:
            executor._buckets._buckets.clear()
        arguments = {"path": "../../etc/passwd" if "screen" in broken else "a.txt"}
        if "validate" in broken:
            arguments["n"] = "x"

        result = executor.execute_sync(
            create_tool_call("Ordered", arguments, user_id=None if "authorize" in broken else "ann")
        )

        first = next((stage for stage in NAMES if stage in broken), None)
        assert (result.failure.code if result.failure else None) == (CODES[first] if first else None)
        assert result.source == ("run" if first else "cache")
        assert ran == ["a.txt"]


@settings(max_examples=40, deadline=None)
@given(st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_of_several_stages_that_could_answer_the_outermost_does(authorized, kept, cached, held):
    """A stored result is given only to the authorised; a replay goes before a hit, that before an open circuit."""
    ran = []

    def body(n: int):
        ran.append(n)
        return n

    tool = Tool(
        name="Ordered",
        register=False,
        requires_auth=True,
        idempotency=Idempotency(only_caller=True),
        cache=Cache(ttl_s=60, per="global"),
        breaker=Breaker(),
        retry=Retry(wait_s=0.0),
        hints=Hints(idempotent=True),
    )(body)
    with executor_for(tool) as executor:

        def call(n, key, user="ann"):
            return executor.execute_sync(create_tool_call("Ordered", {"n": n}, user_id=user, idempotency_key=key))

        if kept:
            assert call(1, "key").success
            executor.clear_cache()
        if cached:
            assert call(1, None).success
        if held:
            executor.circuits.force("Ordered", "open")
        before = len(ran)

        result = call(1, "key", "ann" if authorized else None)

        outcome = result.failure.code if result.failure else result.source
        order = [(not authorized, "unauthenticated"), (kept, "replay"), (cached, "cache"), (held, "circuit_open")]
        assert outcome == next((name for true, name in order if true), "run")
        assert len(ran) - before == (outcome == "run")


def test_a_retry_stands_inside_the_breaker_and_outside_the_limit_of_an_attempt():
    """Three attempts, each with its own limit, are one failure for the breaker and one claim for the key."""
    attempts = []

    async def body(n: int):
        attempts.append(n)
        if len(attempts) < 3:
            raise ConnectionError("away")
        return n

    tool = Tool(
        name="Again",
        register=False,
        idempotency=Idempotency(),
        breaker=Breaker(failures=1),
        retry=Retry(attempts=3, wait_s=0.0),
    )(body)
    with executor_for(tool) as executor:
        result = executor.execute_sync(create_tool_call("Again", {"n": 1}))
        again = executor.execute_sync(create_tool_call("Again", {"n": 1}))
        circuit = executor.circuits.show("Again")

    assert (result.attempts, result.usage.retries, result.usage.circuit_opened) == (3, 2, False)
    assert (again.source, len(attempts), circuit.state) == ("replay", 3, "closed")


def test_a_stage_with_nothing_to_do_is_not_in_the_chain():
    """A plain tool's handler calls its body with nothing between but settle and validate."""
    import traceback

    frames = []

    @Tool(name="Plain", register=False, runs_in="inline")
    def plain(n: int):
        frames.extend(f.name + ":" + f.filename.rsplit("/", 1)[-1] for f in traceback.extract_stack())
        return n

    with executor_for(plain) as executor:
        executor.call_sync("Plain", n=1)

    ours = [f for f in frames if f.endswith((".py",)) and f.split(":")[1][:-3] in {*NAMES, "function"}]
    assert [f.split(":")[1] for f in ours] == ["settle.py", "validate.py", "function.py"]


def test_an_attempt_may_have_a_limit_of_its_own():
    import asyncio

    from toolpost.calls.definition import ToolDefinition

    async def waits() -> None:
        await asyncio.get_running_loop().create_future()

    made = Tool(name="Attempt", register=False)(waits).tool_definition
    fields = {name: getattr(made, name) for name in ToolDefinition.__dataclass_fields__}
    narrow = ToolDefinition(**{**fields, "policies": Policies(timeout=Timeout(total_s=30, attempt_s=0.02))})
    with executor_for(narrow) as executor, pytest.raises(ToolExecutionError, match=r"timed out after 0\.02 s"):
        executor.call_sync("Attempt")


def test_policies_left_unset_inherit_and_none_switches_off():
    defaults = Policies(timeout=Timeout(total_s=5), cache=Cache(ttl_s=1))

    merged = Policies(cache=None).over(defaults)

    assert (merged.timeout, merged.cache) == (Timeout(total_s=5), None)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Timeout(total_s=0),
        lambda: Timeout(attempt_s=-1),
        lambda: RateLimit(calls=0),
        lambda: RateLimit(calls=1, per_s=0),
        lambda: Cache(per="nobody"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_when_made(wrong):
    with pytest.raises(ValueError, match=r"must be"):
        wrong()


def test_every_order_of_two_calls_gives_the_same_values():
    def body(n: int):
        return [n]

    tool = Tool(name="Pure", register=False, cache=Cache(ttl_s=60))(body)
    for order in itertools.permutations([1, 2, 1]):
        with executor_for(tool) as executor:
            assert [executor.call_sync("Pure", n=n) for n in order] == [[n] for n in order]
