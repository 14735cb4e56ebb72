"""`toolpost run`: a file of tool calls in any mix of formats, in flat memory, continued where it was cut."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import IO, TYPE_CHECKING, Any

import click

from toolpost.transports.cli_options import FORMATS, Command, ExitCode, Setup, pass_setup
from toolpost.transports.cli_show import Meter, is_terminal, milliseconds, say, to_json, write_table

if TYPE_CHECKING:
    from toolpost.transports.cli_results import Summary
    from toolpost.transports.cli_running import Run


@click.command(cls=Command)
@click.argument("calls", metavar="CALLS.jsonl")
@click.option(
    "-o", "--output", metavar="RESULTS.jsonl", help="Write results here; a run that was cut goes on from them."
)
@click.option("--restart", is_flag=True, help="Begin anew: forget the results that are there.")
@click.option("--format", type=click.Choice(FORMATS), help="The format of all calls; otherwise detected.")
@click.option(
    "--results-format",
    type=click.Choice(("toolpost", "same")),
    default="toolpost",
    help="Results as toolpost writes them, or as the provider wants them that made the call.",
)
@click.option("--concurrency", type=click.IntRange(min=1), help="Calls under way at a time [io_concurrency].")
@click.option("--fail-fast", is_flag=True, help="Stop at the first call that is not ok.")
@click.option("--deadline", type=click.FloatRange(min=0, min_open=True), help="Seconds the whole run may take.")
@click.option("--user", help="The user for whom all calls are made, whatever they say themselves.")
@click.option("--scope", "scopes", multiple=True, help="A permission the caller has; repeatable.")
@click.option("--exit-zero", is_flag=True, help="Exit with 0 even when some calls are not ok.")
@click.option("--server", metavar="URL", help="Send the calls to the gateway there (key in TOOLPOST_API_KEY).")
@click.option("--serve", is_flag=True, help="Start a gateway for the run, and send the calls to it.")
@pass_setup
def run(
    setup: Setup,
    /,
    calls: str,
    output: str | None,
    restart: bool,
    results_format: str,
    deadline: float | None,
    scopes: tuple[str, ...],
    exit_zero: bool,
    server: str | None,
    serve: bool,
    **options: Any,
) -> int:
    """Run a file of tool calls, or - for standard input.

    Each line holds a call, a list of calls or a provider's whole message, in any of the formats. Each result
    is one line that names the line of its call; results come in the order in which calls end.
    """
    import asyncio

    from toolpost.transports.cli_input import open_input
    from toolpost.transports.cli_results import open_results
    from toolpost.transports.cli_running import Options, Run

    wanted = Options(**options, as_called=results_format == "same", deadline_s=deadline, scopes=frozenset(scopes))
    to_file = output not in (None, "-")
    if restart and not to_file:
        raise click.UsageError("--restart is about the file of results; name it with -o")
    if (server is not None or serve) and scopes:
        raise click.UsageError("--scope is for runs without a gateway, which knows its callers' scopes itself")
    if output is not None and calls != "-" and os.path.exists(output) and os.path.samefile(output, calls):
        raise click.UsageError(f"-o {output} is the file of calls itself; name another")
    with (
        closing(open_input(calls, wanted.format or "")) as source,
        _runner(setup, server, serve) as executor,
        closing(open_results(output, setup.out, restart=restart)) as results,
    ):
        earlier = results.summary.total.calls
        if earlier:
            say(f"{output} holds {earlier:,} results; calls that have one are not run again")
        shown = to_file or not is_terminal(setup.out)
        with Meter(sys.stderr, source.count, shown=shown) as meter:
            one = Run(executor, source, results, wanted, meter)
            with one.interruptible():
                asyncio.run(one.go())
        changed = results.changed
        dropped = results.finish(one.lines if source.exhausted else None)
        summary = results.summary
    if changed or dropped:
        say(f"{calls} has changed: {changed:,} lines run again, {dropped:,} old results dropped")
    about: dict[str, Any] = {"lines": one.lines, "earlier": earlier, "changed_lines": changed, "dropped": dropped}
    about.update(run=one.calls, elapsed_s=round(one.elapsed_s, 3), ended=one.reason or "end", output=output)
    stream = setup.out if to_file else sys.stderr
    if setup.json:
        say(to_json({**about, **summary.to_dict()}).decode(), stream)
    else:
        _write_summary(summary, stream)
        rate = one.calls / max(one.elapsed_s, 1e-3)
        say(f"{one.calls:,} calls run in {one.elapsed_s:.3g} s ({rate:,.0f}/s)", stream)
    good = exit_zero or summary.total.ok == summary.total.calls
    return _ended(one, calls, output if to_file else None, good)


@contextmanager
def _runner(setup: Setup, server: str | None, serve: bool) -> Iterator[Any]:
    """What runs the calls: an executor in this process, a gateway elsewhere, or one that is started for them."""
    if server is None and not serve:
        with setup.executor() as executor:
            yield executor
        return
    if server is not None and serve:
        raise click.UsageError("--server names a gateway, and --serve starts one; give one of them")
    try:
        from toolpost.transports.cli_remote import Gateway, started
    except ModuleNotFoundError as missing:
        from toolpost.calls.errors import ConfigurationError

        raise ConfigurationError(
            f"calls over HTTP need the package {missing.name}; install toolpost[serve]"
        ) from missing
    concurrency = setup.load_config().io_concurrency
    if server is not None:
        yield Gateway(server, concurrency)
        return
    with started(setup) as url:
        say(f"the gateway answers at {url}")
        yield Gateway(url, concurrency)


def _write_summary(summary: Summary, stream: IO[str]) -> None:
    numbers = ("calls", "ok", "rejected", "failed", "cache hits", "replays", "p50", "p95")
    tallies = [*sorted(summary.tools.items()), *([("all", summary.total)] if len(summary.tools) > 1 else [])]
    rows = [
        (
            name,
            *(t.calls, t.ok, t.rejected, t.failed, t.cache_hits, t.replays),
            *(milliseconds(t.quantile_ms(part)) for part in (0.5, 0.95)),
        )
        for name, t in tallies
    ]
    if rows:
        write_table(("tool", *numbers), rows, stream, numbers=numbers)
    if summary.codes:
        say("", stream)
        write_table(("error", "calls"), summary.codes.most_common(), stream, numbers=("calls",))
    say("", stream)


def _ended(run: Run, calls: str, output: str | None, good: bool) -> int:
    """Say how to go on when the run ended early; the exit code."""
    from toolpost.transports.cli_running import FAILED, INTERRUPTED, TOO_LATE

    if run.reason is not None:
        line, failure = run.failed_at
        why = {
            INTERRUPTED: f"interrupted after line {run.lines:,} of {calls}",
            TOO_LATE: f"the deadline passed after line {run.lines:,} of {calls}",
            FAILED: f"stopped at line {line:,} of {calls} ({failure})",
        }
        how = (
            f"the same command goes on from {output}"
            if output is not None
            else "with -o FILE a later run could go on from there"
        )
        say(f"{why[run.reason]}; {how}")
    if run.reason == INTERRUPTED:
        return 128 + run.signal
    if run.reason == TOO_LATE:
        return ExitCode.SOME_FAILED
    return ExitCode.OK if good else ExitCode.SOME_FAILED
