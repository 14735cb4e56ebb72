"""Bounds on arguments, checked before anything walks them: size, depth, count, and nothing that holds itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from toolpost.calls.errors import InputValidationError, Problem
from toolpost.pipeline.services import Limits


def check_bounds(arguments: Mapping[str, Any], limits: Limits) -> None:
    """Raise InputValidationError for arguments that are too large, too deep, too many, recursive or not Unicode.

    Bytes are those of the text in UTF-8. The walk keeps its own stack, so depth cannot exhaust Python's.
    """
    spent = items = 0
    stack: list[tuple[Any, int, str, frozenset[int]]] = []
    for name, value in arguments.items():
        stack.append((value, 1, str(name), frozenset()))
    while stack:
        value, depth, parameter, above = stack.pop()
        items += 1
        waiting = len(value) if isinstance(value, (Mapping, list, tuple, set, frozenset, deque)) else 0
        if items + len(stack) + waiting > limits.max_items:  # said before they are all laid out here
            raise _refusal(
                parameter,
                "too_large",
                f"the arguments have more than {limits.max_items} members; send less at once",
                f"at most {limits.max_items} members",
            )
        if isinstance(value, str):
            spent += len(value) if value.isascii() else _bytes_of(value, parameter)
        elif isinstance(value, (bytes, bytearray)):
            spent += len(value)
        elif hasattr(value, "__next__"):
            message = f"'{parameter}' is {type(value).__name__}, which can be read only once; send a list"
            raise _refusal(parameter, "type", message, "a value that can be looked at before it is used")
        elif isinstance(value, (Mapping, list, tuple, set, frozenset, deque)):
            if id(value) in above:
                raise _refusal(parameter, "recursive", f"'{parameter}' contains itself", "a value without cycles")
            if depth > limits.max_depth:
                raise _refusal(
                    parameter,
                    "too_deep",
                    f"'{parameter}' is nested more than {limits.max_depth} levels deep; flatten it",
                    f"at most {limits.max_depth} levels",
                )
            inner = above | {id(value)}
            if isinstance(value, Mapping):
                for key, item in value.items():
                    spent += len(key) if isinstance(key, str) else 0
                    stack.append((item, depth + 1, parameter, inner))
            else:
                stack.extend((item, depth + 1, parameter, inner) for item in value)
        if spent > limits.max_bytes:
            raise _refusal(
                parameter,
                "too_large",
                f"the arguments are larger than {limits.max_bytes} bytes ('{parameter}' passes the limit); send less, "
                f"or raise max_input_size",
                f"at most {limits.max_bytes} bytes",
            )


def _bytes_of(text: str, parameter: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        message = f"'{parameter}' must be valid Unicode, got half a surrogate pair"
        raise _refusal(parameter, "not_unicode", message, "valid Unicode") from None


def _refusal(parameter: str, kind: str, message: str, expected: str) -> InputValidationError:
    pointer = "/" + parameter.replace("~", "~0").replace("/", "~1")
    problem: Problem = {
        "path": pointer,
        "loc": (parameter,),
        "parameter": parameter,
        "type": kind,
        "msg": message,
        "expected": expected,
        "got": "more",
    }
    return InputValidationError(problems=[problem])
