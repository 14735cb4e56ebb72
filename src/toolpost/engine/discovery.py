"""Discovery: three tools by which a model finds, reads and calls all others, so that it need not be shown them all.

search_tools and describe_tool are tools like others. call_tool is opened where a call comes in: what it names is called
in its place, by the same caller, and is what the pipeline, the audit log and the result know of.
"""

from __future__ import annotations

import difflib
import math
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Final

import orjson
from pydantic import Field

from toolpost.authoring.decorators import define_function
from toolpost.calls.call import ANONYMOUS, Caller, ToolCall
from toolpost.calls.context import ToolContext
from toolpost.calls.definition import Hints, ToolDefinition
from toolpost.calls.errors import EngineError, InputValidationError, ToolNotFoundError
from toolpost.calls.events import CallFinished, Event
from toolpost.calls.policies import Policies
from toolpost.calls.showing import SHOWN_AS
from toolpost.engine.registry import scored, split_name
from toolpost.pipeline.invocation import Invocation

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor
    from toolpost.telemetry.metrics import ToolStats

SEARCH, DESCRIBE, CALL = "search_tools", "describe_tool", "call_tool"
NAMES: Final = frozenset({SEARCH, DESCRIBE, CALL})

MOST_FOUND: Final = 50
DESCRIPTION_CHARS: Final = 200
"""How much of a description a search shows."""
BY_ALL, BY_CALLER = 0.3, 0.5
"""How much a tool can gain over its words by being the one that everybody, or that this caller, uses most."""
MOST_CALLERS: Final = 2_000
"""Of so many callers it is counted what they use; of those who were not heard of longest, no more."""


