"""The command line `toolpost`: look at tools, call one, run a file of calls, see settings, check the installation."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolpost.transports.cli_approvals import approvals
from toolpost.transports.cli_artifacts import write_artifacts
from toolpost.transports.cli_audit import audit
from toolpost.transports.cli_calls import calls, dead
from toolpost.transports.cli_doctor import doctor
from toolpost.transports.cli_grants import grants
from toolpost.transports.cli_keys import keys
from toolpost.transports.cli_lock import lock
from toolpost.transports.cli_options import FORMATS, ExitCode, Group, Setup, pass_setup
from toolpost.transports.cli_run import run
from toolpost.transports.cli_screen import screen
from toolpost.transports.cli_serve import mcp, serve, worker
from toolpost.transports.cli_show import (
    complain,
    failure_sentence,
    say,
    to_json,
    watching,
    write_explanation,
    write_json,
    write_table,
    write_value,
)
from toolpost.transports.cli_stores import circuits, claims, migrate

if TYPE_CHECKING:
    from collections.abc import Callable

    from toolpost.calls.call import ToolCall
    from toolpost.calls.definition import ToolDefinition
    from toolpost.calls.events import Event
    from toolpost.calls.result import ToolResult
    from toolpost.engine.executor import ToolExecutor
    from toolpost.transports.wire import Format


class Program(Group):
    """The whole command line: what a command raises becomes one sentence and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        ctx.exit(self._outcome(ctx))

    def _outcome(self, ctx: click.Context) -> int:
        from toolpost.calls.errors import ToolExecutionError

        setup = ctx.ensure_object(Setup)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError):
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        try:
            code = super().invoke(ctx)
            setup.out.flush()
            return code if isinstance(code, int) else ExitCode.OK
        except BrokenPipeError:
            _silence(setup)
            return ExitCode.BROKEN_PIPE
        except KeyboardInterrupt:
            say("interrupted")
            return ExitCode.INTERRUPTED
        except click.exceptions.Exit as exc:
            return exc.exit_code
        except click.ClickException:
            raise
        except ToolExecutionError as exc:
            return _failed(setup, exc.message, exc.code, ExitCode.USAGE)
        except OSError as exc:
            where = f"{exc.filename}: " if exc.filename else ""
            return _failed(setup, f"{where}{exc.strerror or exc}", "io", ExitCode.USAGE)
        except Exception as exc:
            hint = "" if setup.debug else "; --debug shows where"
            return _failed(
                setup, f"toolpost itself failed: {type(exc).__name__}: {exc}{hint}", "internal", ExitCode.BUG
            )


def _failed(setup: Setup, message: str, code: str, exit_code: ExitCode) -> ExitCode:
    if setup.debug:
        import traceback

        traceback.print_exc()
    complain(message, code, setup.json)
    return exit_code


def _silence(setup: Setup) -> None:
    """The reader went away: let nothing be written when the interpreter flushes at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), setup.out.fileno())


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"toolpost {sys.modules[__name__.partition('.')[0]].__version__}")
        ctx.exit()


_EPILOG = """\b
Exit codes:
  0    it worked
  1    the tool call failed, or doctor found something wrong
  2    wrong usage or configuration
  3    the call was rejected: the tool never ran
  4    some calls of a run failed, were rejected or were not run
  130  interrupted
