"""Commands for what the stores remember: migrate the database, settle claims, hold shared circuits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from toolpost.transports.cli_options import Command, ExitCode, Group, Setup, pass_setup
from toolpost.transports.cli_show import say, to_json, write_json, write_table

if TYPE_CHECKING:
    from toolpost.engine.operators import CircuitOperations, ClaimOperations
    from toolpost.stores import Circuit, Claim


@click.command(cls=Command)
@pass_setup
def migrate(setup: Setup) -> None:
    """Bring the tables of records_url up to this version; safe to run at any time, by any number at once."""
    with setup.operating() as executor:
        records = executor.records
        applied = records.migrate()
        if setup.json:
            write_json(
                {"records": records.url, "applied": list(applied), "version": records.schema_version()}, setup.out
            )
        else:
            done = f"applied {'; '.join(applied)}" if applied else "nothing to do"
            say(f"{records.url}: {done}; the schema is at version {records.schema_version()}", setup.out)


@click.group(cls=Group)
def claims() -> None:
    """Look at idempotency claims, and settle those whose end nobody knows."""


_where = click.option(
    "--in",
    "where",
    type=click.Choice(["records", "state"]),
    default="records",
    show_default=True,
    help="Which store: that of records_url, or that of state_url.",
)


@claims.command("list")
@_where
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@pass_setup
def list_claims(setup: Setup, where: str, limit: int) -> None:
    """List claims whose end nobody knows, oldest first."""
    with setup.operating() as executor:
        found = _operations(executor, where).unsettled(limit)
    if setup.json:
        write_json([_claim(claim) for claim in found], setup.out)
    else:
        rows = [(c.key, c.tool, c.tenant, c.state, c.owner) for c in found]
        write_table(("key", "tool", "tenant", "state", "owner"), rows, setup.out)


@claims.command("show")
@_where
@click.argument("key")
@pass_setup
def show_claim(setup: Setup, where: str, key: str) -> int:
    """Show how one claim stands."""
    with setup.operating() as executor:
        claim = _operations(executor, where).show(key)
    if claim is None:
        say(f"there is no claim {key!r}")
        return ExitCode.FAILED
    write_json(_claim(claim), setup.out)
    return ExitCode.OK


@claims.command()
@_where
@click.argument("key")
@pass_setup
def forget(setup: Setup, where: str, key: str) -> int:
    """Let a key be used anew: the next call with it runs the body."""
    with setup.operating() as executor:
        done = _operations(executor, where).forget(key)
    return _said(done, f"{key} may be used anew", f"{key} is held by a running call, or is not there", setup)


@claims.command()
@_where
@click.argument("key")
@click.argument("result", metavar="JSON")
@pass_setup
def settle(setup: Setup, where: str, key: str, result: str) -> int:
    """Say that the call of a claim of unknown end succeeded, with this result for all who ask again."""
    from toolpost.transports.wire import parse_json

    value = parse_json(result)
    with setup.operating() as executor:
        done = _operations(executor, where).settle(key, value)
    return _said(done, f"{key} is settled", f"{key} is no claim of unknown end; `toolpost claims show` tells", setup)


@click.group(cls=Group)
def circuits() -> None:
    """Look at shared circuits, and hold them open or closed."""


@circuits.command("show")
@click.argument("key")
@pass_setup
def show_circuit(setup: Setup, key: str) -> None:
    """Show how a shared circuit stands."""
    with setup.operating() as executor:
        _write_circuit(setup, key, _circuits(executor).show(key, shared=True))


@circuits.command("open")
@click.argument("key")
@pass_setup
def open_circuit(setup: Setup, key: str) -> None:
    """Hold a shared circuit open: every call that asks it is refused."""
    _hold(setup, key, "open")


@circuits.command("close")
@click.argument("key")
@pass_setup
def close_circuit(setup: Setup, key: str) -> None:
    """Hold a shared circuit closed: no call is refused by it."""
    _hold(setup, key, "closed")


@circuits.command("reset")
@click.argument("key")
@pass_setup
def reset_circuit(setup: Setup, key: str) -> None:
    """Let a shared circuit go on by itself, closed and with nothing counted."""
    _hold(setup, key, None)


def _hold(setup: Setup, key: str, state: Literal["open", "closed"] | None) -> None:
    """Force a shared circuit, or (None) let it go, and show how it stands then."""
    with setup.operating() as executor:
        circuits = _circuits(executor)
        if state is None:
            circuits.reset(key, shared=True)
        else:
            circuits.force(key, state, shared=True)
        _write_circuit(setup, key, circuits.show(key, shared=True))


def _operations(executor: Any, where: str) -> ClaimOperations:
    check_shared(executor, where)
    return executor.claims(where)  # type: ignore[no-any-return]


def _circuits(executor: Any) -> CircuitOperations:
    check_shared(executor, "state")
    return executor.circuits  # type: ignore[no-any-return]


def check_shared(executor: Any, where: str) -> None:
    """Refuse a store that only this process sees: nothing is there to look at, and nobody would see a change."""
    store = executor.records if where == "records" else executor.state
    if store.url.startswith("memory:"):
        also = ", or --data to the data directory of a gateway" if where == "records" else ""
        raise click.UsageError(
            f"{where}_url names no store that other processes share; set TOOL_EXECUTOR_{where.upper()}_URL{also}"
        )


def _claim(claim: Claim) -> dict[str, Any]:
    told = claim._asdict()
    told["result"] = None if claim.result is None else claim.result.decode("utf-8", "replace")
    return told


def _write_circuit(setup: Setup, key: str, circuit: Circuit) -> None:
    told = {"key": key, **circuit._asdict()}
    if setup.json:
        write_json(told, setup.out)
    else:
        say(f"{key}: {circuit.forced and 'forced '}{circuit.state}", setup.out)
        if circuit.cause:
            say(f"tripped by {circuit.cause}", setup.out)


def _said(done: bool, yes: str, no: str, setup: Setup) -> int:
    if setup.json:
        click.echo(to_json({"done": done}), file=setup.out)
    elif done:
        say(yes, setup.out)
    if not done:
        say(no)
    return ExitCode.OK if done else ExitCode.FAILED
