"""Runs a DbBody: which strategy works on which database, and what SQL strategies have in common."""

from __future__ import annotations

import base64
import threading
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Final, Protocol

from toolpost.calls.definition import DbBody, ToolDefinition
from toolpost.calls.errors import (
    ConfigurationError,
    InputValidationError,
    NotSupportedError,
    RemoteToolError,
    ToolExecutionError,
)
from toolpost.calls.redaction import Revealed
from toolpost.runners.declared import DeclaredSpec, hide_declared
from toolpost.runners.function import Run, Runs, _left as left_s
from toolpost.runners.resources import Resources, forget, revealed
from toolpost.runners.threads import Threads

MAX_ROWS: Final = 10_000
"""How many rows one call may give: more do not fit a model, and should not fill the memory."""
MAX_BYTES: Final = 64 * 1024 * 1024
"""How many bytes of text and binary values one call may give, for the same reason."""


class IDbOperationStrategy(Protocol):
    """Works on one kind of database.

    args are the call's arguments, spec the DbToolSpec with the settings, timeout the seconds left (None: no limit).
    A strategy that knows that nothing has happened raises an error whose outcome is "not_run".
    """

    async def execute_operation(self, args: dict[str, Any], spec: Any, timeout: float | None = None) -> Any: ...


_BUILT_IN: Final = {
    "sqlite": ("sqlite:SqliteStrategy", ""),
    "postgresql": ("postgresql:PostgreSqlStrategy", "postgres"),
    "dynamodb": ("dynamodb:DynamoDbStrategy", "dynamodb"),
}
_registered: dict[str, IDbOperationStrategy] = {}
_shared: dict[str, IDbOperationStrategy] = {}
_lock = threading.Lock()


class DbStrategyFactory:
    """The strategies by driver: sqlite, postgresql, dynamodb, and those that were registered. Safe from any thread."""

    @staticmethod
    def get_strategy(driver: str) -> IDbOperationStrategy:
        """The strategy of a driver, shared by whoever asks. Raises NotSupportedError for a driver that has none."""
        with _lock:
            strategy = _registered.get(driver) or _shared.get(driver)
            if strategy is None:
                strategy = _shared[driver] = _built_in(driver, Threads(4, name="toolpost-db"))
            return strategy

    @staticmethod
    def register_strategy(driver: str, strategy: IDbOperationStrategy) -> None:
        """Work on the databases of a driver with this strategy from now on, also where there was another."""
        if isinstance(strategy, type):
            raise ConfigurationError(f"register_strategy takes an object; write {strategy.__name__}()")
        if not callable(getattr(strategy, "execute_operation", None)):
            raise ConfigurationError(
                f"a strategy must have execute_operation(args, spec, timeout), got {type(strategy).__name__}"
            )
        with _lock:
            _registered[driver] = strategy

    @staticmethod
    def unregister_strategy(driver: str) -> None:
        """Forget what was registered; a built-in strategy is there again."""
        with _lock:
            if _registered.pop(driver, None) is None:
                raise ConfigurationError(f"no strategy is registered for driver {driver!r}")


def strategy_for(driver: str, resources: Resources) -> IDbOperationStrategy:
    """The strategy of a driver for one executor: the built-in ones use its threads and are closed with it."""
    registered = _registered.get(driver)
    if registered is not None:
        return registered
    return resources.clients.the(("db", driver), lambda: _built_in(driver, resources.threads))


def _built_in(driver: str, threads: Threads) -> IDbOperationStrategy:
    if driver not in _BUILT_IN:
        raise NotSupportedError(
            f"this version of toolpost has no strategy for driver {driver!r}; subclass BaseDbExecutor, or give one to "
            f"DbStrategyFactory.register_strategy({driver!r}, ...)"
        )
    place, extra = _BUILT_IN[driver]
    module, _, name = place.partition(":")
    try:
        strategy = getattr(import_module(f"toolpost.runners.{module}"), name)
    except ModuleNotFoundError as missing:
        raise ConfigurationError(
            f"driver {driver!r} needs the package {missing.name}; install toolpost[{extra}]"
        ) from missing
    return strategy(threads)  # type: ignore[no-any-return]