"""


@click.group(cls=Program, name="toolpost", epilog=_EPILOG)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
def main() -> None:
    """Run tools for AI agents."""


@main.group(cls=Group)
def tools() -> None:
    """Look at the tools there are."""


_format = click.option(
    "--format", type=click.Choice(FORMATS), help="Print what goes into a request to this provider, as JSON."
)
_strict = click.option("--strict", is_flag=True, help="Ask for the provider's strict mode.")


@tools.command("list")
@_format
@_strict
@pass_setup
def list_tools(setup: Setup, format: Format | None, strict: bool) -> None:
    """List all tools."""
    with setup.executor() as executor:
        _write_tools(setup, executor.registry.definitions(), format, strict)


@tools.command()
@click.argument("query")
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True, help="At most so many.")
@_format
@_strict
@pass_setup
def search(setup: Setup, query: str, limit: int, format: Format | None, strict: bool) -> None:
    """List the tools whose names and descriptions match QUERY, best first."""
    with setup.executor() as executor:
        found = executor.registry.search(query, limit)
        _write_tools(setup, found, format, strict)
    if not found:
        say(f"no tool matches {query!r}; `toolpost tools list` shows all")


@tools.command()
@click.argument("name", metavar="NAME[@VERSION]")
@_format
@_strict
@pass_setup
def show(setup: Setup, name: str, format: Format | None, strict: bool) -> None:
    """Show one tool: what it does, its parameters and its schema."""
    with setup.executor() as executor:
        definition = executor.registry.get_tool(name)
        about = executor.registry.get_tool_info(name)
    if format:
        write_json(_exported([definition], format, strict)[0], setup.out)
    elif setup.json:
        write_json(about, setup.out)
    else:
        _describe(definition, about, setup)


@main.command()
@click.argument("name", metavar="NAME[@VERSION]")
@click.argument("pairs", metavar="[name=value]...", nargs=-1)
@click.option("--arguments", metavar="JSON", help="All arguments as one JSON object; - reads it from stdin.")
@click.option("--user", help="The user for whom the tool is called.")
@click.option("--task", help="The task to which the call belongs.")
@click.option("--scope", "scopes", multiple=True, help="A permission the caller has; repeatable.")
@click.option("--role", "roles", multiple=True, help="A role the caller has; repeatable.")
@click.option("--tenant", help="The tenant of the caller.")
@click.option("--deadline", type=click.FloatRange(min=0, min_open=True), help="Seconds the call may take.")
@click.option("--idempotency-key", help="Calls with one key run once, where the tool keeps to keys.")
@click.option("--explain", is_flag=True, help="Tell on stderr what each stage decided, why, and how long it took.")
@click.option("--artifacts", type=click.Path(path_type=Path), help="Write files that the tool gives into this folder.")
@pass_setup
def call(
    setup: Setup,
    name: str,
    pairs: tuple[str, ...],
    arguments: str | None,
    user: str | None,
    task: str | None,
    scopes: tuple[str, ...],
    roles: tuple[str, ...],
    tenant: str | None,
    deadline: float | None,
    idempotency_key: str | None,
    explain: bool,
    artifacts: Path | None,
) -> int:
    """Call a tool and print what it gives.

    \b
    name=value   the value, read by the type of the parameter
    name:=json   the value as JSON, whatever the type
    name=@file   the text of a file
    -            all arguments as one JSON object from standard input
    """
    if "-" in pairs:
        arguments, pairs = "-", tuple(pair for pair in pairs if pair != "-")
    fields = {"user_id": user, "task_id": task, "scopes": frozenset(scopes), "deadline_s": deadline}
    fields |= {"idempotency_key": idempotency_key, "roles": frozenset(roles), "tenant": tenant}
    with watching(sys.stderr) as observer:
        result = _call(setup, name, arguments, pairs, fields, observer, explain)
    if explain and not setup.json:
        write_explanation(result.explanation or [], sys.stderr)
    if setup.json:
        told = {"explanation": result.explanation} if explain else {}
        write_json(result.to_dict() | told, setup.out)
    elif result.success:
        write_value(result.content, setup.out)
    else:
        say(f"error: {failure_sentence(result)}")
    if artifacts is not None:
        for problem in write_artifacts(result.artifacts, artifacts):
            say(problem)
    if result.success:
        return ExitCode.OK
    return ExitCode.REJECTED if result.status == "rejected" else ExitCode.FAILED


@main.command()
@click.option("--changed", is_flag=True, help="Only the settings that are not as they are by default.")
@pass_setup
def config(setup: Setup, changed: bool) -> None:
    """Show every setting, its value, and who set it."""
    settings = [
        setting._replace(origin="--set") if setting.origin == "code" else setting
        for setting in setup.load_config().effective()
        if not changed or setting.origin != "default"
    ]
    if setup.json:
        write_json([setting._asdict() for setting in settings], setup.out)
        return
    rows = [(s.name, s.value if isinstance(s.value, str) else to_json(s.value).decode(), s.origin) for s in settings]
    write_table(("setting", "value", "set by"), rows, setup.out)


_COMMANDS = (run, serve, mcp, worker, calls, dead, doctor, migrate, claims, circuits, approvals, lock, keys, grants)
for command in (*_COMMANDS, audit, screen):
    main.add_command(command)


def _write_tools(setup: Setup, definitions: list[ToolDefinition], format: Format | None, strict: bool) -> None:
    if format or setup.json:
        write_json(_exported(definitions, format or "toolpost", strict), setup.out)
        return
    rows = [(d.name, d.version, " ".join(d.description.split())) for d in definitions]
    write_table(("tool", "version", "description"), rows, setup.out)


def _exported(definitions: list[ToolDefinition], format: Format, strict: bool) -> list[dict[str, Any]]:
    from toolpost.transports.wire import export_tools, strict_problems

    for definition in definitions if strict else ():
        for problem in strict_problems(definition, format):
            say(f"{definition.name} is not strict: {problem}")
    return export_tools(definitions, format, strict=strict)


def _describe(definition: ToolDefinition, about: dict[str, Any], setup: Setup) -> None:
    from toolpost.transports.cli_values import type_words

    out, schema = setup.out, definition.parameters
    say(f"{definition.name} {definition.version}", out)
    for text in (definition.description, definition.deprecated and f"Deprecated: {definition.deprecated}"):
        if text:
            say(text, out)
    properties, required = schema.get("properties", {}), schema.get("required", ())
    rows = [
        (
            name,
            type_words(one, schema),
            "yes" if name in required else "",
            to_json(one["default"]).decode() if "default" in one else "",
            one.get("description", ""),
        )
        for name, one in ((name, one if isinstance(one, dict) else {}) for name, one in properties.items())
    ]
    say("", out)
    if rows:
        write_table(("parameter", "type", "required", "default", "description"), rows, out)
    else:
        say("It takes no parameters.", out)
    facts = {
        "versions": ", ".join(about["versions"]) if len(about["versions"]) > 1 else "",
        "deadline": f"{about['timeout_seconds']:g} s" if about["timeout_seconds"] else "",
        "needs": ", ".join([*(["a user"] if about["requires_auth"] else []), *about["permissions"]]),
        "tags": ", ".join(about["tags"]),
        "from": about["source"],
    }
    say("", out)
    for fact, text in facts.items():
        if text:
            say(f"{fact}: {text}", out)
    say("schema:", out)
    click.echo(to_json(dict(schema), indented=True), file=out)


def _call(
    setup: Setup,
    name: str,
    arguments: str | None,
    pairs: tuple[str, ...],
    fields: dict[str, Any],
    observer: Callable[[Event], None],
    explain: bool,
) -> ToolResult:
    import asyncio

    from toolpost.calls.call import create_tool_call, new_id
    from toolpost.calls.errors import ToolExecutionError, ToolNotFoundError
    from toolpost.calls.result import failed_result
    from toolpost.transports.cli_values import read_arguments, read_object

    with setup.executor([observer]) as executor:
        try:
            try:
                schema = executor.registry.get_tool(name).parameters
            except ToolNotFoundError:
                schema = {}
            given = read_object(arguments) if arguments is not None else {}
            given.update(read_arguments(pairs, schema))
        except ValueError as exc:
            raise click.UsageError(str(exc)) from exc
        except ToolExecutionError as exc:
            refused = failed_result(new_id(), name, exc)
            executor.audit_refusal(name, exc, call_id=refused.call_id)
            return refused
        return asyncio.run(_awaited(executor, create_tool_call(name, given, **fields), explain))


async def _awaited(executor: ToolExecutor, tool_call: ToolCall, explain: bool) -> ToolResult:
    result = await executor.execute_tool_call(tool_call, explain=explain)
    if result.failure is not None and result.failure.code == "cancelled":
        raise KeyboardInterrupt  # nobody else cancels this call
    return result
