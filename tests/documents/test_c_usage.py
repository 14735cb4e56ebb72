"""Document C's own blocks, run as written there, with effects counted outside: every policy has to act."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from toolpost import (
    AdaptiveCircuitBreakerPolicy,
    BaseDbExecutor,
    CircuitBreakerState,
    DbToolSpec,
    DynamoDBExecutor,
    DynamoDbToolSpec,
    Egress,
    ExponentialBackoffRetryPolicy,
    FieldBasedIdempotencyKeyGenerator,
    FixedRetryPolicy,
    FunctionToolExecutor,
    FunctionToolSpec,
    HashBasedIdempotencyKeyGenerator,
    HttpToolExecutor,
    HttpToolSpec,
    NumericParameter,
    ObjectParameter,
    StandardCircuitBreakerPolicy,
    StringParameter,
    ToolContext,
    ToolExecutor,
    ToolType,
)
from toolpost.testing import FakeClock, executor_for


class OrderService:
    """What the tool's effect is on: it counts, and can be away."""

    def __init__(self) -> None:
        self.created: Counter[str] = Counter()
        self.asked = 0
        self.away: list[Exception] = []

    async def create(self, order_id: str, customer_id: str, amount: float) -> dict[str, Any]:
        self.asked += 1
        if self.away:
            raise self.away.pop(0)
        self.created[order_id] += 1
        return {"confirmation_code": f"C-{order_id}"}


class Service:
    """Every service that the document hands in with the context; it writes down what it was asked."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.kept: dict[str, Any] = {}

    async def get(self, key: str) -> Any:
        return self.kept.get(key)

    async def set(self, key: str, val: Any, ttl_s: float | None = None) -> None:
        self.kept[key] = val

    async def incr(self, name: str, value: float = 1, tags: Any = None) -> None:
        self.told.append(f"{name} {tags['status']}")

    async def timing_ms(self, name: str, value: float, tags: Any = None) -> None:
        self.told.append(name)

    def span(self, name: str, attrs: Any = None) -> Any:
        self.told.append(name)
        return asyncio.timeout(None)

    async def acquire(self, key: str, limit: Any = None) -> bool:
        self.told.append("limiter")
        return True

    async def validate(self, args: Any, spec: Any) -> None:
        self.told.append("validator")

    async def authorize(self, ctx: Any, spec: Any) -> bool:
        self.told.append("authorize")
        return True

    async def check_egress(self, args: Any, spec: Any) -> bool:
        self.told.append("egress")
        return True


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def engine(clock: FakeClock) -> Iterator[ToolExecutor]:
    with executor_for(clock=clock, timeout=None) as made:
        yield made


async def finished(work: Any, clock: FakeClock) -> tuple[Any, list[float]]:
    """The result of a call whose waits are cut short, and how long each wait was."""
    task = asyncio.ensure_future(work)
    waits: list[float] = []
    while not task.done():
        for _ in range(20):
            await asyncio.sleep(0)
        retries = [a for a in clock._alarms if not a[2].silent and a[0] - clock.monotonic() < 29]
        if not task.done() and retries:
            wait_s = min(a[0] for a in retries) - clock.monotonic()
            waits.append(wait_s)
            clock.advance(wait_s)
    return task.result(), waits


def complete_spec() -> FunctionToolSpec:
    spec = FunctionToolSpec(
        id="order-creation-v1",
        tool_name="create_order",
        description="Create customer order with full resilience",
        tool_type=ToolType.FUNCTION,
        parameters=[
            StringParameter(name="order_id", required=True),
            StringParameter(name="customer_id", required=True),
            NumericParameter(name="amount", required=True),
            StringParameter(name="currency", required=True),
        ],
        timeout_s=30,
    )
    spec.idempotency.enabled = True
    spec.idempotency.persist_result = True
    spec.idempotency.ttl_s = 86400
    spec.idempotency.key_fields = ["order_id"]
    spec.idempotency_key_generator = FieldBasedIdempotencyKeyGenerator()
    spec.circuit_breaker_policy = StandardCircuitBreakerPolicy(failure_threshold=5, recovery_timeout=60)
    spec.retry_policy = ExponentialBackoffRetryPolicy(max_attempts=3, base_delay=1.0, max_delay=10.0, multiplier=2.0)
    return spec


def order(order_id: str = "order-12345") -> dict[str, Any]:
    return {"order_id": order_id, "customer_id": "customer-789", "amount": 199.99, "currency": "USD"}


class Shop:
    """The document's complete example on one engine."""

    def __init__(self, engine: ToolExecutor) -> None:
        self.orders = OrderService()
        self.spec = complete_spec()

        async def create_order(args: dict[str, Any]) -> dict[str, Any]:
            result = await self.orders.create(args["order_id"], args["customer_id"], args["amount"])
            return {"order_id": args["order_id"], "status": "created", "confirmation": result["confirmation_code"]}

        self.executor = FunctionToolExecutor(self.spec, create_order, executor=engine)

    def place(self, order_id: str = "order-12345", ctx: ToolContext | None = None) -> Any:
        return self.executor.execute(order(order_id), ctx or ToolContext(user_id="user123"))


