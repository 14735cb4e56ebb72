"""Measures what policies add to a call: each alone, all eleven stages together, many users, and round trips to Redis.

    python benchmarks/policies.py --json build/policies.json
    python benchmarks/policies.py --redis redis://127.0.0.1:6379/0

README.md here says how to read it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from measure import Contender, Missing, judged, options_for, parsed, rss_mb, sample, wanted, written
from overhead import PLAIN, Pair, add
from pydantic import BaseModel

from toolpost import (
    Breaker,
    Cache,
    CircuitOpenError,
    Concurrency,
    Hints,
    Idempotency,
    Policies,
    RateLimit,
    Retry,
    Timeout,
    Tool,
    ToolCall,
    ToolExecutor,
)
from toolpost.calls.call import Caller
from toolpost.calls.definition import ToolDefinition
from toolpost.engine.plugins import definitions_in
from toolpost.pipeline.invocation import Invocation

ROOT = Path(__file__).resolve().parent.parent
PLENTY = 1_000_000_000
"""A limit that nobody reaches."""
CLAIM_TTL_S = 1.0
"""How long the results of first runs are kept, so that old claims go as new ones come and memory stays flat."""
CALLER = Caller(user_id="u1", tenant="acme", scopes=frozenset({"numbers:read"}))
USERS = 10_000
GROWTH_ROUNDS = 20
COUNTED_CALLS = 200
PREFIX = f"toolpost-bench-{os.getpid()}"
KEY = f"{{{PREFIX}}}:value"
_used = 0


class Noted(BaseModel):
    """The arguments of the tool with all policies, for its floor."""

    a: int
    b: int
    note: str


async def add_noted(a: int, b: int, note: str) -> int:
    return a + b


class Span:
    """The least that a tracer can give."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        return None


SPAN = Span()

ALL = Policies(
    rate_limit=RateLimit(calls=PLENTY, per_s=1.0),
    concurrency=Concurrency(calls=100),
    idempotency=Idempotency(ttl_s=CLAIM_TTL_S),
    cache=Cache(ttl_s=3600, per="user"),
    breaker=Breaker(),
    retry=Retry(attempts=3),
    timeout=Timeout(total_s=30, attempt_s=10),
)


def tool(name: str, *, noted: bool = False, **policies: Any) -> ToolDefinition:
    """A tool that adds, with these policies; noted takes a text besides, and asks for a permission."""
    plain, full = definitions_in([add_pair, add_with_note])
    base = full if noted else plain
    return dataclasses.replace(
        base, name=name, identity=f"bench:{name}", policies=dataclasses.replace(base.policies, **policies)
    )


@Tool(register=False, hints=Hints(idempotent=True))
async def add_pair(a: int, b: int) -> int:
    return a + b


@Tool(register=False, hints=Hints(idempotent=True), permissions=("numbers:read",))
async def add_with_note(a: int, b: int, note: str) -> int:
    return a + b


def kinds(policies: Policies, **other: Any) -> dict[str, Any]:
    """The policies as fields, some of them others."""
    return {f.name: getattr(policies, f.name) for f in dataclasses.fields(policies)} | other


def fresh(n: int) -> range:
    """Numbers that no other loop was given, so that arguments and keys never come twice."""
    global _used
    _used += n
    return range(_used - n, _used)


# Each loop is written out, so that no call pays for a closure that the others do not have. They return the last answer.
# All enter as a door does that has authenticated its caller: an invocation, handed to run_definition.


def floors() -> list[Contender]:
    """What anybody pays who checks arguments and calls."""

    async def by_model(n: int) -> Any:
        answer = None
        for _ in range(n):
            pair = Pair.model_validate({"a": 1, "b": 2})
            answer = await add(pair.a, pair.b)
        return answer

    async def by_noted_model(n: int) -> Any:
        answer = None
        for _ in range(n):
            noted = Noted.model_validate({"a": 1, "b": 2, "note": PLAIN})
            answer = await add_noted(noted.a, noted.b, noted.note)
        return answer

    return [
        contender("one/pydantic", "floor: model_validate, then await add(m.a, m.b)", by_model, "one/pydantic"),
        contender(
            "all/pydantic",
            f"floor: the same with a str of {len(PLAIN)} characters besides",
            by_noted_model,
            "all/pydantic",
        ),
    ]


