"""Commands for what gateways accepted and ran: list calls, show one, cancel one; look at dead letters, redrive them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from toolpost.transports.cli_options import Command, ExitCode, Group, Setup, pass_setup
from toolpost.transports.cli_show import say, write_json, write_table
from toolpost.transports.cli_stores import check_shared

if TYPE_CHECKING:
    from toolpost.calls.call import Caller
    from toolpost.worker.calls import Calls
    from toolpost.worker.reports import CallReport

T = TypeVar("T")

STATES = ("queued", "running", "waiting", "succeeded", "failed", "rejected", "cancelled", "dead")

_limit = click.option(
    "-n", "--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most so many."
)


@click.group(cls=Group)
def calls() -> None:
    """Look at the calls of gateways, and cancel them."""


@calls.command("list", cls=Command)
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="Only in this state; repeatable.")
@click.option("--tool", help="Only those of this tool.")
@click.option("--user", help="Only those of this user.")
@click.option("--after", metavar="ID", help="Go on below this call.")
@_limit
@pass_setup
def list_calls(
    setup: Setup, states: tuple[str, ...], tool: str | None, user: str | None, after: str | None, limit: int
) -> None:
    """List calls, newest first."""
    page = _asked(
        setup,
        lambda there, caller: there.list(caller, states=states, tool=tool, user_id=user, after=after, limit=limit),
    )
    if setup.json:
        write_json({"calls": [_told(report) for report in page.calls], "after": page.after}, setup.out)
        return
    rows = [
        (r.call_id, r.state, r.tool, r.caller.tenant, r.caller.user_id, f"{r.attempt}/{r.max_attempts}", _when(r))
        for r in page.calls
    ]
    write_table(("call", "state", "tool", "tenant", "user", "attempt", "created"), rows, setup.out)


@calls.command("show", cls=Command)
@click.argument("call_id", metavar="ID")
@pass_setup
def show_call(setup: Setup, call_id: str) -> int:
    """Show how one call stands, and what came of it."""
    report = _asked(setup, lambda there, caller: there.show(call_id, caller))
    if report is None:
        return _none(call_id)
    write_json(_told(report), setup.out)
    return ExitCode.OK


@calls.command("cancel", cls=Command)
@click.argument("call_id", metavar="ID")
@pass_setup
def cancel_call(setup: Setup, call_id: str) -> int:
    """Have an accepted call end: one that waits at once, one that runs as soon as its process sees it."""
    report = _asked(setup, lambda there, caller: there.cancel(call_id, caller))
    if report is None:
        return _none(call_id)
    if setup.json:
        write_json(_told(report), setup.out)
    else:
        say(f"{call_id} is {report.state}" + ("" if report.ended else " and will be cancelled"), setup.out)
    return ExitCode.OK


@click.group(cls=Group)
def dead() -> None:
    """Look at accepted calls that were given up, and have them run again."""


@dead.command("list", cls=Command)
@click.option("--after", type=int, metavar="LETTER", help="Go on below this letter.")
@_limit
@pass_setup
def list_dead(setup: Setup, after: int | None, limit: int) -> None:
    """List dead letters, newest first."""
    with setup.operating() as executor:
        check_shared(executor, "records")
        letters = _had(executor.records.dead(limit, after))
    if setup.json:
        write_json([{**letter, "payload": len(letter.get("payload") or b"")} for letter in letters], setup.out)
        return
    names = ("id", "task_id", "reason", "error", "redriven_as")
    write_table(
        ("letter", "call", "reason", "error", "redriven as"),
        [tuple(letter.get(name) for name in names) for letter in letters],
        setup.out,
    )


@dead.command("redrive", cls=Command)
@click.argument("letter", type=int)
@pass_setup
def redrive(setup: Setup, letter: int) -> int:
    """Have a dead call run again, as a new call, which is printed."""
    from toolpost.calls.call import new_id

    call_id = new_id()
    with setup.operating() as executor:
        check_shared(executor, "records")
        done = _had(executor.records.redrive(letter, call_id))
    if not done:
        say(f"the letter {letter} is not there, was redriven, or holds no call; `toolpost dead list` shows all")
        return ExitCode.FAILED
    if setup.json:
        write_json({"call_id": call_id}, setup.out)
    else:
        click.echo(call_id, file=setup.out)
    return ExitCode.OK


def _asked(setup: Setup, ask: Callable[[Calls, Caller], Awaitable[T]]) -> T:
    """What the calls of the records answer an operator who sees all tenants."""
    import asyncio

    from toolpost.calls.call import Caller
    from toolpost.worker.calls import OPERATE, Calls

    async def asked(there: Calls) -> T:
        try:
            return await ask(there, Caller(scopes=frozenset({OPERATE})))
        finally:
            await there.close()

    with setup.operating() as executor:
        check_shared(executor, "records")
        return asyncio.run(asked(Calls(executor)))


def _had(answer: Any) -> Any:
    from toolpost.stores import Pending

    return answer.wait() if isinstance(answer, Pending) else answer


def _told(report: CallReport) -> dict[str, Any]:
    from toolpost.worker.reports import report_json

    return report_json(report)


def _when(report: CallReport) -> str:
    return str(_told(report)["created_at"])


def _none(call_id: str) -> ExitCode:
    say(f"there is no call {call_id}; `toolpost calls list` shows those that are kept")
    return ExitCode.FAILED


__all__ = ["calls", "dead"]
