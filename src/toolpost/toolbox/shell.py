"""The shell tool: runs a program, or a script of sh, in a sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from toolpost import ConfigurationError, Hints, InputValidationError, Screening, Tool, ToolContext, ToolDefinition
from toolpost.toolbox.programs import Programs, SandboxesOrMaker, common_parameters, limits_of, returned

__all__ = ["shell_tools"]

MAX_SCRIPT_CHARS: Final = 90_000
"""It is one argument of sh, of which the kernel takes no more."""


def shell_tools(sandboxes: SandboxesOrMaker, *, env: Sequence[str] = ()) -> list[ToolDefinition]:
    """Shell.Run, whose programs run in these sandboxes.

    sandboxes: Sandboxes of your own, which you close; or a function without arguments that makes some, which is called
    for each executor that uses the tool, and closed with it. env: names of environment variables that a call may set;
    none by default. Raises ConfigurationError.
    """
    names = tuple(env)
    for name in names:
        if not isinstance(name, str) or not name.isidentifier():
            raise ConfigurationError(f"env must be names of environment variables such as 'LANG', got {name!r}")
    programs = Programs(sandboxes)
    if programs.profile.syscalls == "strict":
        raise ConfigurationError("the profile's syscalls are 'strict', which starts no program; use code_tools")
    return [_run_tool(Shell(programs), names)]


class Shell:
    """The operation."""

    def __init__(self, programs: Programs) -> None:
        self.programs = programs

    async def run(
        self,
        ctx: ToolContext,
        argv: list[str] | None = None,
        script: str | None = None,
        stdin: str = "",
        files: dict[str, str] | None = None,
        env: dict[str, str] | None = None,
        timeout_s: float | None = None,
        session: str | None = None,
    ) -> dict[str, Any]:
        """How the program ended, and what it said."""
        if (argv is None) == (script is None):
            raise InputValidationError(
                "give argv, a list such as ['ls', '-l'], or script, text for sh; one of them, and not both"
            )
        return await self.programs.run(
            ctx,
            argv if script is None else ["/bin/sh", "-c", script],
            None,
            stdin=stdin,
            files=files or {},
            env=env or {},
            timeout_s=timeout_s,
            session=session,
        )


def _run_tool(shell: Shell, env: tuple[str, ...]) -> ToolDefinition:
    parameters: dict[str, Any] = {
        "argv": {
            "type": ["array", "null"],
            "items": {"type": "string"},
            "minItems": 1,
            "maxItems": 1000,
            "default": None,
            "description": "A program and its arguments, such as ['grep', '-n', 'x', 'in.txt']; no shell reads them.",
        },
        "script": {
            "type": ["string", "null"],
            "minLength": 1,
            "maxLength": MAX_SCRIPT_CHARS,
            "default": None,
            "description": "Instead of argv: a script for sh, for pipes, loops and redirections.",
        },
        **common_parameters(shell.programs),
    }
    if env:
        parameters["env"] = {
            "type": "object",
            "properties": {name: {"type": "string"} for name in env},
            "additionalProperties": False,
            "default": {},
            "description": "Environment variables to set.",
        }
    network = bool(shell.programs.profile.network.allow)
    tool = Tool(
        name="Shell.Run",
        description="Run a program in a sandbox, and tell its exit code, stdout and stderr. It begins in an empty "
        "folder, and files that it leaves there are handed on; it sees nothing else of the machine but the system's "
        f"programs. {limits_of(shell.programs)}",
        parameters=parameters,
        returns=returned(shell.programs, {}),
        timeout_seconds=shell.programs.total_s,
        # What a script may do is for the sandbox to say: every script looks like an attack on something.
        screening=Screening(
            roles=dict.fromkeys(["argv", "script", "stdin", "files", *(["env"] if env else [])], "skip")
        ),
        hints=Hints(read_only=False, destructive=network, idempotent=False, open_world=network),
        tags=("shell", "sandbox"),
        register=False,
    )
    return tool.define(shell.run)