async def test_the_complete_example_creates_the_order_once(engine: ToolExecutor) -> None:
    shop, service = Shop(engine), Service()
    ctx = ToolContext(
        user_id="user123",
        memory=service,  # type: ignore[arg-type]
        metrics=service,  # type: ignore[arg-type]
        tracer=service,
        limiter=service,
        validator=service,
        security=service,
    )

    first = await shop.place(ctx=ctx)
    again = await shop.place(ctx=ctx)

    assert first.success
    assert first.content == {"order_id": "order-12345", "status": "created", "confirmation": "C-order-12345"}
    assert (again.content, again.source, again.usage.idempotency_reused) == (first.content, "replay", True)
    assert shop.orders.created == {"order-12345": 1}
    for asked in ("validator", "authorize", "egress", "limiter"):
        assert service.told.count(asked) == 2
    assert service.told.count("tool.executions success") == 2
    assert [key.partition(":")[0] for key in service.kept] == ["result"]


async def test_the_complete_example_waits_one_and_two_seconds_between_its_attempts(
    engine: ToolExecutor, clock: FakeClock
) -> None:
    shop = Shop(engine)
    shop.orders.away = [ConnectionError("away"), TimeoutError("slow")]

    result, waits = await finished(shop.place(), clock)

    assert result.success
    assert (result.attempts, result.usage.retries, shop.orders.asked) == (3, 2, 3)
    assert shop.orders.created == {"order-12345": 1}
    assert waits == [pytest.approx(1.0, rel=0.11), pytest.approx(2.0, rel=0.11)]


async def test_the_complete_example_stops_calling_a_service_that_is_away(
    engine: ToolExecutor, clock: FakeClock
) -> None:
    shop = Shop(engine)
    shop.orders.away = [ConnectionError("away")] * 15
    breaker: StandardCircuitBreakerPolicy = shop.spec.circuit_breaker_policy

    for n in range(5):
        failed, _ = await finished(shop.place(f"o-{n}"), clock)
        assert failed.failure.code != "circuit_open"
    refused, _ = await finished(shop.place("o-6"), clock)

    assert (refused.failure.code, refused.status_code, refused.usage.circuit_opened) == ("circuit_open", 503, True)
    assert (shop.orders.asked, breaker.get_state("create_order")) == (15, CircuitBreakerState.OPEN)
    clock.advance(60.0)
    assert (await shop.place("o-6")).success
    assert breaker.get_state("create_order") is CircuitBreakerState.CLOSED
    assert shop.orders.created == {"o-6": 1}


async def test_a_stored_result_is_given_while_the_circuit_is_open(engine: ToolExecutor, clock: FakeClock) -> None:
    shop = Shop(engine)
    assert (await shop.place("o-1")).success
    engine.circuits.force("create_order", "open")

    assert (await shop.place("o-1")).source == "replay"
    assert shop.orders.asked == 1


