"""`toolpost approvals`: see which calls wait for a person, and decide about them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from toolpost.transports.cli_options import ExitCode, Group, Setup, pass_setup
from toolpost.transports.cli_show import complain, say, write_json, write_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from toolpost.engine.approvals import ApprovalOperations
    from toolpost.security.approval_records import ApprovalRecord

STATES = ("pending", "approved", "denied", "edited", "reserved", "consumed", "expired", "lost")


@click.group(cls=Group)
def approvals() -> None:
    """See which calls wait for a person's approval, and decide about them."""


@approvals.command("list")
@click.option("--state", type=click.Choice(STATES), default="pending", show_default=True, help="Those that stand so.")
@click.option("--all", "every", is_flag=True, help="Those of every state.")
@click.option("--tenant", help="Those of one tenant's callers.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@pass_setup
def list_approvals(setup: Setup, state: str, every: bool, tenant: str | None, limit: int) -> None:
    """List approvals, oldest first."""
    with setup.operating() as executor:
        found = _operations(executor).list(None if every else state, tenant=tenant, limit=limit)
    now = time.time()
    if setup.json:
        write_json([_told(one) for one in found], setup.out)
        return
    rows = [
        (one.id, one.tool, one.user_id or "", one.standing(now), _left(one, now), _short(one.arguments))
        for one in found
    ]
    write_table(("approval", "tool", "user", "state", "expires in", "arguments"), rows, setup.out)


@approvals.command("show")
@click.argument("approval_id", metavar="ID")
@pass_setup
def show_approval(setup: Setup, approval_id: str) -> int:
    """Show one approval: the call, why a person is asked, what changed since the last one, and its history."""
    with setup.operating() as executor:
        record = _operations(executor).show(approval_id)
    if record is None:
        complain(f"there is no approval {approval_id!r}", "unknown_approval", setup.json)
        return ExitCode.FAILED
    write_json(_told(record), setup.out)
    return ExitCode.OK


_by = click.option("--by", metavar="NAME", help="Who decides; whoever runs this, without it.")


@approvals.command("approve")
@click.argument("approval_id", metavar="ID")
@_by
@click.option("--reason", help="Why; kept with the approval.")
@click.option("--arguments", metavar="JSON", help="Approve the call with these arguments instead; needs its tool.")
@pass_setup
def approve_call(setup: Setup, approval_id: str, by: str | None, reason: str | None, arguments: str | None) -> int:
    """Let a call be made, once."""
    from toolpost.transports.cli_values import read_object

    try:
        given = None if arguments is None else read_object(arguments)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return _decided(
        setup,
        lambda those: those.approve(approval_id, by=by or _user(), reason=reason, arguments=given),
    )


@approvals.command("deny")
@click.argument("approval_id", metavar="ID")
@_by
@click.option("--reason", required=True, help="Why; it is what the model is told.")
@pass_setup
def deny_call(setup: Setup, approval_id: str, by: str | None, reason: str) -> int:
    """Refuse a call."""
    return _decided(setup, lambda those: those.deny(approval_id, by=by or _user(), reason=reason))


def _decided(setup: Setup, decide: Callable[[ApprovalOperations], ApprovalRecord]) -> int:
    """Decide, and say what came of it; exit with 1 where that cannot be decided, or not by this person."""
    from toolpost.calls.errors import ConfigurationError, InputValidationError, PermissionDeniedError

    with setup.operating() as executor:
        those = _operations(executor)
        try:
            record = decide(those)
        except (ConfigurationError, InputValidationError, PermissionDeniedError) as error:
            complain(error.message, error.code, setup.json)
            return ExitCode.FAILED
    if setup.json:
        write_json(_told(record), setup.out)
    elif record.edited_from is not None:
        say(f"{record.edited_from} is approved with other arguments, as {record.id}", setup.out)
    else:
        say(f"{record.id} is {record.state}", setup.out)
    return ExitCode.OK


def _operations(executor: Any) -> ApprovalOperations:
    """Refuse records that only this process sees: nothing waits there."""
    if executor.records.url.startswith("memory:"):
        raise click.UsageError(
            "records_url names no store that other processes share; set TOOL_EXECUTOR_RECORDS_URL, or "
            "--data to the data directory of a gateway"
        )
    return executor.approvals  # type: ignore[no-any-return]


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise click.UsageError("who decides cannot be told here; give --by NAME") from None


def _told(record: ApprovalRecord) -> dict[str, Any]:
    from toolpost.security.unseen import visible_in

    told: dict[str, Any] = visible_in(record.to_dict(time.time()))
    return told


def _left(record: ApprovalRecord, now: float) -> str:
    left_s = record.expires_at - now
    if left_s <= 0 or record.standing(now) not in ("pending", "approved", "denied", "edited"):
        return ""
    return (
        f"{left_s / 3600:.1f} h" if left_s >= 3600 else f"{left_s / 60:.0f} min" if left_s >= 60 else f"{left_s:.0f} s"
    )


def _short(value: Any) -> str:
    from toolpost.security.unseen import visible_in
    from toolpost.transports.cli_show import to_json

    text: str = to_json(visible_in(value)).decode()
    return text if len(text) <= 200 else f"{text[:200]}..."
