"""The DynamoDB strategy against moto's server; and against a stand-in that says what moto cannot be made to say."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from aiobotocore.session import get_session
from hypothesis import given, settings, strategies as st

from tests.services import Dynamo
from toolpost import DynamoDbToolSpec, RemoteToolError, StringParameter, ToolExecutor, create_tool_call
from toolpost.authoring.parameters import BooleanParameter, IntegerParameter, ObjectParameter
from toolpost.runners.dynamodb import from_attribute, to_attribute
from toolpost.testing import executor_for

OBJECTS = ("item", "key", "start_key", "names", "values")
TEXTS = ("condition", "filter", "projection", "update", "key_condition", "index")
PARAMETERS = [
    StringParameter(name="operation"),
    *(ObjectParameter(name=name) for name in OBJECTS),
    *(StringParameter(name=name) for name in TEXTS),
    IntegerParameter(name="limit"),
    BooleanParameter(name="consistent"),
    BooleanParameter(name="forward"),
]


def spec_of(url: str, table: str, **changes: Any) -> DynamoDbToolSpec:
    values: dict[str, Any] = {
        "id": "orders",
        "tool_name": "orders",
        "description": "",
        "parameters": PARAMETERS,
        "table_name": table,
        "region": "us-east-1",
        "endpoint_url": url,
        "aws_access_key_id": "toolpost",
        "aws_secret_access_key": "hunter2",
    }
    return DynamoDbToolSpec(**{**values, **changes})


@pytest.fixture
async def spec(dynamodb: Dynamo) -> DynamoDbToolSpec:
    """The spec of a table of this test's own, keyed by customer and number."""
    name = f"orders-{secrets.token_hex(6)}"
    async with get_session().create_client(
        "dynamodb",
        region_name=dynamodb.region,
        endpoint_url=dynamodb.url,
        aws_access_key_id=dynamodb.access_key,
        aws_secret_access_key=dynamodb.secret_key,
    ) as client:
        await client.create_table(
            TableName=name,
            KeySchema=[{"AttributeName": "c", "KeyType": "HASH"}, {"AttributeName": "n", "KeyType": "RANGE"}],
            AttributeDefinitions=[
                {"AttributeName": "c", "AttributeType": "S"},
                {"AttributeName": "n", "AttributeType": "N"},
            ],
            BillingMode="PAY_PER_REQUEST",
        )
    return spec_of(dynamodb.url, name)


@pytest.fixture
def executor() -> Iterator[ToolExecutor]:
    with executor_for(enable_security_checks=False) as made:
        yield made


async def call(executor: ToolExecutor, spec: DynamoDbToolSpec, /, **args: Any) -> Any:
    if spec.tool_name not in executor.registry.list_tools():
        executor.registry.register_tool(spec.define())
    return await executor.call(spec.tool_name, **args)


async def refused(executor: ToolExecutor, spec: DynamoDbToolSpec, /, **args: Any) -> RemoteToolError:
    with pytest.raises(RemoteToolError) as caught:
        await call(executor, spec, **args)
    return caught.value


ITEM = {"c": "ann", "n": 1, "price": 2.5, "tags": ["a", None, True], "more": {"deep": [1, {"x": "é"}]}}


async def test_an_item_that_was_put_is_got_back_equal(executor: ToolExecutor, spec: DynamoDbToolSpec) -> None:
    put = await call(executor, spec, operation="put_item", item=ITEM)
    got = await call(executor, spec, operation="get_item", key={"c": "ann", "n": 1}, consistent=True)

    head = {"table": spec.table_name, "item": ITEM, "status": "success"}
    assert put == {"operation": "put_item", **head}
    assert got == {"operation": "get_item", "found": True, **head}


async def test_an_item_that_is_not_there_is_none(executor: ToolExecutor, spec: DynamoDbToolSpec) -> None:
    got = await call(executor, spec, operation="get_item", key={"c": "nobody", "n": 1})
    gone = await call(executor, spec, operation="delete_item", key={"c": "nobody", "n": 1})

    assert (got["item"], got["found"], gone["item"]) == (None, False, None)


async def test_a_query_gives_its_items_page_by_page(executor: ToolExecutor, spec: DynamoDbToolSpec) -> None:
    for n in range(5):
        await call(executor, spec, operation="put_item", item={"c": "ann", "n": n})
    await call(executor, spec, operation="put_item", item={"c": "bob", "n": 9})
    ask: dict[str, Any] = {
        "operation": "query",
        "key_condition": "#c = :c",
        "names": {"#c": "c"},
        "values": {":c": "ann"},
    }

    first = await call(executor, spec, **ask, limit=3, forward=False)
    rest = await call(executor, spec, **ask, start_key=first["last_key"], forward=False)

    assert ([item["n"] for item in first["items"]], first["count"]) == ([4, 3, 2], 3)
    assert [item["n"] for item in rest["items"]] == [1, 0]
    assert "last_key" not in rest
    assert rest["status"] == "success"


async def test_a_scan_filters(executor: ToolExecutor, spec: DynamoDbToolSpec) -> None:
    for n in range(4):
        await call(executor, spec, operation="put_item", item={"c": "ann", "n": n})

    result = await call(executor, spec, operation="scan", filter="n > :n", values={":n": 1})

    assert sorted(item["n"] for item in result["items"]) == [2, 3]
    assert result["count"] == 2