def contender(name: str, what: str, loop: Callable[[int], Any], floor: str, **more: Any) -> Contender:
    return Contender(name=name, what=what, loop=loop, floor=floor, **more)


def again(executor: ToolExecutor, definition: ToolDefinition) -> Any:
    """A loop of equal calls."""
    run = executor.run_definition

    async def plain(n: int) -> Any:
        answer = None
        for _ in range(n):
            inv = Invocation()
            inv.arguments = {"a": 1, "b": 2}
            inv.caller = CALLER
            answer = await run(definition, inv)
        return answer

    async def noted(n: int) -> Any:
        answer = None
        for _ in range(n):
            inv = Invocation()
            inv.arguments = {"a": 1, "b": 2, "note": PLAIN}
            inv.caller = CALLER
            answer = await run(definition, inv)
        return answer

    return noted if definition.permissions else plain


def anew(executor: ToolExecutor, definition: ToolDefinition) -> Any:
    """A loop of calls that no other one equals."""
    run = executor.run_definition

    async def plain(n: int) -> Any:
        answer = None
        for i in fresh(n):
            inv = Invocation()
            inv.arguments = {"a": i, "b": 3 - i}
            inv.caller = CALLER
            answer = await run(definition, inv)
        return answer

    async def noted(n: int) -> Any:
        answer = None
        for i in fresh(n):
            inv = Invocation()
            inv.arguments = {"a": i, "b": 3 - i, "note": PLAIN}
            inv.caller = CALLER
            answer = await run(definition, inv)
        return answer

    return noted if definition.permissions else plain


def keyed(executor: ToolExecutor, definition: ToolDefinition) -> Any:
    """A loop of equal calls, each with an idempotency key of its own."""
    run = executor.run_definition

    async def plain(n: int) -> Any:
        answer = None
        for i in fresh(n):
            inv = Invocation()
            inv.arguments = {"a": 1, "b": 2}
            inv.caller = CALLER
            inv.idempotency_key = f"key-{i}"
            answer = await run(definition, inv)
        return answer

    async def noted(n: int) -> Any:
        answer = None
        for i in fresh(n):
            inv = Invocation()
            inv.arguments = {"a": 1, "b": 2, "note": PLAIN}
            inv.caller = CALLER
            inv.idempotency_key = f"key-{i}"
            answer = await run(definition, inv)
        return answer

    return noted if definition.permissions else plain


def alone(executor: ToolExecutor) -> list[Contender]:
    """Each policy by itself, around the default pipeline."""

    def equal(name: str, what: str, **policies: Any) -> Contender:
        loop = again(executor, tool(name, **policies))
        return contender(f"one/{name}", what, loop, "one/pydantic")

    def distinct(name: str, what: str, **policies: Any) -> Contender:
        loop = anew(executor, tool(name, **policies))
        return contender(f"one/{name}", what, loop, "one/pydantic")

    return [
        equal("none", "run_definition, the default pipeline without a policy"),
        equal("limit", "RateLimit by user, granted", rate_limit=RateLimit(calls=PLENTY, per_s=1.0)),
        equal("concurrency", "Concurrency by tool, a place is free", concurrency=Concurrency(calls=100)),
        distinct(
            "once-first",
            "Idempotency: claimed, run, the result kept; each call with other arguments",
            idempotency=Idempotency(ttl_s=CLAIM_TTL_S),
        ),
        equal("once-replay", "Idempotency: the result of an earlier call", idempotency=Idempotency()),
        distinct("cache-miss", "Cache per user: run and kept; each call with other arguments", cache=_cache()),
        equal("cache-hit", "Cache per user: answered by it", cache=_cache()),
        equal("breaker", "Breaker, closed", breaker=Breaker()),
        _refused(executor),
        equal("retry", "Retry, nothing fails", retry=Retry(attempts=3)),
        equal("attempt", "Timeout(attempt_s): nothing suspends", timeout=Timeout(total_s=30, attempt_s=10)),
    ]


