"""How the tools of this room word and raise what is wrong with an argument."""

from __future__ import annotations

from toolpost import InputValidationError

__all__ = ["quoted", "refused"]


def refused(parameter: str, must: str, *, expected: str, got: str) -> InputValidationError:
    """The error for an argument that fits its schema and still cannot be used; its message is "'parameter' <must>".

    got is what came, bounded and without secrets.
    """
    problem = {"path": f"/{parameter}", "loc": (parameter,), "parameter": parameter, "type": "value"}
    return InputValidationError(
        problems=[{**problem, "msg": f"'{parameter}' {must}", "expected": expected, "got": got}]
    )


def quoted(text: str) -> str:
    """The text as a literal of bounded length."""
    return repr(text if len(text) <= 200 else text[:200] + "…")
