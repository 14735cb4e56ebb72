"""Failures: what kind of trouble an exception tells of, for those who retry and for those who stop calling."""

from __future__ import annotations

import email.utils
import errno
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

from toolpost.calls.errors import (
    CallInProgressError,
    EngineError,
    Failed,
    OperationError,
    OverloadedError,
    RateLimitError,
    Rejected,
    RemoteToolError,
    StoreUnavailableError,
    ToolError,
    ToolExecutionError,
    ToolTimeoutError,
)
from toolpost.calls.policies import FAILURE_KINDS, FailureKind

T = TypeVar("T")
MAX_CAUSES: Final = 16
"""How many exceptions behind an exception are looked at."""


def kind_of(error: BaseException) -> FailureKind | None:
    """The kind of failure, None for what says nothing about a dependency: refusals, cancellation, the caller's own
    mistakes (4xx, a broken constraint).

    Exceptions of clients (httpx, requests, aiohttp, psycopg, redis, botocore, pymongo ...) are known by module and
    name, so that none of them need be installed; HTTP statuses and SQL states by the attributes that hold them.
    What is not known is tool_error.
    """
    error = root_of(error)
    if not isinstance(error, Exception):
        return None
    if isinstance(error, ToolExecutionError):
        return _of_ours(error)
    if isinstance(error, ExceptionGroup):
        return _of_several(error)
    status = _http_status(error)
    return _of_theirs(error) if status is None else _by_status(status)


def root_of(error: BaseException) -> BaseException:
    """What a body raised, behind the OperationErrors that tell of it."""
    for _ in range(MAX_CAUSES):
        if type(error) is not OperationError or error.__cause__ is None:
            break
        error = error.__cause__
    return error


def retry_after_s(error: BaseException, now: float) -> float | None:
    """Seconds after which the other side wants to be asked again, from retry_after_s, retry_after or the header.

    now is wall time: the header may hold a date (RFC 9110, section 10.2.3).
    """
    error = root_of(error)
    for name in ("retry_after_s", "retry_after"):
        seconds = _seconds(_attribute(error, name), now)
        if seconds is not None:
            return seconds
    for holder in (_attribute(error, "response"), error):
        headers = _attribute(holder, "headers")
        if headers is None or not hasattr(headers, "get"):
            continue
        try:
            seconds = _seconds(headers.get("Retry-After") or headers.get("retry-after"), now)
        except Exception:
            continue  # whatever that is, it is no mapping of headers
        if seconds is not None:
            return seconds
    return None


def _attribute(owner: Any, name: str) -> Any:
    """An attribute, None where there is none or it cannot be read: exceptions may have properties that raise."""
    try:
        return getattr(owner, name, None)
    except Exception:
        return None


def _seconds(value: Any, now: float) -> float | None:
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            try:
                value = email.utils.parsedate_to_datetime(value).timestamp() - now
            except (ValueError, TypeError, IndexError, OverflowError):
                return None
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return max(0.0, float(value))


# -- ours --------------------------------------------------------------------------------------------------------------

_CALLERS_OWN: Final = frozenset(
    "bad_request conflict denied duplicate forbidden gone insufficient_permissions invalid invalid_argument "
    "invalid_arguments invalid_input invalid_operation math_error not_allowed not_found permission_denied "
    "precondition_failed rejected screened tool_not_found unauthenticated unauthorized unauthorized_role "
    "unknown_tool unprocessable validation validation_error".split()
)
_CODES: Final[dict[str, FailureKind]] = {
    "timeout": "timeout",
    "timed_out": "timeout",
    "deadline_exceeded": "timeout",
    "unavailable": "unavailable",
    "service_unavailable": "unavailable",
    "overloaded": "unavailable",
    "upstream_failed": "unavailable",
    "network": "network",
    "network_error": "network",
    "connection_error": "network",
    "rate_limit": "rate_limit",
    "rate_limited": "rate_limit",
    "too_many_requests": "rate_limit",
    "transient": "transient",
}


def _of_ours(error: ToolExecutionError) -> FailureKind | None:
    if isinstance(error, ToolTimeoutError):
        return "timeout"
    if isinstance(error, Rejected):
        return _of_refusal(error)
    if isinstance(error, EngineError):
        return "unavailable" if isinstance(error, StoreUnavailableError) else None
    if isinstance(error, RemoteToolError):
        kind = _attribute(error, "kind")
        if kind == "caller":  # a 4xx, a broken constraint: asking again changes nothing
            return None
        return kind if kind in FAILURE_KINDS else "unavailable"
    code = str(error.code).lower()
    if code in _CODES:
        return _CODES[code]
    if isinstance(error, ToolError) and error.retryable:
        return "transient"
    if code in _CALLERS_OWN:
        return None
    if 400 <= error.status < 500:
        return _by_status(error.status)
    if isinstance(error, Failed) and error.retryable:
        return "transient"
    return "tool_error"


