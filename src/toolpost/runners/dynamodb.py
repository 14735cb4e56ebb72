"""DynamoDB: items of one table as plain Python values, through aiobotocore; retries are the engine's."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from typing import Any, Final

from aiobotocore.config import AioConfig  # type: ignore[import-untyped]
from aiobotocore.session import get_session  # type: ignore[import-untyped]
from botocore.exceptions import (  # type: ignore[import-untyped]
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ReadTimeoutError,
)

from toolpost.calls.errors import ConfigurationError, RemoteToolError, ToolTimeoutError
from toolpost.runners.clients import PerLoop
from toolpost.runners.db import argument_error, setting
from toolpost.runners.threads import Threads

CONNECT_S: Final = 10
READ_S: Final = 60
THROTTLED: Final = frozenset(
    "LimitExceededException ProvisionedThroughputExceededException RequestLimitExceeded ThrottlingException "
    "Throttling TooManyRequestsException".split()
)
_OPTIONS: Final = {
    "condition": "ConditionExpression",
    "filter": "FilterExpression",
    "projection": "ProjectionExpression",
    "update": "UpdateExpression",
    "key_condition": "KeyConditionExpression",
    "names": "ExpressionAttributeNames",
    "index": "IndexName",
    "limit": "Limit",
    "consistent": "ConsistentRead",
    "forward": "ScanIndexForward",
}
_EXPRESSIONS: Final = ("names", "values")
_TAKES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "put_item": ("item", ("condition", *_EXPRESSIONS)),
    "get_item": ("key", ("projection", "names", "consistent")),
    "update_item": ("key", ("update", "condition", *_EXPRESSIONS)),
    "delete_item": ("key", ("condition", *_EXPRESSIONS)),
    "query": (
        "key_condition",
        ("filter", "projection", "index", "limit", "consistent", "forward", "start_key", *_EXPRESSIONS),
    ),
    "scan": ("", ("filter", "projection", "index", "limit", "consistent", "start_key", *_EXPRESSIONS)),
}
"""Operation -> the argument it needs, and those it may have. Those of other operations are refused; what is no
argument of any is the author's own (a key field, say) and not sent."""
_KNOWN: Final = frozenset(name for needed, more in _TAKES.values() for name in (needed, *more))


class DynamoDbStrategy:
    """Runs {"operation", ...} on the spec's table_name: put_item, get_item, update_item, delete_item, query, scan.

    item and key are objects of plain values; expressions are DynamoDB's own, with names and values. query and scan
    give one page: last_key, if there is one, is the start_key of the next.
    """

    def __init__(self, threads: Threads) -> None:
        self._clients: dict[tuple[Any, ...], PerLoop[Any]] = {}

    async def execute_operation(self, args: dict[str, Any], spec: Any, timeout: float | None = None) -> Any:
        """{"operation", "table", "item" or "items" and "count", "status": "success"}."""
        operation = args.get("operation")
        request = _request(operation, args, spec)
        perform = getattr(await self._client(spec), str(operation))
        try:
            answer = await perform(**request)
        except (BotoCoreError, ClientError) as error:
            raise _told(error) from error
        return _result(str(operation), request["TableName"], args, answer)

    async def _client(self, spec: Any) -> Any:
        where = (
            setting(spec, "region", "us-west-2"),
            setting(spec, "endpoint_url"),
            setting(spec, "aws_access_key_id"),
            setting(spec, "aws_secret_access_key"),
        )
        clients = self._clients.get(where)
        if clients is None:
            clients = self._clients.setdefault(where, PerLoop(partial(_client_for, where)))
        try:
            return clients.here() or await clients.get()
        except (BotoCoreError, ValueError) as error:
            raise ConfigurationError(f"dynamodb: no client can be made of these settings ({error})"[:500]) from error

    def close(self) -> None:
        """Close all clients, each by its own loop."""
        for clients in self._clients.values():
            clients.close()


def _client_for(where: tuple[Any, ...]) -> Any:
    """A client that is yet to be entered."""
    region, endpoint, key, secret = where
    config = AioConfig(
        retries={"total_max_attempts": 1}, connect_timeout=CONNECT_S, read_timeout=READ_S, max_pool_connections=50
    )
    return get_session().create_client(
        "dynamodb",
        region_name=region,
        endpoint_url=endpoint,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=config,
    )


def _request(operation: Any, args: Mapping[str, Any], spec: Any) -> dict[str, Any]:
    """The parameters of one request. Raises InputValidationError before anything has happened."""
    table = setting(spec, "table_name")
    if table is None:
        raise ConfigurationError("dynamodb: the spec has no table_name; use DynamoDbToolSpec(table_name=...)")
    if operation not in _TAKES:
        raise argument_error("operation", f"must be one of {', '.join(_TAKES)}", operation)
    needed, allowed = _TAKES[operation]
    given = {name: value for name, value in args.items() if name in _KNOWN and value is not None}
    if needed and needed not in given:
        raise argument_error(needed, f"is needed for {operation}", None)
    request: dict[str, Any] = {"TableName": table}
    for name, value in given.items():
        if name != needed and name not in allowed:
            raise argument_error(name, f"is nothing that {operation} takes", value)
        if name in ("item", "key", "start_key", "values"):
            if not isinstance(value, Mapping):
                raise argument_error(name, "must be an object", value)
            wanted = {"item": "Item", "key": "Key", "start_key": "ExclusiveStartKey"}.get(name)
            request[wanted or "ExpressionAttributeValues"] = {k: _checked(name, v) for k, v in value.items()}
        else:
            request[_OPTIONS[name]] = value
    if operation == "update_item":
        request["ReturnValues"] = "ALL_NEW"
    elif operation == "delete_item":
        request["ReturnValues"] = "ALL_OLD"
    return request


