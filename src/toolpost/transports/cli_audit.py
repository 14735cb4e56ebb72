"""The commands `toolpost audit`: verify the log, look at it, export it, put old rows into files."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from toolpost.transports.cli_options import Command, ExitCode, Group, Setup, pass_setup
from toolpost.transports.cli_show import printable, say, to_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from toolpost.engine.audit_operations import AuditOperations, Only

FOLLOW_S = 0.5
"""How often `tail -f` looks for new rows."""
SHOWN = 50
"""Findings, and calls without an end, that are written for people."""


@click.group(cls=Group)
def audit() -> None:
    """Verify the audit log, look at it, export it, and put old rows into files."""


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--call", help="Only rows about this call."),
        click.option("--kind", help="Only rows of this kind: start, finish, refused, opened, rotated, ..."),
        click.option("--tenant", help="Only rows about calls of this tenant."),
        click.option("--tool", help="Only rows about this tool."),
        click.option("--user", help="Only rows about calls of this user."),
        click.option("--until", metavar="TIME", help="Only rows before this time (UTC unless it says otherwise)."),
        click.option("--since", metavar="TIME", help="Only rows from this time on."),
    ):
        command = option(command)
    return command


@audit.command(cls=Command)
@click.option("--anchor", "anchors", metavar="SEQ:HASH", multiple=True, help="What the log had at SEQ; repeatable.")
@click.option(
    "--file",
    "files",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Verify this file of JSON lines, without the store; repeatable, oldest first.",
)
@click.option("--then-records", is_flag=True, help="Go on from the files to the rows in the store.")
@pass_setup
def verify(setup: Setup, anchors: tuple[str, ...], files: tuple[Path, ...], then_records: bool) -> int:
    """Find rows that were altered, deleted, put in, moved or cut off. Exit code 1: something was.

    An anchor is where the chain stood once. The log of the program has one each 1,000 rows, and this command prints
    one; kept where nobody who can change the store can change it, it shows whether the end of the log was cut off.
    """
    from toolpost.engine.audit_operations import anchor_of, verify_files

    held = [anchor_of(text) for text in anchors]
    if then_records and not files:
        raise click.UsageError("--then-records goes on from files; name them with --file")
    if files and not then_records:
        report = verify_files(files, _keys(setup), held)
    else:
        with _operations(setup) as operations:
            report = operations.verify(held, files)
    if setup.json:
        write_json(report.to_dict(), setup.out)
    else:
        _write_report(report, setup.out)
    return ExitCode.OK if report.ok else ExitCode.FAILED


def _write_report(report: Any, out: IO[str]) -> None:
    for finding in report.findings[:SHOWN]:
        call = f" (call {finding.call})" if finding.call else ""
        say(f"{finding.what}: {finding.said}{call}", out)
    left = len(report.findings) - SHOWN
    if left > 0 or report.further:
        say(f"and {max(0, left) + report.further} more", out)
    if report.open:
        say(f"{len(report.open)} calls began and have no end: they run, or their process was killed:", out)
        for one in report.open[:SHOWN]:
            say(f"  row {one.seq}, {one.at}: {one.tool}, call {one.call}", out)
    if report.lost:
        say(f"{report.lost} rows could not be written while the store was away; rows of kind lost say when", out)
    if not report.rows:
        say("the log has no rows", out)
        return
    keyed = "" if not report.unkeyed else f", {report.unkeyed} of them without a key, which proves little"
    verdict = "are as they were written" if report.ok else "were gone through; the log is NOT as it was written"
    say(f"rows {report.first} to {report.last} ({report.rows}{keyed}) {verdict}", out)
    if report.apart:
        say("they are a choice of rows: whether others were taken from the file, it cannot show", out)
    elif report.first > 1:
        say(f"rows before {report.first} were not looked at; --file takes the files that rotation put them into", out)
    say(f"anchor: {report.anchor}", out)


@audit.command(cls=Command)
@click.option("--format", type=click.Choice(["jsonl", "csv", "cef"]), default="jsonl", show_default=True, help="How.")
@_filters
@click.option("-o", "--output", metavar="FILE", default="-", help="Into this new file, which only its owner may read.")
@pass_setup
def export(setup: Setup, /, format: Any, output: str, **filters: str | None) -> None:
    """Write rows into a file, or to standard output. Files of JSON lines can be verified by `audit verify --file`."""
    only = _only(filters)
    with _operations(setup) as operations:
        if output == "-":
            setup.out.flush()
            stream = getattr(setup.out, "buffer", None)
            if stream is None:
                raise click.UsageError("standard output takes no bytes here; name a file with -o")
            count = operations.export(stream, format, only)
            stream.flush()
        else:
            count = operations.export_to(Path(output), format, only)
    say(f"{count} rows")


@audit.command(cls=Command)
@click.option("-n", "--lines", type=click.IntRange(min=0), default=10, show_default=True, help="So many rows.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new rows as they come.")
@_filters
@pass_setup
def tail(setup: Setup, /, lines: int, follow: bool, **filters: str | None) -> None:
    """Show the newest rows."""
    from toolpost.calls.errors import StoreUnavailableError

    only = _only(filters)
    with _operations(setup) as operations:
        after = next((row.seq for row in operations.newest(1)), 0)
        _write_rows(setup, [row for row in operations.newest(lines, only) if row.seq <= after])
        away = False
        while follow:
            before = after
            try:
                found, after = operations.since(after, only)
            except StoreUnavailableError as error:
                if not away:
                    say(f"{error.message}; waiting until it is back")
                away, found = True, []
            else:
                away = False
            _write_rows(setup, found)
            setup.out.flush()
            if after == before:  # else there may be more to be looked through
                time.sleep(FOLLOW_S)


def _write_rows(setup: Setup, rows: Iterable[Any]) -> None:
    from toolpost.engine.audit_operations import AuditOperations

    for row in rows:
        about = AuditOperations.told(row)
        if setup.json:
            click.echo(to_json(about), file=setup.out)
        else:
            say(_line(about), setup.out)


def _line(about: dict[str, Any]) -> str:
    """A row for people: when, which, what, of whom, how it ended."""
    ended = ", ".join(str(about[name]) for name in ("status", "code", "stage", "rule", "outcome") if about.get(name))
    more = [f"{name}={about[name]}" for name in ("user", "tenant", "call") if about.get(name)]
    if "ms" in about:
        more.append(f"{about['ms']:g} ms")
    if isinstance(about.get("data"), dict):
        more.append(to_json(about["data"]).decode())
    parts = [str(about.get(name, "")) for name in ("at", "seq", "kind", "tool")]
    return printable(" ".join(" ".join(part for part in (*parts, ended, *more) if part).split()))


@audit.command(cls=Command)
@click.option("--before", metavar="TIME", help="Take the rows that are older than this.")
@click.option("--keep", type=click.IntRange(min=0), help="Take all but so many of the newest.")
@click.option("--anchor", "anchors", metavar="SEQ:HASH", multiple=True, help="What the log had at SEQ; repeatable.")
@click.option("--to", "to", type=click.Path(path_type=Path), required=True, help="The new file that they go to.")
@pass_setup
def rotate(setup: Setup, before: str | None, keep: int | None, anchors: tuple[str, ...], to: Path) -> None:
    """Put the oldest rows into a file of JSON lines, and take them out of the store.

    The log is verified first; the file is synced and read back before a row goes. The chain goes on across both:
    `toolpost audit verify --file FILE --then-records` verifies it.
    """
    from toolpost.engine.audit_operations import anchor_of, time_of

    if (before is None) == (keep is None):
        raise click.UsageError("say which rows go: either --before TIME or --keep N")
    with _operations(setup) as operations:
        held = [anchor_of(text) for text in anchors]
        done = operations.rotate(to, before=None if before is None else time_of(before), keep=keep, anchors=held)
    if setup.json:
        write_json(done._asdict() | {"file": str(to)}, setup.out)
    elif done.rows:
        say(f"rows {done.first} to {done.last} ({done.rows}) are in {to}, SHA-256 {done.sha256}", setup.out)
    else:
        say("there is no row to take", setup.out)


def _only(filters: dict[str, str | None]) -> Only:
    from toolpost.engine.audit_operations import Only, time_of

    times = {name: time_of(text) for name in ("since", "until") if (text := filters.pop(name)) is not None}
    return Only(**filters, **times)


@contextmanager
def _operations(setup: Setup) -> Iterator[AuditOperations]:
    with setup.operating() as executor:
        if not executor.records.durable:
            raise click.UsageError(
                "records_url names no store that other processes share; set TOOL_EXECUTOR_RECORDS_URL, or "
                "--data to the data directory of a gateway"
            )
        yield executor.audit


def _keys(setup: Setup) -> Mapping[str, bytes]:
    from toolpost.engine.auditing import keys_without_executor

    return keys_without_executor(setup.load_config())