class Discovery:
    """The three tools of one executor, and what its callers use."""

    def __init__(self, executor: ToolExecutor) -> None:
        self._executor = weakref.ref(executor)
        self.usage = Usage()
        self.tools: dict[str, ToolDefinition] = {
            one.name: one for one in (self._search_tool(), self._describe_tool(), self._call_tool())
        }

    def opened(self, call: ToolCall) -> ToolCall:
        """The call that a call of call_tool means; the call itself where that cannot be said, which tells why."""
        arguments = call.arguments
        if call.malformed is not None or not isinstance(arguments, Mapping) or not arguments.keys() <= _TAKEN:
            return call
        name, given = arguments.get("name"), _object(arguments.get("arguments"))
        known = self._known(name) if isinstance(name, str) else None
        if known is None or given is None:
            return call
        return replace(call, name=known, arguments=given, version=None)

    def _known(self, name: str) -> str | None:
        """A name under which a tool is registered, also where it is written as providers do; None where none is."""
        registry = self._live().registry
        for one in (name, name.replace("__", ".")):
            bare = split_name(one, None)[0]
            if bare not in NAMES and registry.versions(bare):
                return one
        return None

    def _live(self) -> ToolExecutor:
        executor = self._executor()
        if executor is None:
            raise EngineError("the executor of this tool is gone")
        return executor

    # -- the tools ----------------------------------------------------------------------------------------------------

    def _search_tool(self) -> ToolDefinition:
        async def search_tools(
            context: ToolContext,
            query: Annotated[str, Field(description="What is to be done, in a few words", max_length=500)] = "",
            limit: Annotated[int, Field(description="Most tools", ge=1, le=MOST_FOUND)] = 8,
        ) -> dict[str, Any]:
            """Find tools by what they do. Gives names, descriptions and parameters; without a query, the most used.

            Call one that is found with call_tool; describe_tool shows its parameters in full.
            """
            caller = _caller(context)
            seen = await self._live().tools_for_async(caller)
            found = self.ranked(query, seen, caller)
            told: dict[str, Any] = {"tools": [_line(one) for one in found[:limit]], "found": len(found)}
            if not found and seen:
                told["hint"] = "nothing matches; search with other words, or without a query for the most used tools"
            return told

        return _defined(search_tools)

    def _describe_tool(self) -> ToolDefinition:
        async def describe_tool(
            context: ToolContext,
            name: Annotated[str, Field(description="A tool's name, as search_tools gives it", max_length=200)],
        ) -> dict[str, Any]:
            """Show one tool in full, the schema of its parameters among it, and an example of its call."""
            tool = await self._seen(name, _caller(context))
            shown = SHOWN_AS.get() or _own_form
            return {"tool": dict(shown(tool)), "call": {"name": tool.name, "arguments": example_of(tool)}}

        return _defined(describe_tool)

    def _call_tool(self) -> ToolDefinition:
        async def call_tool(
            context: ToolContext,
            name: Annotated[str, Field(description="The tool's name, as search_tools gives it", max_length=200)],
            arguments: Annotated[
                Any, Field(description="By the tool's parameters", json_schema_extra=_AN_OBJECT)
            ] = None,
        ) -> Any:
            """Call a tool that search_tools found, with arguments as its parameters have them."""
            caller = _caller(context)
            await self._seen(name, caller)
            given = _object(arguments)
            if given is None:
                raise InputValidationError(problems=[_no_object(arguments)])
            # Only a call by name and keywords comes here: calls of models are opened before.
            inv = Invocation.of(given)
            inv.caller = caller
            executor = self._live()
            return await executor.run_definition(executor.registry.get_tool(self._known(name) or name), inv)

        return _defined(call_tool, Hints(title="Call a tool"))

    async def _seen(self, name: str, caller: Caller) -> ToolDefinition:
        """A tool that the caller may see. Raises ToolNotFoundError, which names no other that it may not see."""
        seen = {one.name: one for one in await self._live().tools_for_async(caller)}
        known = self._known(name) or name
        bare, version = split_name(known, None)
        if bare in seen:
            return seen[bare] if version is None else self._live().registry.get_tool(bare, version)
        near = difflib.get_close_matches(name, list(seen), n=3, cutoff=0.5)
        near = near or [one.name for _, one in scored(name.replace("_", " "), seen.values())[:3]]
        said = (
            f"; did you mean {' or '.join(repr(one) for one in near)}?" if near else f"; {SEARCH} finds those there are"
        )
        raise ToolNotFoundError(f"there is no tool {name!r:.140}{said}", details={"did_you_mean": near} if near else {})

    # -- ranking ------------------------------------------------------------------------------------------------------

    def ranked(self, query: str, tools: list[ToolDefinition], caller: Caller) -> list[ToolDefinition]:
        """Those that share a word with the query, the best first: by words, and by what is used with success.

        Without a query all of them, the most used first.
        """
        metrics = self._live()._metrics
        own, everybody = self.usage.of(caller), {one.name: _successes(metrics.of(one)) for one in tools}
        most_own, most = max(own.values(), default=0), max(everybody.values(), default=0)

        def gain(tool: ToolDefinition) -> float:
            return BY_ALL * _share(everybody[tool.name], most) + BY_CALLER * _share(own[tool.name], most_own)

        words = scored(query, tools) if query.strip() else [(1.0, one) for one in tools]
        totals = [(score * (1.0 + gain(tool)), tool) for score, tool in words]
        return [tool for _, tool in sorted(totals, key=lambda one: (-one[0], one[1].name))]