def _checked(name: str, value: Any) -> dict[str, Any]:
    try:
        return to_attribute(value)
    except ValueError as error:
        raise argument_error(name, f"holds what DynamoDB cannot: {error}", value) from None


def _result(operation: str, table: str, args: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {"operation": operation, "table": table}
    if operation in ("query", "scan"):
        result["items"] = [_item(item) for item in answer.get("Items", ())]
        result["count"] = answer.get("Count", len(result["items"]))
        if answer.get("LastEvaluatedKey"):
            result["last_key"] = _item(answer["LastEvaluatedKey"])
    elif operation == "get_item":
        result["item"] = _item(answer["Item"]) if "Item" in answer else None
        result["found"] = "Item" in answer
    elif operation == "put_item":
        result["item"] = args["item"]
    else:
        result["item"] = _item(answer["Attributes"]) if answer.get("Attributes") else None
    return result | {"status": "success"}


def _item(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: from_attribute(value) for name, value in attributes.items()}


# -- values ------------------------------------------------------------------------------------------------------------


def to_attribute(value: Any) -> dict[str, Any]:
    """A plain value as an AttributeValue. Raises ValueError for what DynamoDB has no form for.

    A set of texts, numbers or bytes becomes a set; every other sequence a list.
    """
    if value is None:
        return {"NULL": True}
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, str):
        return {"S": value}
    if isinstance(value, (int, float, Decimal)):
        return {"N": _number(value)}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"B": bytes(value)}
    if isinstance(value, Mapping):
        return {"M": {str(name): to_attribute(item) for name, item in value.items()}}
    if isinstance(value, (list, tuple)):
        return {"L": [to_attribute(item) for item in value]}
    if isinstance(value, (set, frozenset)) and value:
        members = [to_attribute(item) for item in value]
        kinds = {kind for member in members for kind in member}
        if len(kinds) == 1 and (kind := kinds.pop()) in ("S", "N", "B"):
            return {f"{kind}S": [member[kind] for member in members]}
    raise ValueError(f"a value of type {type(value).__name__} has no form there")


def _number(value: int | float | Decimal) -> str:
    """A number with at most 38 digits (DynamoDB, supported data types)."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite() or len(number.as_tuple().digits) > 38 or abs(number.adjusted()) > 125:
        raise ValueError("a number there has at most 38 digits and lies below 1e126")
    return str(number)


def from_attribute(attribute: Mapping[str, Any]) -> Any:
    """An AttributeValue as a plain value: bytes as {"base64": ...}, sets as sorted lists."""
    (kind, value), *_ = attribute.items()
    return _FROM[kind](value)


def _plain_number(text: str) -> int | float:
    number = Decimal(text)
    whole = "." not in text and number == number.to_integral_value()
    return int(number) if whole and ("E" not in text.upper() or abs(number) < 2**63) else float(number)


def _plain_bytes(value: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(value).decode()}


_FROM: Final[Mapping[str, Callable[[Any], Any]]] = {
    "S": lambda value: value,
    "N": _plain_number,
    "B": _plain_bytes,
    "BOOL": bool,
    "NULL": lambda value: None,
    "M": lambda value: {name: from_attribute(item) for name, item in value.items()},
    "L": lambda value: [from_attribute(item) for item in value],
    "SS": sorted,
    "NS": lambda value: sorted(map(_plain_number, value)),
    "BS": lambda value: [_plain_bytes(item) for item in sorted(value)],
}


# -- errors ------------------------------------------------------------------------------------------------------------


def _told(error: BotoCoreError | ClientError) -> Exception:
    """The typed error of what AWS or the client says."""
    if isinstance(error, ClientError):
        return _of_answer(error)
    if isinstance(error, (EndpointConnectionError, ConnectTimeoutError)):
        return RemoteToolError("dynamodb could not be connected to", kind="network", outcome="not_run")
    if isinstance(error, ReadTimeoutError):
        late = ToolTimeoutError(f"dynamodb gave no answer within {READ_S} s")
        late.outcome = "unknown"
        return late
    if isinstance(error, ParamValidationError):
        return RemoteToolError(f"dynamodb: {error}"[:500], kind="caller", outcome="not_run")
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return ConfigurationError("dynamodb: no credentials; set them in the spec or in the AWS_* environment")
    if isinstance(error, HTTPClientError):
        return RemoteToolError("the connection to dynamodb failed", kind="network", outcome="unknown")
    return RemoteToolError(f"dynamodb: {type(error).__name__}", kind="tool_error")


def _of_answer(error: ClientError) -> RemoteToolError:
    said = error.response.get("Error", {})
    code, message = said.get("Code", ""), said.get("Message", "")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if code in THROTTLED:
        kind = "rate_limit"
    elif code == "TransactionInProgressException" or code == "InternalServerError":
        kind = "transient"
    elif status is None or status >= 500:
        kind = "unavailable"
    else:
        kind = "caller"
    return RemoteToolError(
        f"dynamodb: {code}: {message}"[:500], kind=kind, upstream_status=status, details={"aws_code": code}
    )
