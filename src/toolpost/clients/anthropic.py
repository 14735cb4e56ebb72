"""Anthropic's SDK: its tool loops run their calls through toolpost.

    tools = anthropic.tools(where)
    message = sdk.messages.create(model=..., max_tokens=..., messages=messages, tools=tools)
    messages += anthropic.run(where, message)

where is a Client of a gateway, or a ToolExecutor of this process. Nothing of the SDK is imported.
"""

from __future__ import annotations

from typing import Any, Final

from toolpost.calls.call import Caller
from toolpost.clients.loops import endless, run_turn, run_turn_async, shown_tools, shown_tools_async
from toolpost.clients.turns import turn_of

MAX_TURNS: Final = 16


def tools(where: Any, *, caller: Caller | None = None, strict: bool = False) -> list[dict[str, Any]]:
    """What goes into a request's tools. caller, for a ToolExecutor, is who the model acts for."""
    return shown_tools(where, "anthropic", caller=caller, strict=strict)


async def tools_async(where: Any, *, caller: Caller | None = None, strict: bool = False) -> list[dict[str, Any]]:
    """tools, of an AsyncClient or a ToolExecutor."""
    return await shown_tools_async(where, "anthropic", caller=caller, strict=strict)


def run(
    where: Any, message: Any, *, caller: Caller | None = None, session_id: str | None = None
) -> list[dict[str, Any]]:
    """Make the calls in a Message; what the model said and one message with all answers, for the next request.

    A call that fails is answered with its error, for the model to mend. Without calls it is what the model said.
    """
    return run_turn(where, message, caller=caller, session_id=session_id)


async def run_async(
    where: Any, message: Any, *, caller: Caller | None = None, session_id: str | None = None
) -> list[dict[str, Any]]:
    """run, at an AsyncClient or in a ToolExecutor."""
    return await run_turn_async(where, message, caller=caller, session_id=session_id)


def has_calls(message: Any) -> bool:
    """Whether the model called tools, so that it is to be asked again."""
    return bool(turn_of(message).calls)


def loop(
    sdk: Any,
    where: Any,
    messages: list[Any],
    *,
    caller: Caller | None = None,
    max_turns: int = MAX_TURNS,
    **request: Any,
) -> Any:
    """Ask the model until it calls no more tools; its last Message. messages grows by all that was said.

    request is what create takes besides; tools in it stand in the place of those of where. Raises EngineError after
    max_turns.
    """
    request.setdefault("tools", tools(where, caller=caller))
    for _ in range(max_turns):
        message = sdk.messages.create(messages=list(messages), **request)
        messages += run(where, message, caller=caller)
        if not has_calls(message):
            return message
    raise endless(max_turns)


async def loop_async(
    sdk: Any,
    where: Any,
    messages: list[Any],
    *,
    caller: Caller | None = None,
    max_turns: int = MAX_TURNS,
    **request: Any,
) -> Any:
    """loop, with an AsyncAnthropic, at an AsyncClient or in a ToolExecutor."""
    if "tools" not in request:
        request["tools"] = await tools_async(where, caller=caller)
    for _ in range(max_turns):
        message = await sdk.messages.create(messages=list(messages), **request)
        messages += await run_async(where, message, caller=caller)
        if not has_calls(message):
            return message
    raise endless(max_turns)


__all__ = ["has_calls", "loop", "loop_async", "run", "run_async", "tools", "tools_async"]
