"""What the adapters of the providers' SDKs share: tools shown and turns run at a gateway, or by an executor here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, Final

from toolpost.calls.call import ANONYMOUS, Caller
from toolpost.calls.errors import ConfigurationError, EngineError
from toolpost.calls.showing import SHOWN_AS
from toolpost.clients.turns import Turn, turn_of

AT_ONCE: Final = 8
"""How many calls of one turn run at the same time, for programs that block."""


def shown_tools(where: Any, format: str, *, caller: Caller | None, strict: bool) -> list[dict[str, Any]]:
    """The tools in a provider's form: of a Client, or of a ToolExecutor as caller sees them."""
    if not _is_executor(where):
        _nobody(caller)
        tools: list[dict[str, Any]] = where.tools(format, strict=strict)
        return tools
    from toolpost import export_tools

    return export_tools(where.tools_for_model(caller or ANONYMOUS), format, strict=strict)  # type: ignore[arg-type]


async def shown_tools_async(where: Any, format: str, *, caller: Caller | None, strict: bool) -> list[dict[str, Any]]:
    """shown_tools, of an AsyncClient or a ToolExecutor."""
    if not _is_executor(where):
        _nobody(caller)
        tools: list[dict[str, Any]] = await where.tools(format, strict=strict)
        return tools
    from toolpost import export_tools

    found = await where.tools_for_model_async(caller or ANONYMOUS)
    return export_tools(found, format, strict=strict)  # type: ignore[arg-type]


def run_turn(where: Any, response: Any, *, caller: Caller | None, session_id: str | None) -> list[Any]:
    """Make the calls in a model's message at a Client or in a ToolExecutor; the whole turn."""
    if not _is_executor(where):
        _nobody(caller)
        whole: list[Any] = where.run(response, session_id=session_id)
        return whole
    turn = turn_of(response)
    if not turn.calls:
        return turn.said
    calls = _decoded(where, turn, caller, session_id)
    with _shown_as(turn):
        if len(calls) == 1:
            results = [where.execute_sync(calls[0])]
        else:
            with ThreadPoolExecutor(min(AT_ONCE, len(calls)), "toolpost turn") as threads:
                results = list(threads.map(lambda one: one[0].run(where.execute_sync, one[1]), _each_apart(calls)))
    return turn.answered(_encoded(turn, results))


async def run_turn_async(where: Any, response: Any, *, caller: Caller | None, session_id: str | None) -> list[Any]:
    """run_turn, at an AsyncClient or in a ToolExecutor."""
    if not _is_executor(where):
        _nobody(caller)
        whole: list[Any] = await where.run(response, session_id=session_id)
        return whole
    turn = turn_of(response)
    if not turn.calls:
        return turn.said
    with _shown_as(turn):
        results = await where.execute_tool_calls(_decoded(where, turn, caller, session_id))
    return turn.answered(_encoded(turn, results))


def endless(turns: int) -> EngineError:
    """The error of a loop that a model does not end."""
    return EngineError(f"the model still calls tools after {turns} turns; raise max_turns, or see what it is after")


def _is_executor(where: Any) -> bool:
    return hasattr(where, "execute_tool_calls")


def _nobody(caller: Caller | None) -> None:
    if caller is not None:
        raise ConfigurationError("a gateway knows callers by their key; caller is for a ToolExecutor")


def _decoded(executor: Any, turn: Turn, caller: Caller | None, session_id: str | None) -> list[Any]:
    from toolpost import decode_calls

    if caller is not None and session_id is not None:
        raise ConfigurationError("give the session in the caller, or session_id, not both")
    who: dict[str, Any] = {"session_id": session_id} if caller is None else {"caller": caller}
    return decode_calls(turn.payload, turn.format, known=executor.registry.list_tools(), **who)


def _encoded(turn: Turn, results: Any) -> Any:
    from toolpost import encode_results

    return encode_results(results, turn.format)


def _each_apart(calls: list[Any]) -> Iterator[tuple[Any, Any]]:
    for call in calls:
        yield copy_context(), call


@contextmanager
def _shown_as(turn: Turn) -> Iterator[None]:
    """Have tools that are described to the model described in its provider's form."""
    from toolpost import export_tool

    def shown(definition: Any) -> Mapping[str, Any]:
        return export_tool(definition, turn.format)

    before = SHOWN_AS.set(shown)
    try:
        yield
    finally:
        SHOWN_AS.reset(before)


__all__ = ["endless", "run_turn", "run_turn_async", "shown_tools", "shown_tools_async"]
