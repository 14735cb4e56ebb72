"""Commands for API keys: make one, which is shown once, list them, revoke them, replace them."""

from __future__ import annotations

import datetime
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from toolpost.transports.cli_options import Command, ExitCode, Group, Setup, pass_setup
from toolpost.transports.cli_show import say, write_json, write_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from toolpost.security.api_keys import ApiKey, ApiKeys, NewApiKey

DAY_S = 86_400.0


@click.group(cls=Group)
def keys() -> None:
    """Make and revoke the API keys by which callers are known."""


_tenant = click.option("--tenant", help="The tenant; with it, keys of others are as if they were not there.")


@keys.command("create", cls=Command)
@click.option("--user", help="The user for whom the key speaks; without it, one of its own.")
@_tenant
@click.option("--scope", "scopes", multiple=True, help="A scope of its calls; repeatable.")
@click.option("--role", "roles", multiple=True, help="A role of its calls; repeatable.")
@click.option("--name", default="", help="What people call the key.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="How long it is good; without it, for good.")
@pass_setup
def create(
    setup: Setup,
    user: str | None,
    tenant: str | None,
    scopes: tuple[str, ...],
    roles: tuple[str, ...],
    name: str,
    days: float | None,
) -> None:
    """Make a key and print it on standard output: nothing shows it again."""
    expires_in_s = None if days is None else days * DAY_S
    with _keys_of(setup) as there:
        new = there.create(
            user_id=user, tenant=tenant, scopes=scopes, roles=roles, name=name, expires_in_s=expires_in_s
        )
    _write_new(setup, new)


@keys.command("list", cls=Command)
@_tenant
@click.option("--user", help="Only the keys of this user.")
@pass_setup
def list_keys(setup: Setup, tenant: str | None, user: str | None) -> None:
    """List keys by id; those that ended in the last 30 days too."""
    with _keys_of(setup) as there:
        found = there.list(tenant=tenant, user_id=user)
    if setup.json:
        write_json([_told(key) for key in found], setup.out)
        return
    rows = [
        (k.id, k.state, k.tenant, k.user_id, k.name, " ".join(k.scopes), " ".join(k.roles), _day(k.last_used_at))
        for k in found
    ]
    write_table(("id", "state", "tenant", "user", "name", "scopes", "roles", "last used"), rows, setup.out)


@keys.command("revoke", cls=Command)
@click.argument("key_id", metavar="ID")
@_tenant
@pass_setup
def revoke(setup: Setup, key_id: str, tenant: str | None) -> int:
    """Refuse a key from now on; other processes do so within 5 seconds."""
    with _keys_of(setup) as there:
        done = there.revoke(key_id, tenant=tenant)
    if setup.json:
        write_json({"revoked": done}, setup.out)
    elif done:
        say(f"the key {_id_of(key_id)} is refused from now on", setup.out)
    return ExitCode.OK if done else _none(key_id)


@keys.command("rotate", cls=Command)
@click.argument("key_id", metavar="ID")
@_tenant
@click.option("--overlap", type=click.FloatRange(min=0), default=0.0, help="Seconds for which the old one is good yet.")
@pass_setup
def rotate(setup: Setup, key_id: str, tenant: str | None, overlap: float) -> int:
    """Make a key with the rights of another, which ends, and print it."""
    with _keys_of(setup) as there:
        new = there.rotate(key_id, tenant=tenant, overlap_s=overlap)
    if new is None:
        return _none(key_id)
    _write_new(setup, new)
    return ExitCode.OK


@contextmanager
def _keys_of(setup: Setup) -> Iterator[ApiKeys]:
    """The keys in records_url, which has to outlive this process: a key that it forgets opens nothing."""
    with setup.operating() as executor:
        if executor.records.url.startswith("memory:"):
            raise click.UsageError(
                "records_url names no store that other processes share; set TOOL_EXECUTOR_RECORDS_URL, or "
                "--data to the data directory of a gateway"
            )
        yield executor.api_keys


def _none(key_id: str) -> ExitCode:
    say(f"there is no key {_id_of(key_id)} in force; `toolpost keys list` shows all")
    return ExitCode.FAILED


def _write_new(setup: Setup, new: NewApiKey) -> None:
    if setup.json:
        write_json({"key": new.secret, **_told(new.key)}, setup.out)
    else:
        click.echo(new.secret, file=setup.out)
        say(f"the key {new.key.id} of {new.key.user_id}; keep it now, nothing shows it again")


def _told(key: ApiKey) -> dict[str, Any]:
    told = {field: getattr(key, field) for field in key.__slots__}
    return told | {"scopes": list(key.scopes), "roles": list(key.roles)}


def _id_of(text: str) -> str:
    """An id to be shown, also where the whole key was given, which must not be."""
    return text.split("_")[1][:16] if text.startswith("tp_") else text


def _day(at: float | None) -> str:
    return "" if at is None else datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M")


__all__ = ["keys"]
