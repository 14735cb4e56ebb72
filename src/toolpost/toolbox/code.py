"""The code tool: runs Python in a sandbox, and gives the value of its last expression and the files that it made."""

from __future__ import annotations

from typing import Any, Final

from toolpost import Hints, Screening, Tool, ToolContext, ToolDefinition
from toolpost.toolbox.programs import (
    Programs,
    SandboxesOrMaker,
    common_parameters,
    limits_of,
    returned,
)

__all__ = ["code_tools"]

MAX_CODE_CHARS: Final = 500_000


def code_tools(sandboxes: SandboxesOrMaker) -> list[ToolDefinition]:
    """Code.Python, whose programs run in these sandboxes and may import the packages of their profile.

    sandboxes: Sandboxes of your own, which you close; or a function without arguments that makes some, which is called
    for each executor that uses the tool, and closed with it. Raises ConfigurationError.
    """
    return [_python_tool(Code(Programs(sandboxes)))]


class Code:
    """The operation."""

    def __init__(self, programs: Programs) -> None:
        self.programs = programs

    async def python(
        self,
        ctx: ToolContext,
        code: str,
        stdin: str = "",
        files: dict[str, str] | None = None,
        timeout_s: float | None = None,
        session: str | None = None,
    ) -> dict[str, Any]:
        """How the program ended, what it said, and the value of its last expression."""
        return await self.programs.run(
            ctx, None, code, stdin=stdin, files=files or {}, timeout_s=timeout_s, session=session
        )


def _python_tool(code: Code) -> ToolDefinition:
    profile = code.programs.profile
    packages = f"the standard library and {', '.join(profile.packages)}" if profile.packages else "the standard library"
    network = bool(profile.network.allow)
    tool = Tool(
        name="Code.Python",
        description="Run a Python program in a sandbox, and tell what it prints and the value of its last expression. "
        f"It may import {packages}. It begins in an empty folder; files that it leaves there, and open plots of "
        f"matplotlib, are handed on. {limits_of(code.programs)}",
        parameters={
            "code": {
                "type": "string",
                "maxLength": MAX_CODE_CHARS,
                "description": "The program. Where it ends with an expression, value has what that gives, as repr().",
            },
            **common_parameters(code.programs),
        },
        returns=returned(
            code.programs,
            {
                "value": {
                    "type": ["string", "null"],
                    "description": "repr() of the last expression; null where the program does not end with one.",
                }
            },
        ),
        timeout_seconds=code.programs.total_s,
        # What code may do is for the sandbox to say: every program looks like an attack on something.
        screening=Screening(roles=dict.fromkeys(["code", "stdin", "files"], "skip")),
        hints=Hints(read_only=False, destructive=network, idempotent=False, open_world=network),
        tags=("code", "sandbox"),
        register=False,
    )
    return tool.define(code.python)