async def test_the_steps_to_use_everything_together(engine: ToolExecutor) -> None:
    ran = []

    async def my_function(args: dict[str, Any]) -> dict[str, Any]:
        ran.append(args)
        return {"result": args["param2"]}

    spec = FunctionToolSpec(
        id="my-tool-v1",
        tool_name="my_tool",
        description="My awesome tool",
        tool_type=ToolType.FUNCTION,
        parameters=[StringParameter(name="param1", required=True), NumericParameter(name="param2", required=True)],
        timeout_s=30,
    )
    spec.idempotency.enabled = True
    spec.idempotency.key_fields = ["param1"]
    spec.idempotency_key_generator = FieldBasedIdempotencyKeyGenerator()
    spec.circuit_breaker_policy = StandardCircuitBreakerPolicy(failure_threshold=5, recovery_timeout=30)
    spec.retry_policy = ExponentialBackoffRetryPolicy(max_attempts=3, base_delay=1.0)
    executor = FunctionToolExecutor(spec, my_function, executor=engine)

    for _ in range(2):
        result = await executor.execute({"param1": "value", "param2": 42}, ToolContext())
        assert result.content == {"result": 42}

    assert len(ran) == 1


async def test_a_payment_is_never_charged_twice_for_one_transaction(engine: ToolExecutor, clock: FakeClock) -> None:
    charged: Counter[str] = Counter()
    gateway: list[Exception] = [ConnectionError("gateway")]

    async def charge(args: dict[str, Any]) -> dict[str, Any]:
        if gateway:
            raise gateway.pop(0)
        charged[args["transaction_id"]] += 1
        return {"charged": args["amount"]}

    spec = FunctionToolSpec(
        id="pay-v1",
        tool_name="pay",
        description="Charge a card",
        parameters=[
            StringParameter(name="transaction_id", required=True),
            NumericParameter(name="amount", required=True),
        ],
    )
    spec.idempotency_key_generator = FieldBasedIdempotencyKeyGenerator()
    spec.idempotency.key_fields = ["transaction_id"]
    spec.circuit_breaker_policy = StandardCircuitBreakerPolicy(failure_threshold=5, recovery_timeout=60)
    spec.retry_policy = ExponentialBackoffRetryPolicy(max_attempts=3, base_delay=1.0, max_delay=10.0)
    executor = FunctionToolExecutor(spec, charge, executor=engine)

    async def pay(amount: float) -> Any:
        args = {"transaction_id": "t-1", "amount": amount}
        return (await finished(executor.execute(args, ToolContext(user_id="u")), clock))[0]

    results = await asyncio.gather(*(pay(10.0) for _ in range(20)))
    other = await pay(11.0)

    assert {result.content["charged"] for result in results} == {10.0}
    assert charged == {"t-1": 1}
    assert other.failure.code == "key_mismatch"


