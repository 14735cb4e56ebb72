"""`toolpost lock`: pin what models are told of the tools there are, or compare the tools with the pins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolpost.transports.cli_options import Command, ExitCode, Setup, pass_setup
from toolpost.transports.cli_show import say, write_json

if TYPE_CHECKING:
    from toolpost.engine.lock import LockReport
    from toolpost.security.pins import Pins

DEFAULT = "toolpost.lock"


@click.command(cls=Command)
@click.option("-o", "--output", metavar="FILE", help=f"The lock; that of lock_file, or {DEFAULT}, without it.")
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 where tools and lock differ, and say how.")
@pass_setup
def lock(setup: Setup, output: str | None, check: bool) -> int:
    """Pin the tools there are: what models are told of them, and what stands between models and their bodies.

    With the setting lock_file, a tool that differs from its pin, or has none, is refused.
    """
    from toolpost.engine.lock import compare, lock_of, tools_of, unseen_of, write
    from toolpost.security.pins import Pins

    path = Path(output) if output is not None else setup.load_config().lock_file or Path(DEFAULT)
    with setup.executor(lock_file=None) as executor:
        registry = executor.registry
        tools = tools_of(registry)
        odd = unseen_of(tools)
        if check:
            return _told(setup, path, compare(Pins.read(path), registry), odd)
        before = _earlier(path)
        differed = None if before is None else compare(before, registry)
        changed = write(lock_of(registry), path)
    if setup.json:
        told = {"lock": str(path), "tools": len(tools), "changed": changed, "unseen": odd}
        write_json({**told, "differed": None if differed is None else differed.to_dict()}, setup.out)
        return ExitCode.OK
    _warn(odd)
    for sentence in differed.sentences() if differed is not None else ():
        say(sentence, setup.out)
    say(f"{path}: {len(tools)} tools are locked" + ("" if changed else ", as before"), setup.out)
    return ExitCode.OK


def _earlier(path: Path) -> Pins | None:
    """The lock that is there; None where there is none, or one that cannot be read. Any other file is let be."""
    from toolpost.calls.errors import ConfigurationError
    from toolpost.security.pins import Pins

    if not path.exists():
        return None
    try:
        return Pins.read(path)
    except ConfigurationError as error:
        if b'"toolpost_lock"' not in path.read_bytes():
            raise click.UsageError(f"{path} is there and is no lock; give another name with -o") from None
        say(f"warning: {error.message}")
        return None


def _told(setup: Setup, path: Path, report: LockReport, odd: list[str]) -> int:
    if setup.json:
        write_json({"lock": str(path), **report.to_dict(), "unseen": odd}, setup.out)
    else:
        _warn(odd)
        for sentence in report.sentences():
            say(sentence, setup.out)
        if report.fits:
            say(f"{path}: every tool is as locked", setup.out)
    return ExitCode.OK if report.fits else ExitCode.FAILED


def _warn(odd: list[str]) -> None:
    for sentence in odd:
        say(f"warning: {sentence}, which no reviewer sees and a model reads")