def _cache() -> Cache:
    return Cache(ttl_s=3600, per="user")


def _refused(executor: ToolExecutor) -> Contender:
    """Calls that an open breaker refuses; 3 stands for the refusal."""
    definition = tool("breaker-open", breaker=Breaker(dependency="gone"))

    async def loop(n: int) -> Any:
        executor.circuits.force("gone", "open")
        answer = None
        for _ in range(n):
            inv = Invocation()
            inv.arguments = {"a": 1, "b": 2}
            inv.caller = CALLER
            try:
                await executor.run_definition(definition, inv)
            except CircuitOpenError:
                answer = 3
        return answer

    return contender("one/breaker-open", "Breaker, open: CircuitOpenError", loop, "one/pydantic")


def together(executor: ToolExecutor) -> list[Contender]:
    """All eleven stages: a tracer, a permission, a screened text, every policy."""
    kept = kinds(ALL, idempotency=Idempotency())
    optional = kinds(ALL, idempotency=Idempotency(only_caller=True))
    missed, replayed = tool("missed", noted=True, **kinds(ALL)), tool("replayed", noted=True, **kept)
    hit, claimed = tool("hit", noted=True, **optional), tool("claimed", noted=True, **kinds(ALL))
    named = tool("named", noted=True, **kinds(ALL))
    executor.add(named)

    def calls(explain: bool) -> Any:
        async def loop(n: int) -> Any:
            answer = None
            for i in fresh(n):
                call = ToolCall(
                    id="call-1",
                    name="named",
                    arguments={"a": i, "b": 3 - i, "note": PLAIN},
                    user_id="u1",
                    tenant="acme",
                    scopes=CALLER.scopes,
                )
                answer = await executor.execute_tool_call(call, explain=explain)
            return answer

        return loop

    def one(name: str, what: str, loop: Any, **rest: Any) -> Contender:
        return contender(f"all/{name}", what, loop, rest.pop("floor", "all/pydantic"), **rest)

    return [
        one("miss", "all eleven stages, run", anew(executor, missed), bar=12.0),
        one(
            "replay",
            "all eleven stages, the result of an earlier call",
            again(executor, replayed),
            bar=6.0,
        ),
        one(
            "cache-hit",
            "all eleven stages, no idempotency key, answered by the cache",
            again(executor, hit),
            bar=6.0,
        ),
        one(
            "cache-hit-claimed",
            "the same with an idempotency key of its own for each call, under which the hit is kept",
            keyed(executor, claimed),
        ),
        one("miss-call", "all/miss by execute_tool_call: ToolCall in, ToolResult out", calls(False), read=_value),
        one("miss-explain", "the same with explain=True", calls(True), floor="all/miss-call", read=_value),
    ]


def _value(result: Any) -> Any:
    return result.data["result"] if isinstance(result.data, dict) else result.data


def users(executor: ToolExecutor) -> list[Contender]:
    """One limiter with few users and with many."""

    def loop_of(definition: ToolDefinition, callers: Sequence[Caller]) -> Any:
        async def loop(n: int) -> Any:
            answer, count = None, len(callers)
            for i in range(n):
                inv = Invocation()
                inv.arguments = {"a": 1, "b": 2}
                inv.caller = callers[i % count]
                answer = await executor.run_definition(definition, inv)
            return answer

        return loop

    def limited(count: int, **more: Any) -> Contender:
        definition = tool(f"users-{count}", rate_limit=RateLimit(calls=PLENTY, per_s=1.0))
        what = f"RateLimit by user, {count:,} users in turn"
        return contender(f"users/{count}", what, loop_of(definition, everybody(count)), "users/10", calls=USERS, **more)

    return [limited(10), limited(USERS, bar=1.1)]