def db_runner(tool: ToolDefinition, body: DbBody, resources: Resources) -> Runs:
    """The runner of a database tool. Until a driver has a strategy its calls are refused."""
    declared = spec_of(tool, body)
    secret = DeclaredSpec(tool, body, declared)
    references = secret.references
    hide_declared(tool, resources)
    stopwatch = resources.clock.stopwatch

    async def operate(run: Run) -> Any:
        run.attempts += 1
        strategy = strategy_for(body.driver, resources)
        spec = declared if not references else secret.revealed(await revealed(resources, references))
        run.ran, run.on_timeout = True, "unknown"
        try:
            return await strategy.execute_operation(dict(run.kwargs), spec, left_s(run, stopwatch))
        except ToolExecutionError as error:
            run.ran = error.outcome != "not_run"
            if references and str(error.details.get("sqlstate", "")).startswith("28"):
                forget(resources, references)  # the password was refused: it may have been rotated
            raise

    return operate


def spec_of(tool: ToolDefinition, body: DbBody) -> Any:
    """The spec a strategy sees: the one the tool was made from, else the body's settings as attributes."""
    if tool.spec is not None:
        return tool.spec
    return SimpleNamespace(**{"id": tool.name, "tool_name": tool.name, **body.settings, "driver": body.driver})


def setting(spec: Any, name: str, default: Any = None) -> Any:
    """A setting as the driver wants it: secrets in the open, what is None or not there replaced by the default."""
    value = getattr(spec, name, None)
    if value is None:
        return default
    return Revealed(value.get_secret_value()) if hasattr(value, "get_secret_value") else value


# -- SQL ---------------------------------------------------------------------------------------------------------------


def sql_of(args: Mapping[str, Any]) -> tuple[str, list[Any] | dict[str, Any] | None]:
    """query and params of a call. Raises InputValidationError."""
    query, params = args.get("query"), args.get("params")
    if not isinstance(query, str) or not query.strip():
        raise argument_error("query", "must be an SQL statement", query)
    if params is not None and not isinstance(params, (list, tuple, dict)):
        raise argument_error("params", "must be a list or an object of values to bind", params)
    return query, list(params) if isinstance(params, tuple) else params


def argument_error(name: str, must: str, value: Any) -> InputValidationError:
    """The refusal of one argument, before anything has happened."""
    got = type(value).__name__
    problem = {"path": f"/{name}", "loc": (name,), "parameter": name, "type": "operation", "msg": f"'{name}' {must}"}
    return InputValidationError(problems=[problem | {"expected": must.removeprefix("must be "), "got": got}])


class Rows:
    """The rows of a statement, taken one at a time. Refuses the one that is too many."""

    def __init__(self) -> None:
        self.rows: list[Sequence[Any]] = []
        self._bytes = 0

    def take(self, row: Sequence[Any]) -> None:
        """Keep a row. Raises RemoteToolError beyond MAX_ROWS or MAX_BYTES."""
        if len(self.rows) == MAX_ROWS:
            raise RemoteToolError(f"the statement gives more than {MAX_ROWS} rows; add a LIMIT", kind="caller")
        self._bytes += sum(len(value) for value in row if isinstance(value, (str, bytes)))
        if self._bytes > MAX_BYTES:
            raise RemoteToolError(f"the statement gives more than {MAX_BYTES} bytes; ask for less", kind="caller")
        self.rows.append(row)


def outcome_of(query: str, columns: Sequence[str] | None, rows: Sequence[Sequence[Any]], affected: int) -> Any:
    """The result of a statement: its rows, or how many it has changed."""
    words = query.split(None, 1)
    result: dict[str, Any] = {"operation": words[0].lower().rstrip(";(") or "statement"}
    if columns is None:
        return result | {"rows_affected": max(0, affected), "status": "success"}
    found = [dict(zip(columns, map(plain, row), strict=True)) for row in rows]
    return result | {"rows": found, "row_count": len(found), "status": "success"}


def plain(value: Any) -> Any:
    """A database's value as a result may hold it: bytes as {"base64": ...}, everything else as it is."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"base64": base64.b64encode(value).decode()}
    return value
