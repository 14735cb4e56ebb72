"""Commands for users' grants at OAuth providers: list them, revoke one, seal all with a new key."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import click

from toolpost.transports.cli_options import ExitCode, Group, Setup, pass_setup
from toolpost.transports.cli_show import say, write_json, write_table
from toolpost.transports.cli_stores import check_shared

if TYPE_CHECKING:
    from toolpost.security.oauth import AuthorizationManager
    from toolpost.security.oauth_kept import GrantRow


@click.group(cls=Group)
def grants() -> None:
    """Look at what users have granted at OAuth providers, and end it."""


@grants.command("list")
@click.option("--user", help="Only this user's.")
@click.option("--tenant", help="Only this tenant's.")
@pass_setup
def list_grants(setup: Setup, user: str | None, tenant: str | None) -> None:
    """List grants; no token is shown."""
    with setup.operating() as executor:
        found = _manager(executor).grants(tenant=tenant, user_id=user)
    if setup.json:
        write_json([row._asdict() for row in found], setup.out)
        return
    rows = [(row.tenant, row.user_id, row.provider, _scopes(row), _ends(row)) for row in found]
    write_table(("tenant", "user", "provider", "scopes", "ends"), rows, setup.out)


@grants.command()
@click.argument("user")
@click.option("--tenant", help="The user's tenant.")
@click.option("--provider", default="default", show_default=True, help="The name of the provider.")
@pass_setup
def revoke(setup: Setup, user: str, tenant: str | None, provider: str) -> int:
    """End the grant of USER: it is forgotten here, and the provider is told to end its tokens."""
    with setup.operating() as executor:
        ended = _manager(executor).revoke_authorization(user, provider=provider, tenant=tenant)
    if setup.json:
        told = {"found": ended.found, "at_provider": ended.at_provider, "why": ended.why}
        write_json(told, setup.out)
    elif not ended:
        say(f"{user} has no grant at {provider}")
    elif ended.at_provider:
        say(f"the grant of {user} at {provider} is ended, here and there", setup.out)
    else:
        say(f"the grant of {user} at {provider} is forgotten here, but not ended there: {ended.why}", setup.out)
    return ExitCode.OK if ended and ended.at_provider is not False else ExitCode.FAILED


@grants.command()
@pass_setup
def rotate(setup: Setup) -> int:
    """Seal all grants with the newest secret_key, so that secret_key_previous can be taken away."""
    with setup.operating() as executor:
        done, lost = _manager(executor).rotate_secret_key()
    if setup.json:
        write_json({"sealed": done, "unreadable": lost}, setup.out)
    else:
        say(f"sealed {done} anew", setup.out)
        if lost:
            say(f"{lost} cannot be opened with secret_key or secret_key_previous, and were left as they are")
    return ExitCode.FAILED if lost else ExitCode.OK


def _manager(executor: Any) -> AuthorizationManager:
    manager = executor.authorizations
    check_shared(executor, "records")
    return manager  # type: ignore[no-any-return]


def _scopes(row: GrantRow) -> str:
    return "(sealed with another key)" if row.scopes is None else " ".join(row.scopes)


def _ends(row: GrantRow) -> str:
    if row.refreshable:
        return "when revoked"
    if row.expires_at is None:
        return "" if row.scopes is None else "never"
    return datetime.datetime.fromtimestamp(row.expires_at, datetime.UTC).isoformat(timespec="seconds")