class Usage:
    """How often callers called which tool with success, in this process. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callers: OrderedDict[tuple[str | None, str | None], Counter[str]] = OrderedDict()

    def note(self, event: Event) -> None:
        """Count a call that ended well."""
        if not isinstance(event, CallFinished) or event.status != "ok" or event.tool in NAMES:
            return
        for key in {(event.tenant, event.user_id), (event.tenant, None)} - {(None, None)}:
            with self._lock:
                counts = self._callers.setdefault(key, Counter())
                counts[event.tool] += 1
                self._callers.move_to_end(key)
                if len(self._callers) > MOST_CALLERS:
                    self._callers.popitem(last=False)

    def of(self, caller: Caller) -> Counter[str]:
        """What a caller used, each use twice, and what its tenant did."""
        with self._lock:
            whose = self._callers.get((caller.tenant, caller.user_id)) if caller.user_id is not None else None
            tenant = self._callers.get((caller.tenant, None)) if caller.tenant is not None else None
            return (whose or Counter()) + (tenant or Counter())


def example_of(tool: ToolDefinition) -> dict[str, Any]:
    """Arguments that fit: the tool's own example, else each parameter that it needs with a value of its kind."""
    for one in tool.examples:
        if isinstance(one, Mapping):
            given = one.get("arguments", one)
            return dict(given) if isinstance(given, Mapping) else dict(one)
    properties = tool.parameters.get("properties", {})
    return {name: _sample(properties.get(name, {})) for name in tool.parameters.get("required", ())}


def _sample(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return None
    for key in ("default", "const"):
        if key in schema:
            return schema[key]
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), None)
    if kind in ("integer", "number"):
        return schema.get("minimum", 1)
    if kind == "object":
        return {name: _sample(schema.get("properties", {}).get(name, {})) for name in schema.get("required", ())}
    return {"string": "...", "boolean": True, "array": [_sample(schema.get("items"))]}.get(kind or "")


def _line(tool: ToolDefinition) -> dict[str, Any]:
    """A tool as a search shows it: enough to call most of them."""
    text = " ".join(tool.description.split())
    cut = text if len(text) <= DESCRIPTION_CHARS else text[: DESCRIPTION_CHARS - 3].rsplit(" ", 1)[0] + "..."
    needed = tool.parameters.get("required", ())
    parameters = [
        f"{name}{'' if name in needed else '?'}: {_kind(schema)}"
        for name, schema in tool.parameters.get("properties", {}).items()
    ]
    return {"name": tool.name, "description": cut, "parameters": ", ".join(parameters)}


def _kind(schema: Any) -> str:
    if not isinstance(schema, Mapping):
        return "any"
    if schema.get("enum"):
        return " | ".join(orjson.dumps(one).decode() for one in schema["enum"][:8])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"{_kind(schema.get('items'))}[]"
    return " | ".join(kind) if isinstance(kind, list) else str(kind)


def _own_form(tool: ToolDefinition) -> dict[str, Any]:
    return {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}


def _defined(function: Callable[..., Any], hints: Hints | None = None) -> ToolDefinition:
    return define_function(
        function,
        name=function.__name__,
        hints=hints or Hints(read_only=True, idempotent=True, open_world=False),
        policies=Policies(screening=None, cache=None),
        tags=("discovery",),
    )


def _caller(context: ToolContext) -> Caller:
    return context._caller or ANONYMOUS


def _object(given: Any) -> dict[str, Any] | None:
    """Arguments, also where a model wrote them as text; None for what is no object."""
    if given is None:
        return {}
    if isinstance(given, str):
        try:
            given = orjson.loads(given)
        except orjson.JSONDecodeError:
            return None
    return dict(given) if isinstance(given, Mapping) else None


def _no_object(given: Any) -> dict[str, Any]:
    message = "'arguments' must be an object: the tool's parameters by name"
    place = {"path": "/arguments", "loc": ("arguments",), "parameter": "arguments", "type": "type", "msg": message}
    return {**place, "expected": "object", "got": type(given).__name__}


def _successes(stats: ToolStats) -> int:
    return max(0, stats.requests - stats.failures)


def _share(count: int, most: int) -> float:
    """How much of the most: a tool that is used ten times as often is not ten times as good."""
    return math.log1p(count) / math.log1p(most) if most else 0.0


_TAKEN: Final = frozenset({"name", "arguments"})
_AN_OBJECT: Final = {"type": "object", "additionalProperties": True}

__all__ = ["CALL", "DESCRIBE", "NAMES", "SEARCH", "Discovery", "Usage", "example_of"]