async def test_update_and_delete_give_the_item(executor: ToolExecutor, spec: DynamoDbToolSpec) -> None:
    await call(executor, spec, operation="put_item", item=ITEM)
    key = {"c": "ann", "n": 1}

    updated = await call(executor, spec, operation="update_item", key=key, update="SET price = :p", values={":p": 3})
    deleted = await call(executor, spec, operation="delete_item", key=key)

    assert updated["item"] == ITEM | {"price": 3}
    assert deleted["item"] == ITEM | {"price": 3}
    assert (await call(executor, spec, operation="scan"))["items"] == []


async def test_a_condition_that_does_not_hold_is_the_callers_own(
    executor: ToolExecutor, spec: DynamoDbToolSpec
) -> None:
    await call(executor, spec, operation="put_item", item=ITEM)

    error = await refused(executor, spec, operation="put_item", item=ITEM, condition="attribute_not_exists(c)")

    assert (error.kind, error.retryable, error.upstream_status) == ("caller", False, 400)
    assert error.details["aws_code"] == "ConditionalCheckFailedException"


async def test_a_table_that_is_not_there_is_the_callers_own(executor: ToolExecutor, dynamodb: Dynamo) -> None:
    error = await refused(executor, spec_of(dynamodb.url, "no-such-table"), operation="scan")

    assert (error.kind, error.details["aws_code"]) == ("caller", "ResourceNotFoundException")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"operation": "drop_table"}, "'operation' must be one of put_item, get_item"),
        ({"operation": "put_item"}, "'item' is needed for put_item"),
        ({"operation": "scan", "item": {}}, "'item' is nothing that scan takes"),
        ({"operation": "put_item", "item": {"n": 10**40}}, "'item' holds what DynamoDB cannot"),
        ({}, "'operation' must be one of"),
    ],
)
async def test_what_is_no_operation_is_refused_before_anything_is_sent(
    executor: ToolExecutor, args: dict[str, Any], said: str
) -> None:
    spec = spec_of("http://127.0.0.1:1", "t")
    executor.registry.register_tool(spec.define())

    result = await executor.execute_tool_call(create_tool_call("orders", args))

    assert result.failure is not None
    assert (result.status_code, result.failure.outcome) == (400, "not_run")
    assert said in (result.error or "")


async def test_a_server_that_is_not_there_did_not_run_it(executor: ToolExecutor) -> None:
    error = await refused(executor, spec_of("http://127.0.0.1:1", "t"), operation="scan")

    assert (error.kind, error.outcome, error.retryable) == ("network", "not_run", True)


class StandIn:
    """Answers every request with one status and AWS code (a mock: moto neither throttles nor fails on demand)."""

    def __init__(self) -> None:
        self.asked = 0
        self.status, self.code, self.cut = 400, "", False
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                stand_in.asked += 1
                self.rfile.read(int(self.headers["Content-Length"]))
                if stand_in.cut:
                    return
                body = json.dumps({"__type": f"com.amazonaws.dynamodb#{stand_in.code}", "message": "said"}).encode()
                self.send_response(stand_in.status)
                self.send_header("Content-Type", "application/x-amz-json-1.0")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    made = StandIn()
    yield made
    made.server.shutdown()
    made.server.server_close()
    made.thread.join()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "ProvisionedThroughputExceededException", "rate_limit"),
        (400, "ThrottlingException", "rate_limit"),
        (400, "RequestLimitExceeded", "rate_limit"),
        (500, "InternalServerError", "transient"),
        (503, "ServiceUnavailable", "unavailable"),
        (400, "AccessDeniedException", "caller"),
    ],
)
async def test_what_aws_says_has_a_kind_and_is_not_retried_by_the_client(
    executor: ToolExecutor, stand_in: StandIn, status: int, code: str, kind: str
) -> None:
    stand_in.status, stand_in.code = status, code

    error = await refused(executor, spec_of(stand_in.url, "t"), operation="scan")

    assert (error.kind, error.retryable, error.upstream_status) == (kind, kind != "caller", status)
    assert stand_in.asked == 1


async def test_a_connection_that_breaks_leaves_the_outcome_open(executor: ToolExecutor, stand_in: StandIn) -> None:
    stand_in.cut = True

    error = await refused(executor, spec_of(stand_in.url, "t"), operation="put_item", item={"c": "a"})

    assert (error.kind, error.outcome, stand_in.asked) == ("network", "unknown", 1)


def test_each_loop_has_its_own_client_and_closes_it(dynamodb: Dynamo, caplog: pytest.LogCaptureFixture) -> None:
    with executor_for() as executor:
        for _ in range(2):
            error = asyncio.run(refused(executor, spec_of(dynamodb.url, "no-such-table"), operation="scan"))
            assert error.kind == "caller"
    assert "async" not in caplog.text


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.text()
    | st.integers(-(10**37), 10**37)
    | st.floats(allow_nan=False, allow_infinity=False, min_value=-1e100, max_value=1e100).filter(
        lambda f: f == 0 or abs(f) > 1e-100
    ),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=50)
@given(PLAIN)
def test_any_plain_value_comes_back_equal(value: Any) -> None:
    assert from_attribute(to_attribute(value)) == value


def test_sets_bytes_and_decimals_have_a_form() -> None:
    assert to_attribute({"a"}) == {"SS": ["a"]}
    assert from_attribute(to_attribute({3, 1, 2})) == [1, 2, 3]
    assert from_attribute(to_attribute(b"\x00\xff")) == {"base64": "AP8="}
    assert from_attribute(to_attribute(Decimal("1.50"))) == 1.5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**39, object(), set(), {1, "a"}, 1e200])
def test_what_has_no_form_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"has no form|is no number|at most 38 digits"):
        to_attribute(value)
