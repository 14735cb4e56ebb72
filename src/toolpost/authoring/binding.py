"""How declared tools reach an executor and a registry: slots that the engine fills when it is imported.

authoring may not import the engine, so the engine puts its entry points here; a call made before that loads it.
"""

from __future__ import annotations

import difflib
import dis
import inspect
import sys
from collections.abc import Callable
from typing import Any, Protocol

from toolpost.calls.definition import ToolDefinition


class Engine(Protocol):
    """What the engine offers to declared tools."""

    def default_executor(self) -> Any: ...

    def make_executor(self, config: dict[str, Any]) -> Any: ...

    def config_keys(self) -> tuple[str, ...]: ...

    def register(self, definition: ToolDefinition, replace: bool) -> None: ...

    def call_direct(self, wrapper: Any, record: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...


_engine: Engine | None = None


def fill(engine: Engine) -> None:
    """Called once by the engine."""
    global _engine
    _engine = engine


def engine() -> Engine:
    """The engine. Where nothing has loaded it yet, asking the public face for it does."""
    if _engine is None:
        sys.modules[__name__.partition(".")[0]].get_executor  # noqa: B018
    assert _engine is not None
    return _engine


def register(definition: ToolDefinition, replace: bool) -> None:
    """Put a definition into the process's registry."""
    engine().register(definition, replace)


def call_direct(wrapper: Any, record: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A decorated function was called as a function."""
    return engine().call_direct(wrapper, record, args, kwargs)


def nearest_option(name: str, of: Callable[..., Any]) -> str | None:
    """The keyword of a callable nearest to a misspelt one, written as name=."""
    near = difflib.get_close_matches(name, list(inspect.signature(of).parameters), n=1, cutoff=0.6)
    return f"{near[0]}=" if near else None


_LEAF_OPS = frozenset(
    "RESUME NOP CACHE COPY SWAP POP_TOP PUSH_NULL LOAD_FAST LOAD_FAST_CHECK LOAD_FAST_AND_CLEAR LOAD_FAST_LOAD_FAST "
    "LOAD_FAST_BORROW LOAD_FAST_BORROW_LOAD_FAST_BORROW LOAD_SMALL_INT LOAD_CONST STORE_FAST STORE_FAST_LOAD_FAST "
    "STORE_FAST_STORE_FAST RETURN_VALUE RETURN_CONST BINARY_OP COMPARE_OP IS_OP CONTAINS_OP TO_BOOL UNARY_NEGATIVE "
    "UNARY_NOT UNARY_INVERT UNARY_POSITIVE POP_JUMP_IF_TRUE POP_JUMP_IF_FALSE POP_JUMP_IF_NONE POP_JUMP_IF_NOT_NONE "
    "POP_JUMP_FORWARD_IF_TRUE POP_JUMP_FORWARD_IF_FALSE POP_JUMP_FORWARD_IF_NONE POP_JUMP_FORWARD_IF_NOT_NONE "
    "JUMP_IF_TRUE_OR_POP JUMP_IF_FALSE_OR_POP JUMP_FORWARD BUILD_MAP BUILD_LIST BUILD_TUPLE BUILD_SET "
    "BUILD_CONST_KEY_MAP BUILD_STRING FORMAT_VALUE FORMAT_SIMPLE CONVERT_VALUE NOT_TAKEN".split()
)
_SLOW_OPERATORS = ("**", "<<", "*", "@")


def is_leaf(func: Callable[..., Any]) -> bool:
    """Whether a function's code can neither loop, call, look up attributes nor raise, so that it ends at once.

    Only such a body, given numbers and booleans alone, may run where the caller stands while a deadline holds: anything
    else could outlive it. Powers, shifts, products and widths are left out, as they may grow without bound.
    """
    target = getattr(func, "__func__", func)
    code = getattr(target, "__code__", None)
    if code is None or code.co_flags & (inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR):
        return False
    for instruction in dis.get_instructions(code):
        if instruction.opname not in _LEAF_OPS:
            return False
        if instruction.opname == "FORMAT_VALUE" and (instruction.arg or 0) & 4:
            return False  # a width may be any number
        if instruction.opname == "BINARY_OP" and instruction.argrepr.rstrip("=") in _SLOW_OPERATORS:
            return False
        if (
            "JUMP" in instruction.opname
            and isinstance(instruction.argval, int)
            and instruction.argval <= instruction.offset
        ):
            return False
    return True