def everybody(count: int) -> list[Caller]:
    return [Caller(user_id=f"user-{i}") for i in range(count)]


def growth_line(found: dict[str, Any]) -> str:
    """What growth() found, for a terminal."""
    return (
        f"{found['users']:,} users: {found['blocks_a_user']:.1f} blocks for each; "
        f"{found['calls']:,} further calls of them: {found['blocks_per_100k']:.0f} blocks "
        f"and {found['rss_growth_mb_per_100k']:.3f} MB for 100,000"
    )


def growth(executor: ToolExecutor, runner: asyncio.Runner, rounds: int) -> dict[str, Any]:
    """What a limiter keeps for each of many users, and whether more calls of the same users make it more."""
    loop = users(executor)[1].loop
    gc.collect()
    empty = sys.getallocatedblocks()

    async def passes(count: int) -> None:
        for _ in range(count):
            await loop(USERS)

    runner.run(passes(4))  # the history of recent calls is full then
    gc.collect()
    before_mb, before = rss_mb(), sys.getallocatedblocks()
    runner.run(passes(rounds))
    gc.collect()
    hundred_thousands = rounds * USERS / 100_000
    return {
        "users": USERS,
        "calls": rounds * USERS,
        "blocks_a_user": (before - empty) / USERS,
        "blocks_per_100k": (sys.getallocatedblocks() - before) / hundred_thousands,
        "rss_growth_mb_per_100k": (rss_mb() - before_mb) / hundred_thousands,
    }


# Redis: round trips counted by the state itself and commands by the server.


@contextlib.contextmanager
def redis_at(url: str | None) -> Iterator[tuple[ToolExecutor, Any] | str]:
    """An executor whose limits, claims and cache are in one Redis, without the cache's front in memory, and a client.

    The server is the one that url names, else one that is started here and stopped afterwards. Or why there is none.
    """
    with contextlib.ExitStack() as stack:
        try:
            import redis

            url = url or stack.enter_context(_started()).url
            client = stack.enter_context(redis.Redis.from_url(url))
            client.ping()
        except Exception as error:
            yield f"no Redis ({type(error).__name__}: {error})"
            return
        stack.callback(_clear, client)
        settings: dict[str, Any] = {"state_url": url, "state_prefix": PREFIX, "cache_prefix": f"{PREFIX}-cache"}
        yield stack.enter_context(ToolExecutor(cache_backend="redis", cache_front_ttl=0.0, **settings)), client


def _started() -> Any:
    """A Redis server of our own. Raises ImportError outside a checkout, Missing where the machine has none."""
    sys.path.insert(0, str(ROOT))
    try:
        from tests.services import Redis
    finally:
        sys.path.remove(str(ROOT))
    return Redis()


def _clear(client: Any) -> None:
    for key in client.scan_iter(match=f"{{{PREFIX}*", count=1000):
        client.delete(key)


def redis_cases(executor: ToolExecutor, bare: Any) -> list[Contender]:
    """Limit, once and cache, whose state is in Redis, next to one round trip. The cache's front in memory is off."""
    limited = {"rate_limit": RateLimit(calls=PLENTY, per_s=1.0)}
    once, cached = {"idempotency": Idempotency(ttl_s=60)}, {"cache": _cache()}
    three = {**limited, **once, **cached}
    bare.set(KEY, b"3")

    def get(n: int) -> Any:
        value = None
        for _ in range(n):
            value = bare.get(KEY)
        return int(value or 0)

    def put(n: int) -> Any:
        for _ in range(n):
            bare.set(KEY, b"3")
        return 3

    def one(name: str, what: str, loop_of: Any, policies: dict[str, Any]) -> Contender:
        loop = loop_of(executor, tool(f"redis-{name}", **policies))
        return contender(f"redis/{name}", what, loop, "redis/get", clock="wall")

    return [
        contender("redis/get", "floor: GET by redis-py, in the calling thread", get, "redis/get", clock="wall"),
        contender(
            "redis/set", "SET by redis-py: where the server flushes each write, that", put, "redis/get", clock="wall"
        ),
        one("limit", "RateLimit, granted", again, limited),
        one("once-first", "Idempotency, run", anew, once),
        one("once-replay", "Idempotency, the result of an earlier call", again, once),
        one("cache-miss", "Cache, run", anew, cached),
        one("cache-hit", "Cache, answered by Redis", again, cached),
        one("three-miss", "all three, run", anew, three),
        one("three-hit", "all three, a key of its own for each call, answered by Redis", keyed, three),
        one("three-replay", "all three, the result of an earlier call", again, three),
    ]


