"""Puts the house together: settings, registry, executor, health."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from toolpost.authoring import binding
from toolpost.authoring.base import definition_of_private
from toolpost.authoring.decorators import RAW, Declared, define_function
from toolpost.calls.definition import ToolDefinition
from toolpost.engine.executor import ToolExecutor, get_executor
from toolpost.engine.registry import ToolRegistry, get_tool_registry
from toolpost.engine.settings import ExecutorConfig


class _Engine:
    """What declared tools reach through authoring.binding."""

    def default_executor(self) -> ToolExecutor:
        return get_executor()

    def make_executor(self, config: dict[str, Any]) -> ToolExecutor:
        return ToolExecutor(config)

    def config_keys(self) -> tuple[str, ...]:
        return (*ExecutorConfig.model_fields, "default_timeout")

    def register(self, definition: ToolDefinition, replace: bool) -> None:
        get_tool_registry().register_tool(definition, replace=replace)

    def call_direct(self, wrapper: Any, record: Declared, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A decorated method or function was called: take the pipeline of its tool's executor."""
        raw = getattr(wrapper, RAW)
        name = wrapper.__name__
        owner = args[0] if args else None
        if owner is not None and inspect.getattr_static(type(owner), name, None) is wrapper:
            return self._method(owner, name, raw, record, args, kwargs)
        if owner is not None and _defines(type(owner), name, wrapper):
            return raw(*args, **kwargs)  # super().method() inside an override, which went through the pipeline already
        return self._function(wrapper, raw, record, args, kwargs)

    def _method(
        self, owner: Any, name: str, raw: Any, record: Declared, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        executor: ToolExecutor = getattr(owner, "_executor", None) or get_executor()
        if len(args) > 1:
            kwargs = _named(raw, args, kwargs, skip=1)
        if name.startswith("_"):
            return self._run(executor, definition_of_private(owner, name), raw, record, kwargs)
        if inspect.iscoroutinefunction(raw) or (record.awaits_in_loop and _loop_runs()):
            return executor.execute_async(owner, name, **kwargs)
        return executor.execute(owner, name, **kwargs)

    def _function(self, wrapper: Any, raw: Any, record: Declared, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        definition = getattr(wrapper, "tool_definition", None)
        if definition is None:
            parameters = list(inspect.signature(raw).parameters)
            if parameters[:1] == ["self"]:
                raise TypeError(f"{raw.__qualname__}() is a method; call it on an object of its class")
            definition = define_function(
                raw, name=raw.__name__.strip("_") or "function", model=record.schema, policies=record.policies()
            )
            wrapper.tool_definition = definition
        if args:
            kwargs = _named(raw, args, kwargs, skip=0)
        return self._run(get_executor(), definition, raw, record, kwargs)

    def _run(
        self, executor: ToolExecutor, definition: ToolDefinition, raw: Any, record: Declared, kwargs: dict[str, Any]
    ) -> Any:
        entry = executor._entries.of(definition)
        inv = entry.enter(kwargs)
        if inspect.iscoroutinefunction(raw) or (record.awaits_in_loop and _loop_runs()):
            return entry.handler(inv)
        return executor._entries.block(entry, inv)


def _named(raw: Any, args: tuple[Any, ...], kwargs: dict[str, Any], skip: int) -> dict[str, Any]:
    """Positional arguments by their names."""
    names = [p.name for p in inspect.signature(raw).parameters.values()][skip:]
    given = args[skip:]
    if len(given) > len(names):
        raise TypeError(f"{raw.__qualname__}() takes {len(names)} arguments, got {len(given)}")
    twice = [name for name in names[: len(given)] if name in kwargs]
    if twice:
        raise TypeError(f"{raw.__qualname__}() got {twice[0]!r} twice")
    return {**dict(zip(names, given, strict=False)), **kwargs}


def _defines(cls: type, name: str, wrapper: Any) -> bool:
    return any(vars(base).get(name) is wrapper for base in cls.__mro__)


def _loop_runs() -> bool:
    return asyncio._get_running_loop() is not None


binding.fill(_Engine())

__all__ = ["ExecutorConfig", "ToolExecutor", "ToolRegistry", "get_executor", "get_tool_registry"]