def _of_refusal(error: Rejected) -> FailureKind | None:
    """Of a tool that the body called: some may be granted later. An open circuit is open to be left alone."""
    if isinstance(error, RateLimitError):
        return "rate_limit"
    if isinstance(error, OverloadedError):
        return "unavailable"
    return "transient" if isinstance(error, CallInProgressError) else None


def _of_several(group: ExceptionGroup[Any]) -> FailureKind | None:
    """A group is as hopeful as its least hopeful member."""
    kinds = [kind_of(error) for error in group.exceptions[:MAX_CAUSES]]
    if "tool_error" in kinds:
        return "tool_error"
    return None if None in kinds else kinds[0]


# -- HTTP --------------------------------------------------------------------------------------------------------------

_STATUSES: Final[dict[int, FailureKind]] = {
    408: "timeout",
    425: "transient",
    429: "rate_limit",
    500: "transient",
    502: "unavailable",
    503: "unavailable",
    504: "timeout",
}


def _by_status(status: int) -> FailureKind | None:
    if status in _STATUSES:
        return _STATUSES[status]
    return None if 400 <= status < 500 else "tool_error"


def _http_status(error: BaseException) -> int | None:
    """The HTTP status that an exception of a client carries, wherever it keeps it."""
    for holder in (error, _attribute(error, "response")):
        for name in ("status_code", "status", "code"):
            status = _attribute(holder, name)
            if isinstance(status, int) and not isinstance(status, bool) and 400 <= status < 600:
                return status
    return None


# -- others' exceptions ------------------------------------------------------------------------------------------------

_BUILTIN: Final[tuple[tuple[type[BaseException], FailureKind], ...]] = (
    (TimeoutError, "timeout"),
    (ConnectionError, "network"),
    (BlockingIOError, "transient"),
    (InterruptedError, "transient"),
    (FileNotFoundError, "tool_error"),
    (FileExistsError, "tool_error"),
    (PermissionError, "tool_error"),
    (IsADirectoryError, "tool_error"),
    (NotADirectoryError, "tool_error"),
    (ChildProcessError, "tool_error"),
    (ProcessLookupError, "tool_error"),
)
_NETWORK_ERRNOS: Final = frozenset(
    getattr(errno, name)
    for name in "ENETDOWN ENETUNREACH ENETRESET EHOSTDOWN EHOSTUNREACH ENOTCONN ECONNRESET ECONNREFUSED".split()
    if hasattr(errno, name)
)
_TRANSIENT_ERRNOS: Final = frozenset({errno.EAGAIN, errno.EBUSY, errno.EMFILE, errno.ENFILE, errno.ENOBUFS})

_NAMED: Final[dict[str, dict[str, FailureKind | None]]] = {
    "httpx": {"TimeoutException": "timeout", "TransportError": "network", "UnsupportedProtocol": "tool_error"},
    "httpcore": {"TimeoutException": "timeout", "NetworkError": "network", "ProtocolError": "network"},
    "requests": {
        "Timeout": "timeout",
        "ConnectionError": "network",
        "SSLError": "tool_error",
        "ChunkedEncodingError": "network",
        "RequestException": "tool_error",
    },
    "urllib3": {
        "TimeoutError": "timeout",
        "ProtocolError": "network",
        "NewConnectionError": "network",
        "MaxRetryError": "network",
    },
    "aiohttp": {
        "ServerTimeoutError": "timeout",
        "ClientConnectionError": "network",
        "ClientPayloadError": "network",
        "ClientConnectorCertificateError": "tool_error",
        "InvalidURL": "tool_error",
    },
    "http": {"IncompleteRead": "network", "BadStatusLine": "network"},
    "socket": {"gaierror": "network", "herror": "network"},
    "ssl": {"SSLCertVerificationError": "tool_error", "SSLError": "network"},
    "redis": {
        "BusyLoadingError": "unavailable",
        "AuthenticationError": "tool_error",
        "TimeoutError": "timeout",
        "ConnectionError": "network",
        "ReadOnlyError": "unavailable",
        "ClusterDownError": "unavailable",
        "TryAgainError": "transient",
    },
    "psycopg": {"IntegrityError": None, "DataError": None, "OperationalError": "network", "InterfaceError": "network"},
    "psycopg2": {"IntegrityError": None, "DataError": None, "OperationalError": "network", "InterfaceError": "network"},
    "psycopg_pool": {"PoolTimeout": "timeout", "TooManyRequests": "unavailable", "PoolClosed": "unavailable"},
    "asyncpg": {"InterfaceError": "network", "IntegrityConstraintViolationError": None, "DataError": None},
    "sqlite3": {"IntegrityError": None},
    "sqlalchemy": {"TimeoutError": "timeout", "IntegrityError": None, "OperationalError": "unavailable"},
    "botocore": {
        "ConnectTimeoutError": "timeout",
        "ReadTimeoutError": "timeout",
        "HTTPClientError": "network",
        "ConnectionError": "network",
    },
    "pymongo": {
        "NetworkTimeout": "timeout",
        "ExecutionTimeout": "timeout",
        "ServerSelectionTimeoutError": "unavailable",
        "NotPrimaryError": "unavailable",
        "AutoReconnect": "network",
        "DuplicateKeyError": None,
    },
}
"""Module -> class or base class -> kind; the nearest in the class's own order of bases decides."""