class Api:
    """An HTTP server that counts what it is sent, and answers with the statuses it is told to."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.statuses: list[tuple[int, dict[str, str]]] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                api.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                status, headers = api.statuses.pop(0) if api.statuses else (200, {})
                answer = json.dumps({"n": len(api.seen)}).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Type": "application/json"}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/things"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    yield made
    made.server.shutdown()
    made.server.server_close()


def api_spec(api: Api) -> HttpToolSpec:
    spec = HttpToolSpec(
        id="external-v1",
        tool_name="external",
        description="Call an external API",
        url=api.url,
        method="post",
        egress=Egress(private=("127.0.0.1:*",)),
        parameters=[StringParameter(name="request_id", required=True), StringParameter(name="what", required=True)],
    )
    spec.idempotency_key_generator = HashBasedIdempotencyKeyGenerator(
        include_user_context=True, include_session_context=False
    )
    spec.idempotency.key_fields = ["request_id"]
    spec.circuit_breaker_policy = AdaptiveCircuitBreakerPolicy(
        base_threshold=10, max_threshold=50, error_rate_threshold=0.3
    )
    spec.retry_policy = ExponentialBackoffRetryPolicy(max_attempts=5, base_delay=2.0, max_delay=60.0)
    return spec


async def test_an_external_api_is_asked_once_for_a_request_id_in_every_session(api: Api) -> None:
    with executor_for() as engine:
        external = HttpToolExecutor(api_spec(api), executor=engine)

        async def ask(request_id: str, user: str, session: str) -> Any:
            args = {"request_id": request_id, "what": "x"}
            return await external.execute(args, ToolContext(user_id=user, session_id=session))

        one = await ask("r-1", "ann", "s-1")
        two = await ask("r-1", "ann", "s-2")
        other = await ask("r-1", "bob", "s-1")

    assert (one.content["body"], two.content["body"], two.source) == ({"n": 1}, {"n": 1}, "replay")
    assert other.content["body"] == {"n": 2}
    keys = [headers["idempotency-key"] for _, headers, _ in api.seen]
    assert len(set(keys)) == len(keys) == 2


async def test_an_external_api_that_limits_rates_is_asked_again_when_it_says(api: Api, clock: FakeClock) -> None:
    api.statuses = [(429, {"Retry-After": "7"}), (503, {})]
    with executor_for(clock=clock, timeout=None) as engine:
        external = HttpToolExecutor(api_spec(api).model_copy(update={"timeout_s": 3600}), executor=engine)
        work = asyncio.ensure_future(external.execute({"request_id": "r-1", "what": "x"}, ToolContext(user_id="u")))
        waits = []
        for expected in (7.0, 4.0):  # what it said; then the second wait of its own
            while not (due := [a[0] for a in clock._alarms if not a[2].silent and a[0] - clock.monotonic() < 60]):
                await asyncio.sleep(0.005)
            waits.append(min(due) - clock.monotonic())
            assert waits[-1] == pytest.approx(expected, rel=0.11)
            clock.advance(waits[-1])
        result = await work

    assert result.success
    assert (result.attempts, len(api.seen)) == (3, 3)
    assert len({headers["idempotency-key"] for _, headers, _ in api.seen}) == 1


async def test_the_adaptive_breaker_opens_for_an_api_that_fails_too_often(api: Api) -> None:
    api.statuses = [(503, {})] * 100
    spec = api_spec(api)
    spec.retry_policy = None
    with executor_for() as engine:
        external = HttpToolExecutor(spec, executor=engine)
        codes = []
        for n in range(12):
            result = await external.execute({"request_id": f"r-{n}", "what": "x"}, ToolContext())
            codes.append(result.failure.code)

    assert codes == ["upstream_failed"] * 10 + ["circuit_open"] * 2
    assert len(api.seen) == 10


async def test_the_breaker_opens_for_an_api_that_cannot_be_connected_to(api: Api) -> None:
    spec = api_spec(api)
    spec.url = "http://127.0.0.1:1/gone"
    spec.retry_policy = None
    spec.circuit_breaker_policy = StandardCircuitBreakerPolicy(failure_threshold=2)
    with executor_for() as engine:
        external = HttpToolExecutor(spec, executor=engine)
        codes = [
            (await external.execute({"request_id": f"r-{n}", "what": "x"}, ToolContext())).failure.code
            for n in range(3)
        ]

    assert codes == ["upstream_failed", "upstream_failed", "circuit_open"]


@pytest.fixture
def items(dynamodb: Any) -> Iterator[Any]:
    """A table of a real server, and a client of our own to look into it."""
    import boto3

    client = boto3.client(
        "dynamodb",
        endpoint_url=dynamodb.url,
        region_name=dynamodb.region,
        aws_access_key_id=dynamodb.access_key,
        aws_secret_access_key=dynamodb.secret_key,
    )
    client.create_table(
        TableName="c-usage",
        KeySchema=[{"AttributeName": "line", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "line", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    yield client
    client.delete_table(TableName="c-usage")
    client.close()


async def test_a_database_operation_is_not_repeated_and_is_retried_quickly(
    dynamodb: Any, items: Any, clock: FakeClock
) -> None:
    spec = DynamoDbToolSpec(
        id="insert-v1",
        tool_name="insert_line",
        description="Insert a line of an order",
        table_name="c-usage",
        region=dynamodb.region,
        endpoint_url=dynamodb.url,
        aws_access_key_id=dynamodb.access_key,
        aws_secret_access_key=dynamodb.secret_key,
        parameters=[
            StringParameter(name="operation", required=True),
            StringParameter(name="order_id", required=True),
            StringParameter(name="item_id", required=True),
            ObjectParameter(name="item", required=True),
        ],
    )
    spec.idempotency_key_generator = FieldBasedIdempotencyKeyGenerator()
    spec.idempotency.key_fields = ["order_id", "item_id"]
    spec.circuit_breaker_policy = StandardCircuitBreakerPolicy(failure_threshold=3, recovery_timeout=15)
    spec.retry_policy = FixedRetryPolicy(max_attempts=2, delay_seconds=0.5)
    puts: list[str] = []
    trouble: list[Exception] = [ConnectionError("the pool is empty")]

    class Counting(DynamoDBExecutor):
        async def _execute_db_operation(self, args: dict[str, Any], ctx: Any, timeout: float | None) -> Any:
            puts.append(args["order_id"])
            if trouble:
                raise trouble.pop(0)
            return await super()._execute_db_operation(args, ctx, timeout)

    with executor_for(clock=clock, timeout=None) as engine:
        executor = Counting(spec, executor=engine)
        args = {
            "operation": "put_item",
            "order_id": "o-1",
            "item_id": "i-1",
            "item": {"line": "o-1/i-1", "amount": 2},
        }
        work = asyncio.ensure_future(executor.execute(args, ToolContext(user_id="u")))
        while not (due := [a[0] for a in clock._alarms if not a[2].silent and a[0] - clock.monotonic() < 1]):
            await asyncio.sleep(0.005)
        assert min(due) - clock.monotonic() == pytest.approx(0.5)
        clock.advance(0.5)
        first = await work
        again = await executor.execute(args, ToolContext(user_id="u"))

    assert first.success, first.error
    assert (first.attempts, again.source, puts) == (2, "replay", ["o-1", "o-1"])
    assert items.scan(TableName="c-usage")["Count"] == 1


# what the document says one may add


async def test_strategies_of_ones_own_are_used(engine: ToolExecutor) -> None:
    asked: list[str] = []

    class MyKeyGenerator:
        def generate_key(self, args: Any, ctx: Any, spec: Any) -> str:
            asked.append(f"key of {spec.tool_name} for {ctx.user_id}")
            return "my-custom-key"

    class MyCircuitBreaker:
        async def execute_with_breaker(self, func: Any, tool_name: str) -> Any:
            asked.append(f"breaker of {tool_name}")
            return await func()

    class MyRetryPolicy:
        async def execute_with_retry(self, func: Any, tool_name: str) -> Any:
            asked.append(f"retry of {tool_name}")
            try:
                return await func()
            except ConnectionError:
                return await func()

    runs: list[int] = []

    async def body(args: dict[str, Any]) -> dict[str, Any]:
        runs.append(1)
        if len(runs) == 1:
            raise ConnectionError("once")
        return {"runs": len(runs)}

    spec = FunctionToolSpec(id="mine", tool_name="mine", description="Mine", parameters=[])
    spec.idempotency_key_generator = MyKeyGenerator()
    spec.circuit_breaker_policy = MyCircuitBreaker()
    spec.retry_policy = MyRetryPolicy()
    executor = FunctionToolExecutor(spec, body, executor=engine)

    first = await executor.execute({}, ToolContext(user_id="ann"))
    again = await executor.execute({}, ToolContext(user_id="ann"))

    assert (first.content, again.content, again.source) == ({"runs": 2}, {"runs": 2}, "replay")
    assert asked == ["key of mine for ann", "breaker of mine", "retry of mine", "key of mine for ann"]


async def test_a_new_kind_of_database_is_one_method_behind_the_whole_pipeline(engine: ToolExecutor) -> None:
    """As the document's MongoDBExecutor, which runs against a server in tests/engine/test_db_executors.py."""
    inserted: list[Any] = []

    class NotesExecutor(BaseDbExecutor):
        async def _execute_db_operation(self, args: dict[str, Any], ctx: Any, timeout: float | None) -> Any:
            operation = args.get("operation", "insert")
            if operation == "insert":
                inserted.append((self.spec.database, args["collection"], args["document"]))
            return {"operation": operation, "inserted_id": str(len(inserted)), "status": "success"}

    spec = DbToolSpec(
        id="notes-v1",
        tool_name="notes",
        description="Notes",
        driver="notes",
        database="diary",
        parameters=[
            StringParameter(name="operation"),
            StringParameter(name="collection", required=True),
            ObjectParameter(name="document", required=True),
        ],
    )
    spec.idempotency.enabled = True
    executor = NotesExecutor(spec, executor=engine)

    for _ in range(2):
        result = await executor.execute({"collection": "days", "document": {"text": "sun"}}, ToolContext())
        assert result.content == {"operation": "insert", "inserted_id": "1", "status": "success"}

    assert inserted == [("diary", "days", {"text": "sun"})]
