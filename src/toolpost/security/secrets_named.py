"""Which secrets a body may ask for: those that its author named, not those that its arguments make up."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Any, Final

from toolpost.calls.context import ToolContext
from toolpost.calls.errors import SecretUnavailableError
from toolpost.calls.references import reference_of
from toolpost.security.secrets import Secrets

SHORTEST: Final = 3
"""Shorter texts choose among references that are much alike; which is the author's to allow."""
MOST: Final = 10_000
DEEP: Final = 4


def check_reference(context: ToolContext, reference: str, secrets: Secrets) -> None:
    """Refuse a reference that secrets_allowed does not have or, where nothing is said there, an argument made up.

    A call's arguments are a model's. A reference in which one of them stands, as the whole path, as a segment of it, or
    at its beginning or end, is good only where it stands as it is in the code of the tool. Raises
    SecretUnavailableError. Letters of either case and signs are taken for each other, as bodies change them:
    name.upper(), name.replace("-", "_").
    """
    wanted = reference_of(reference)
    secrets.refuse_unless_allowed(reference)
    if secrets.allowed or context._call is None:
        return
    func, arguments = context._call
    field = _folded(wanted.field or "")
    pieces = {*map(_folded, wanted.path.split("/")), field}
    whole, path = _folded(reference), _folded(wanted.path) + field
    for text in map(_folded, _texts(arguments)):
        if len(text) < SHORTEST:
            continue
        is_start = text.startswith("secret") and whole.startswith(text)
        if is_start or text in pieces or path.startswith(text) or path.endswith(text):
            if reference in set(_written(func, DEEP)):
                return
            raise SecretUnavailableError(
                "a reference to a secret was made of an argument of the call, which could name any secret; write the "
                "reference out in the code of the tool, or allow it by secrets_allowed",
                tool=context.tool,
            )


def _folded(text: str) -> str:
    """The letters and digits of a text, in one case."""
    return "".join(filter(str.isalnum, text.casefold()))


def _texts(value: Any) -> Iterator[str]:
    """The texts among arguments that are long enough, keys as well."""
    waiting, seen = [value], 0
    while waiting and seen < MOST:
        value, seen = waiting.pop(), seen + 1
        if isinstance(value, str):
            if len(value) >= SHORTEST:
                yield value
        elif isinstance(value, Mapping):
            waiting += [*value, *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            waiting += value


def _written(func: Any, depth: int) -> Iterator[str]:
    """The texts that stand in a function's code, in what it closes over, and in the globals that it names."""
    func = getattr(func, "__func__", func)
    func = getattr(func, "__wrapped__", func)
    if not isinstance(func, types.FunctionType):
        func = getattr(type(func), "__call__", None)  # noqa: B004
        if not isinstance(func, types.FunctionType):
            return
    yield from _constants([*(func.__defaults__ or ()), *(func.__kwdefaults__ or {}).values()], 3)
    for cell in func.__closure__ or ():
        try:
            yield from _constants(cell.cell_contents, 3)
        except ValueError:  # it is empty
            continue
    for code in _codes(func.__code__):
        yield from _constants(code.co_consts, 3)
        for name in code.co_names:
            found = func.__globals__.get(name)
            if isinstance(found, types.FunctionType) and depth and found.__module__ == func.__module__:
                if found is not func:
                    yield from _written(found, depth - 1)
            else:
                yield from _constants(found, 3)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _constants(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth and isinstance(value, Mapping):
        for item in list(value.values())[:1000]:
            yield from _constants(item, depth - 1)
    elif depth and isinstance(value, (list, tuple, set, frozenset)):
        for item in list(value)[:1000]:
            yield from _constants(item, depth - 1)