_SQL_STATES: Final[dict[str, FailureKind | None]] = {
    "57014": "timeout",
    "40001": "transient",
    "40P01": "transient",
    "55P03": "transient",
    "57P01": "unavailable",
    "57P02": "unavailable",
    "57P03": "unavailable",
    "08": "network",
    "53": "unavailable",
    "22": None,
    "23": None,
}
"""PostgreSQL's error codes (appendix A), whole or by their class. Broken constraints and bad data are the caller's."""

_SQLITE_BUSY: Final = ("SQLITE_BUSY", "SQLITE_LOCKED")
_MYSQL: Final[dict[int, FailureKind]] = {
    1040: "unavailable",
    1053: "unavailable",
    1205: "transient",
    1213: "transient",
    2002: "network",
    2003: "network",
    2006: "network",
    2013: "network",
}

_THROTTLED: Final = frozenset(
    "Throttling ThrottlingException ThrottledException RequestThrottled RequestThrottledException SlowDown "
    "TooManyRequestsException ProvisionedThroughputExceededException RequestLimitExceeded "
    "BandwidthLimitExceeded LimitExceededException PriorRequestNotComplete EC2ThrottledException".split()
)
"""AWS says these with status 400 (SDK reference, standard retry mode)."""


def _of_theirs(error: Exception) -> FailureKind | None:
    state = _attribute(error, "sqlstate") or _attribute(error, "pgcode")
    if isinstance(state, str) and len(state) == 5:
        for known in (state, state[:2]):
            if known in _SQL_STATES:
                return _SQL_STATES[known]
        return "tool_error"
    module = type(error).__module__.partition(".")[0]
    if module == "botocore" and (code := _aws_code(error)) is not None:
        return "rate_limit" if code in _THROTTLED else _by_status(_aws_status(error))
    if module in ("pymysql", "aiomysql", "MySQLdb", "asyncmy") and error.args and error.args[0] in _MYSQL:
        return _MYSQL[error.args[0]]
    if module == "sqlite3" and str(_attribute(error, "sqlite_errorname")).startswith(_SQLITE_BUSY):
        return "transient"
    if module == "urllib" and isinstance(reason := _attribute(error, "reason"), Exception):
        return kind_of(reason)
    for name, known_names in _families(error):
        if name in known_names:
            return known_names[name]
    for kind, meaning in _BUILTIN:
        if isinstance(error, kind):
            return meaning
    return _of_os(error) if isinstance(error, OSError) else "tool_error"


def _families(error: Exception) -> Iterator[tuple[str, Mapping[str, FailureKind | None]]]:
    """Each base class's name, nearest first, with the names known of the module it comes from."""
    for base in type(error).__mro__:
        known = _NAMED.get(base.__module__.partition(".")[0])
        if known is not None:
            yield base.__name__, known


def _of_os(error: OSError) -> FailureKind:
    """An OSError that is of no more telling class. asyncio raises one without a number when no address answers."""
    if error.errno is None or error.errno in _NETWORK_ERRNOS:
        return "network"
    return "transient" if error.errno in _TRANSIENT_ERRNOS else "tool_error"


def _aws_code(error: Exception) -> str | None:
    return _within(error, "Error", "Code", str)


def _aws_status(error: Exception) -> int:
    return _within(error, "ResponseMetadata", "HTTPStatusCode", int) or 0


def _within(error: Exception, part: str, name: str, kind: type[T]) -> T | None:
    """A value of an AWS response, which is a mapping of mappings."""
    response = _attribute(error, "response")
    found = response.get(part) if isinstance(response, Mapping) else None
    value = found.get(name) if isinstance(found, Mapping) else None
    return value if isinstance(value, kind) else None
