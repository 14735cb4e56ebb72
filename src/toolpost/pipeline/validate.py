"""validate: arguments become typed keyword arguments, or a refusal; the result must fit what was declared."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from toolpost.calls.content import read_by_programs
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import InputValidationError, Problem
from toolpost.calls.secret_names import HIDDEN, marked_in
from toolpost.pipeline.bounds import check_bounds
from toolpost.pipeline.encode import to_json
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.services import Services

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from toolpost.pipeline.compile import Handler

SCALARS = frozenset({int, float, bool, type(None)})


def validate(tool: ToolDefinition, services: Services, next: Handler) -> Handler:
    """Bound, check and convert arguments. Where the caller saw a strict schema, null means an absent optional one."""
    convert, mend, optional = tool.check.convert, tool.check.mend, tool.check.optional
    if marked := marked_in(tool.parameters):
        mend = _without(marked, mend)
    limits, scalar = services.limits, tool.check.scalar
    max_bytes = limits.max_bytes
    output_check = tool.output_check

    def checked(inv: Invocation) -> Awaitable[Any]:
        arguments = inv.arguments
        if inv.malformed is not None:
            raise InputValidationError(f"Parameter validation failed: {inv.malformed}")
        if not scalar:
            room = max_bytes
            for value in arguments.values():
                kind = value.__class__
                if kind in SCALARS:
                    continue
                if kind is str and value.isascii():
                    room -= len(value)
                    if room >= 0:
                        continue
                check_bounds(arguments, limits)  # walks containers and counts bytes
                break
        if inv.strict and optional and None in arguments.values():
            arguments = {k: v for k, v in arguments.items() if v is not None or k not in optional}
            inv.arguments = arguments  # what the cache keys: elsewhere null may be a value of its own
        try:
            inv.kwargs = convert(arguments)
        except Exception as raised:
            inv.kwargs = mend(arguments, raised)
        return next(inv)

    if output_check is None:
        return checked

    async def both(inv: Invocation) -> Any:
        value = await checked(inv)
        error = output_check.explain(read_by_programs(to_json(value)))
        if error is not None:
            raise error
        return value

    return both


Mend = Callable[[dict[str, Any], Exception], dict[str, Any]]


def _without(marked: Collection[str], mend: Mend) -> Mend:
    """mend, whose refusals do not show what stands under parameters that their schema marks as secrets."""

    def discreet(arguments: dict[str, Any], raised: Exception) -> dict[str, Any]:
        refusal = None
        try:
            return mend(arguments, raised)
        except InputValidationError as error:
            refusal = error
        problems = [
            _hidden(problem, arguments) if _is_marked(problem, marked) else problem for problem in refusal.errors()
        ]
        raise InputValidationError(problems=problems, tool=refusal.tool) if problems else refusal

    return discreet


def _is_marked(problem: Problem, marked: Collection[str]) -> bool:
    return any(part in marked for part in problem.get("loc", ()))


def _hidden(problem: Problem, arguments: Any) -> Problem:
    value = arguments
    for part in problem["loc"]:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            break
    said = problem["msg"]
    for text in (problem["got"], value):
        if isinstance(text, str) and text not in ("", "nothing"):
            said = said.replace(text, HIDDEN)
    return problem | {"msg": said, "got": problem["got"] if problem["got"] == "nothing" else HIDDEN}
