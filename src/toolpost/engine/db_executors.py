"""Executors of database specs: subclass BaseDbExecutor and write one method; the pipeline does the rest."""

from __future__ import annotations

import copy
import inspect
from dataclasses import replace
from typing import Any, ClassVar

from toolpost.authoring.specs import (
    DbToolSpec,
    DynamoDbToolSpec,
    MySqlToolSpec,
    PostgreSqlToolSpec,
    SqliteToolSpec,
    ToolSpec,
)
from toolpost.calls.context import ToolContext
from toolpost.calls.definition import FunctionBody
from toolpost.calls.errors import ConfigurationError, NotSupportedError
from toolpost.engine.executor import ToolExecutor
from toolpost.engine.spec_executors import BaseToolExecutor
from toolpost.runners.db import strategy_for


class BaseDbExecutor(BaseToolExecutor):
    """Runs a database tool by its `async def _execute_db_operation(self, args, ctx, timeout)`.

    The method is the tool's body: it runs behind validation, limits, idempotency, cache, breaker and retries as the
    spec asks for them. args is a copy of the checked arguments, self.spec the spec with its settings, timeout the
    seconds the call has left (None: no limit). What it raises reaches the caller as a body's exceptions do.
    Left as it is, the method runs the strategy that DbStrategyFactory has for the spec's driver.
    """

    spec_type: ClassVar[type[ToolSpec]] = DbToolSpec

    def __init__(self, spec: ToolSpec, *, executor: ToolExecutor | None = None) -> None:
        super().__init__(spec, executor=executor)
        if type(self)._execute_db_operation is BaseDbExecutor._execute_db_operation:
            return  # the definition's own body does the same
        if not inspect.iscoroutinefunction(self._execute_db_operation):
            raise ConfigurationError(
                f"{type(self).__name__}: write async def _execute_db_operation(self, args, ctx, timeout)"
            )
        body = FunctionBody(func=self._operate, is_async=True, takes_mapping=True, context="ctx")
        # What a method means is not told by the spec alone, so its results are not shared between processes.
        self.definition = replace(self.definition, body=body, identity=None)

    async def _operate(self, args: dict[str, Any], ctx: ToolContext) -> Any:
        return await self._execute_db_operation(copy.deepcopy(args), ctx, ctx.remaining_s())

    async def _execute_db_operation(self, args: dict[str, Any], ctx: ToolContext, timeout: float | None) -> Any:
        """Do what args say on the database of self.spec; the result is a JSON value."""
        spec: Any = self.spec
        return await strategy_for(spec.driver, self._executor._resources).execute_operation(args, spec, timeout)


class DynamoDBExecutor(BaseDbExecutor):
    """Runs put_item, get_item, update_item, delete_item, query and scan on the table of a DynamoDbToolSpec."""

    spec_type = DynamoDbToolSpec


class PostgreSQLExecutor(BaseDbExecutor):
    """Runs the statement in query, with params bound, on the database of a PostgreSqlToolSpec."""

    spec_type = PostgreSqlToolSpec


class SQLiteExecutor(BaseDbExecutor):
    """Runs the statement in query, with params bound, on the file of a SqliteToolSpec."""

    spec_type = SqliteToolSpec


class MySQLExecutor(BaseDbExecutor):
    """For subclasses that bring their own driver: this version has none for MySQL, and says so when it is made."""

    spec_type = MySqlToolSpec

    def __init__(self, spec: ToolSpec, *, executor: ToolExecutor | None = None) -> None:
        super().__init__(spec, executor=executor)
        if type(self)._execute_db_operation is BaseDbExecutor._execute_db_operation:
            try:
                strategy_for("mysql", self._executor._resources)
            except NotSupportedError as missing:
                raise NotSupportedError(
                    f"{spec.tool_name}: this version of toolpost has no MySQL driver; write _execute_db_operation "
                    "in a subclass, or give a strategy to DbStrategyFactory.register_strategy('mysql', ...)"
                ) from missing
