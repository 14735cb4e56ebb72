"""OpenAI's SDK: its tool loops, of Responses and of Chat Completions, run their calls through toolpost.

    tools = openai.tools(where)
    response = sdk.responses.create(model=..., input=messages, tools=tools)
    messages += openai.run(where, response)

where is a Client of a gateway, or a ToolExecutor of this process. Nothing of the SDK is imported.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from toolpost.calls.call import Caller
from toolpost.clients.loops import endless, run_turn, run_turn_async, shown_tools, shown_tools_async
from toolpost.clients.turns import turn_of

Api = Literal["responses", "chat"]
_FORMATS: Final = {"responses": "openai", "chat": "openai-chat"}
MAX_TURNS: Final = 16


def tools(
    where: Any, *, api: Api = "responses", caller: Caller | None = None, strict: bool = False
) -> list[dict[str, Any]]:
    """What goes into a request's tools. caller, for a ToolExecutor, is who the model acts for."""
    return shown_tools(where, _FORMATS[api], caller=caller, strict=strict)


async def tools_async(
    where: Any, *, api: Api = "responses", caller: Caller | None = None, strict: bool = False
) -> list[dict[str, Any]]:
    """tools, of an AsyncClient or a ToolExecutor."""
    return await shown_tools_async(where, _FORMATS[api], caller=caller, strict=strict)


def run(
    where: Any, response: Any, *, caller: Caller | None = None, session_id: str | None = None
) -> list[dict[str, Any]]:
    """Make the calls in a Response or ChatCompletion; what the model said and the answers, for the next request.

    A call that fails is answered with its error, for the model to mend. Without calls it is what the model said.
    """
    return run_turn(where, response, caller=caller, session_id=session_id)


async def run_async(
    where: Any, response: Any, *, caller: Caller | None = None, session_id: str | None = None
) -> list[dict[str, Any]]:
    """run, at an AsyncClient or in a ToolExecutor."""
    return await run_turn_async(where, response, caller=caller, session_id=session_id)


def has_calls(response: Any) -> bool:
    """Whether the model called functions, so that it is to be asked again."""
    return bool(turn_of(response).calls)


def loop(
    sdk: Any,
    where: Any,
    messages: list[Any],
    *,
    api: Api = "responses",
    caller: Caller | None = None,
    max_turns: int = MAX_TURNS,
    **request: Any,
) -> Any:
    """Ask the model until it calls no more tools; its last response. messages grows by all that was said.

    request is what create takes besides; tools in it stand in the place of those of where. Raises EngineError after
    max_turns.
    """
    request.setdefault("tools", tools(where, api=api, caller=caller))
    create = sdk.responses.create if api == "responses" else sdk.chat.completions.create
    said = "input" if api == "responses" else "messages"
    for _ in range(max_turns):
        response = create(**{said: list(messages)}, **request)
        messages += run(where, response, caller=caller)
        if not has_calls(response):
            return response
    raise endless(max_turns)


async def loop_async(
    sdk: Any,
    where: Any,
    messages: list[Any],
    *,
    api: Api = "responses",
    caller: Caller | None = None,
    max_turns: int = MAX_TURNS,
    **request: Any,
) -> Any:
    """loop, with an AsyncOpenAI, at an AsyncClient or in a ToolExecutor."""
    if "tools" not in request:
        request["tools"] = await tools_async(where, api=api, caller=caller)
    create = sdk.responses.create if api == "responses" else sdk.chat.completions.create
    said = "input" if api == "responses" else "messages"
    for _ in range(max_turns):
        response = await create(**{said: list(messages)}, **request)
        messages += await run_async(where, response, caller=caller)
        if not has_calls(response):
            return response
    raise endless(max_turns)


__all__ = ["has_calls", "loop", "loop_async", "run", "run_async", "tools", "tools_async"]