def counted(executor: ToolExecutor, bare: Any, cases: Sequence[Contender], calls: int, runner: asyncio.Runner) -> Any:
    """One row a case, for one call: round trips by the executor's own count, reads and scripts by the server's."""
    stores = executor._stores
    states: list[Any] = [stores.state]  # the cache's is over the same connection

    def now() -> tuple[int, int, int]:
        for state in states:
            state.ping().wait()  # what was asked for and not waited for is done then
        stats = bare.info()
        scripts = bare.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]
        return sum(state.batches for state in states), stats["total_reads_processed"], scripts

    def spent(case: Contender, n: int) -> tuple[int, ...]:
        before = now()
        if n:
            sample(case, n, runner)
        return tuple(then - first for first, then in zip(before, now(), strict=True))

    made = []
    for case in cases:
        sample(case, 1, runner)
        looking = spent(case, 0)
        trips, reads, scripts = ((all_ - own) / calls for all_, own in zip(spent(case, calls), looking, strict=True))
        made.append({"name": case.name, "round_trips": trips, "server_reads": reads, "scripts": scripts})
    return made


def counts_table(found: Sequence[dict[str, Any]]) -> str:
    """What was counted, as text for a terminal."""
    lines = [f"{'one call over Redis':<32} {'round trips':>11} {'server reads':>12} {'scripts':>8}"]
    lines += [
        f"{row['name']:<32} {row['round_trips']:>11.2f} {row['server_reads']:>12.2f} {row['scripts']:>8.2f}"
        for row in found
    ]
    return "\n".join(lines)


REDIS = "get set limit once-first once-replay cache-miss cache-hit three-miss three-hit three-replay".split()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. 0 however the bars come out; 2 when a pattern names nothing or an answer is wrong."""
    parser = options_for(__doc__)
    parser.add_argument("--redis", metavar="URL", help="a Redis server to measure over; else one is started")
    parser.add_argument("--no-redis", action="store_true", help="leave Redis out")
    options = parsed(parser, arguments)
    logging.getLogger("toolpost").addHandler(logging.NullHandler())
    logging.getLogger("toolpost").propagate = False  # each refusal is logged; those lines go nowhere
    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        executor = stack.enter_context(ToolExecutor())
        traced = stack.enter_context(ToolExecutor(tracer=lambda tool, inv: SPAN))
        everything: list[Contender | Missing] = [*floors(), *alone(executor), *together(traced), *users(executor)]
        cases: list[Contender] = []
        there: Any = None
        if not options.no_redis and any(wanted(options, f"redis/{name}") for name in REDIS):
            there = stack.enter_context(redis_at(options.redis))
            if isinstance(there, str):
                everything += [Missing(name=f"redis/{name}", what="", why=there) for name in REDIS]
            else:
                cases = redis_cases(*there)
                everything += cases
        report = judged(everything, options, runner)
        if isinstance(report, int):
            return report
        cases = [case for case in cases if wanted(options, case.name) and case.name not in ("redis/get", "redis/set")]
        if cases:
            report["counts"] = counted(there[0], there[1], cases, min(options.calls, COUNTED_CALLS), runner)
            print(f"\n{counts_table(report['counts'])}")
        if wanted(options, f"users/{USERS}"):
            with ToolExecutor() as unused:
                report["growth"] = growth(unused, runner, min(options.rounds, GROWTH_ROUNDS))
            print(f"\n{growth_line(report['growth'])}")
    written(report, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
