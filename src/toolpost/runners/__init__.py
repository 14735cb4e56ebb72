"""Runs one body: in the task, a thread or a process; over HTTP; on a database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolpost.calls.definition import DbBody, FunctionBody, HttpBody, ToolDefinition
from toolpost.calls.errors import ConfigurationError
from toolpost.runners.resources import Resources, not_runnable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def runner_for(tool: ToolDefinition, resources: Resources) -> Callable[[Any], Awaitable[Any]]:
    """What runs the body of a tool. A kind that cannot be run yet refuses each call with NotSupportedError."""
    if isinstance(tool.body, FunctionBody):
        from toolpost.runners.function import function_runner

        return function_runner(tool, tool.body, resources)
    if isinstance(tool.body, HttpBody):
        try:
            from toolpost.runners.http import http_runner
        except ModuleNotFoundError as missing:
            raise ConfigurationError(
                f"{tool.name}: HTTP tools need the package {missing.name}; install toolpost[http]"
            ) from missing
        return http_runner(tool, tool.body, resources)
    if isinstance(tool.body, DbBody):
        from toolpost.runners.db import db_runner

        return db_runner(tool, tool.body, resources)

    async def refuses(inv: Any) -> Any:
        raise not_runnable(tool)

    return refuses


__all__ = ["Resources", "runner_for"]
