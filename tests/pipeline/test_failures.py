"""Failures: what an exception tells about a dependency, whichever library raised it."""

import asyncio
import errno
import socket
import sqlite3
import ssl

import aiohttp
import botocore.exceptions
import httpx
import psycopg
import pytest
import redis.exceptions
from hypothesis import given, strategies as st

from toolpost import (
    CallCancelledError,
    ConfigurationError,
    EngineError,
    InputValidationError,
    OperationError,
    OutputValidationError,
    OverloadedError,
    PermissionDeniedError,
    RateLimitError,
    RemoteToolError,
    StoreUnavailableError,
    ToolError,
    ToolTimeoutError,
)
from toolpost.calls.errors import CallInProgressError, CircuitOpenError, Failed
from toolpost.calls.policies import FAILURE_KINDS
from toolpost.pipeline.failures import kind_of, retry_after_s

REQUEST = httpx.Request("GET", "https://example.com")


def status(code: int, **headers: str) -> httpx.HTTPStatusError:
    return httpx.HTTPStatusError("x", request=REQUEST, response=httpx.Response(code, headers=headers, request=REQUEST))


def aws(code: str, http: int) -> botocore.exceptions.ClientError:
    answer = {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": {"HTTPStatusCode": http}}
    return botocore.exceptions.ClientError(answer, "GetItem")


def wrapped(cause: BaseException) -> OperationError:
    error = OperationError("Error executing x")
    error.__cause__ = cause
    return error


class NotThere(ToolError):
    status = 404


class Throttled(Failed):
    status = 429


class Odd(Exception):
    @property
    def response(self):
        raise RuntimeError("no response yet")


def remote(kind):
    error = RemoteToolError("down")
    error.kind = kind
    return error


BUILT_IN = [
    (TimeoutError(), "timeout"),
    (ConnectionResetError(), "network"),
    (BrokenPipeError(), "network"),
    (socket.gaierror(8, "no such host"), "network"),
    (ssl.SSLCertVerificationError("expired"), "tool_error"),
    (ssl.SSLError("bad record"), "network"),
    (OSError("Multiple exceptions: refused, refused"), "network"),
    (OSError(errno.EHOSTUNREACH, "no route"), "network"),
    (OSError(errno.EMFILE, "too many files"), "transient"),
    (OSError(errno.ENOSPC, "disk full"), "tool_error"),
    (FileNotFoundError("a.txt"), "tool_error"),
    (PermissionError("a.txt"), "tool_error"),
    (ValueError("x"), "tool_error"),
    (ZeroDivisionError(), "tool_error"),
    (asyncio.CancelledError(), None),
    (KeyboardInterrupt(), None),
    (ExceptionGroup("g", [TimeoutError(), ConnectionError()]), "timeout"),
    (ExceptionGroup("g", [TimeoutError(), ValueError()]), "tool_error"),
]
OURS = [
    (ToolTimeoutError("late"), "timeout"),
    (OverloadedError("full"), "unavailable"),
    (CircuitOpenError("open"), None),
    (RateLimitError("slow"), "rate_limit"),
    (CallInProgressError("busy"), "transient"),
    (InputValidationError("bad"), None),
    (PermissionDeniedError("no"), None),
    (CallCancelledError("gone"), None),
    (StoreUnavailableError("down"), "unavailable"),
    (EngineError("ours"), None),
    (ConfigurationError("ours"), None),
    (OutputValidationError("odd"), "tool_error"),
    (RemoteToolError("down"), "unavailable"),
    (remote("network"), "network"),
    (remote("nonsense"), "unavailable"),
    (ToolError("x", retryable=True), "transient"),
    (ToolError("x", code="TIMEOUT"), "timeout"),
    (ToolError("x", code="UNAVAILABLE"), "unavailable"),
    (ToolError("x", code="RATE_LIMITED", retryable=True), "rate_limit"),
    (ToolError("x"), "tool_error"),
    (ToolError("x", code="CARD_DECLINED"), "tool_error"),
    (ToolError("x", code="NOT_FOUND"), None),
    (ToolError("x", code="VALIDATION_ERROR"), None),
    (ToolError("x", code="CONFLICT", retryable=True), "transient"),
    (NotThere("x"), None),
    (Throttled("x"), "rate_limit"),
    (wrapped(ConnectionError()), "network"),
    (wrapped(wrapped(TimeoutError())), "timeout"),
    (OperationError("no cause"), "tool_error"),
]
LIBRARIES = [
    (httpx.ConnectTimeout("x"), "timeout"),
    (httpx.PoolTimeout("x"), "timeout"),
    (httpx.ConnectError("x"), "network"),
    (httpx.RemoteProtocolError("x"), "network"),
    (httpx.UnsupportedProtocol("x"), "tool_error"),
    (status(404), None),
    (status(408), "timeout"),
    (status(429), "rate_limit"),
    (status(500), "transient"),
    (status(501), "tool_error"),
    (status(503), "unavailable"),
    (status(504), "timeout"),
    (aiohttp.ServerTimeoutError(), "timeout"),
    (aiohttp.ServerDisconnectedError(), "network"),
    (aiohttp.ClientResponseError(None, (), status=429), "rate_limit"),
    (redis.exceptions.ConnectionError(), "network"),
    (redis.exceptions.TimeoutError(), "timeout"),
    (redis.exceptions.BusyLoadingError(), "unavailable"),
    (redis.exceptions.AuthenticationError(), "tool_error"),
    (redis.exceptions.ResponseError(), "tool_error"),
    (psycopg.OperationalError("connection refused"), "network"),
    (psycopg.errors.AdminShutdown(), "unavailable"),
    (psycopg.errors.SerializationFailure(), "transient"),
    (psycopg.errors.DeadlockDetected(), "transient"),
    (psycopg.errors.TooManyConnections(), "unavailable"),
    (psycopg.errors.QueryCanceled(), "timeout"),
    (psycopg.errors.UniqueViolation(), None),
    (psycopg.errors.InvalidTextRepresentation(), None),
    (psycopg.errors.SyntaxError(), "tool_error"),
    (sqlite3.IntegrityError("UNIQUE"), None),
    (sqlite3.OperationalError("no such table"), "tool_error"),
    (aws("ProvisionedThroughputExceededException", 400), "rate_limit"),
    (aws("ConditionalCheckFailedException", 400), None),
    (aws("InternalServerError", 500), "transient"),
    (botocore.exceptions.ConnectTimeoutError(endpoint_url="x"), "timeout"),
    (botocore.exceptions.EndpointConnectionError(endpoint_url="x"), "network"),
    (Odd(), "tool_error"),
]


@pytest.mark.parametrize(
    ("error", "kind"),
    [*BUILT_IN, *OURS, *LIBRARIES],
    ids=lambda v: repr(v)[:60] if isinstance(v, BaseException) else "",
)
def test_each_exception_has_its_kind(error, kind):
    assert kind_of(error) == kind


def test_requests_exceptions_have_their_kinds():
    requests = pytest.importorskip("requests")

    assert kind_of(requests.ConnectionError()) == "network"
    assert kind_of(requests.ReadTimeout()) == "timeout"
    assert kind_of(requests.exceptions.InvalidURL()) == "tool_error"


def test_pymongos_exceptions_have_their_kinds():
    errors = pytest.importorskip("pymongo.errors")

    assert kind_of(errors.ServerSelectionTimeoutError()) == "unavailable"
    assert kind_of(errors.AutoReconnect()) == "network"
    assert kind_of(errors.DuplicateKeyError("x")) is None


def test_a_locked_sqlite_database_passes(tmp_path):
    one, other = (sqlite3.connect(tmp_path / "x.db", timeout=0, isolation_level=None) for _ in range(2))
    one.execute("create table t (a)")
    one.execute("begin exclusive")
    with pytest.raises(sqlite3.OperationalError) as caught:
        other.execute("insert into t values (1)")
    one.close()
    other.close()

    assert kind_of(caught.value) == "transient"


async def test_a_refused_connection_of_asyncio_is_of_the_network():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        with pytest.raises(ConnectionRefusedError) as caught:
            await asyncio.open_connection("127.0.0.1", taken.getsockname()[1])

    assert kind_of(caught.value) == "network"


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (RateLimitError("x", retry_after_s=2.5), 2.5),
        (wrapped(RateLimitError("x", retry_after_s=2.5)), 2.5),
        (status(503, **{"Retry-After": "7"}), 7.0),
        (status(503, **{"Retry-After": "Sun, 15 Jun 2025 15:06:50 GMT"}), 10.0),
        (status(503, **{"Retry-After": "Sun, 15 Jun 2025 15:06:00 GMT"}), 0.0),
        (status(503, **{"Retry-After": "soon"}), None),
        (status(503), None),
        (ConnectionError(), None),
        (RateLimitError("x"), None),
        (RateLimitError("x", retry_after_s=float("nan")), None),
        (RateLimitError("x", retry_after_s=-1), 0.0),
        (Odd(), None),
    ],
)
def test_what_the_other_side_asks_to_wait_is_read_wherever_it_stands(error, seconds):
    assert retry_after_s(error, 1_750_000_000.0) == seconds


@given(st.text(max_size=20), st.integers(0, 700), st.booleans())
def test_every_error_has_a_kind_or_none(code, http, retryable):
    class Any(ToolError):
        status = http

    assert kind_of(Any("x", retryable=retryable, code=code)) in (*FAILURE_KINDS, None)
