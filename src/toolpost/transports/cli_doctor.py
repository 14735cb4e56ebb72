"""`toolpost doctor`: whether this machine and configuration can run tools, and the way out where they cannot."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolpost.transports.cli_doctor_serving import examine_data, examine_extras
from toolpost.transports.cli_findings import Finding, Status, numbers, writable
from toolpost.transports.cli_options import TOOLBOX, Command, ExitCode, Setup, add_tools, pass_setup
from toolpost.transports.cli_show import console, is_styled, printable, say, write_json

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor
    from toolpost.engine.sandboxes import Examined
    from toolpost.engine.settings import ExecutorConfig

REQUIRED = {"click": "8.1", "jsonschema-rs": "0.60", "orjson": "3.11", "pydantic": "2.12", "rich": "14"}
"""What toolpost depends on, and the lowest version of each."""

MIN_PYTHON = (3, 11)


@click.command(cls=Command)
@pass_setup
def doctor(setup: Setup) -> int:
    """Check that everything tools need is there and works."""
    findings = []
    for finding in _examine(setup):
        findings.append(finding)
        if not setup.json:
            _show(finding, setup)
    if setup.json:
        write_json([asdict(finding) for finding in findings], setup.out)
    return ExitCode.FAILED if any(finding.status == "fail" for finding in findings) else ExitCode.OK


def _show(finding: Finding, setup: Setup) -> None:
    text = f"{finding.status:<4}  {finding.check}: {finding.found}"
    if is_styled(setup.out):
        colour = {"ok": "green", "warn": "yellow", "fail": "red"}[finding.status]
        from rich.text import Text

        line = Text(printable(text))
        line.stylize(colour, 0, len(finding.status))
        console(setup.out).print(line, soft_wrap=True)
    else:
        say(text, setup.out)
    if finding.way_out:
        say(f"      {finding.way_out}", setup.out)


def _examine(setup: Setup) -> Iterator[Finding]:
    yield _python()
    yield from _packages()
    config, finding = _configuration(setup)
    yield finding
    yield from _folders(config)
    yield from _directories(config)
    yield from _stores(config)
    yield from examine_extras(config)
    yield from examine_data(config)
    yield from _sandboxes(config)
    yield from _tools(setup, config)
    yield _attempt("event loop", _loop_works, "asyncio cannot run here; see what limits processes and sockets")
    yield _attempt("threads", _threads_work, "no thread can be started; raise the limit of processes (ulimit -u)")
    yield _clock()


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= MIN_PYTHON:
        return Finding(status="ok", check="python", found=f"{version} ({sys.executable})")
    needed = ".".join(map(str, MIN_PYTHON))
    return Finding(status="fail", check="python", found=version, way_out=f"install Python {needed} or newer")


def _packages() -> Iterator[Finding]:
    from importlib import metadata

    for name, lowest in REQUIRED.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(status="fail", check=name, found="missing", way_out=f"pip install '{name}>={lowest}'")
            continue
        if numbers(version) >= numbers(lowest):
            yield Finding(status="ok", check=name, found=version)
        else:
            found = f"{version}, and {lowest} or newer is needed"
            yield Finding(status="fail", check=name, found=found, way_out=f"pip install --upgrade '{name}>={lowest}'")


def _configuration(setup: Setup) -> tuple[ExecutorConfig, Finding]:
    """The configuration, or the defaults where it is wrong, so that the other checks can go on."""
    from toolpost.calls.errors import ConfigurationError
    from toolpost.engine.settings import ExecutorConfig, refuse_unsupported

    try:
        config = setup.load_config()
        refused = refuse_unsupported(config)
    except ConfigurationError as exc:
        return ExecutorConfig(), _bad_configuration(exc.message)
    if refused:
        return config, _bad_configuration("; ".join(refused))
    changed = sum(setting.origin != "default" for setting in config.effective())
    found = f"valid, {changed} settings are not at their defaults"
    return config, Finding(status="ok", check="configuration", found=found)


def _bad_configuration(found: str) -> Finding:
    way_out = "mend it where the brackets say; `toolpost config` lists all settings"
    return Finding(status="fail", check="configuration", found=found, way_out=way_out)


def _folders(config: ExecutorConfig) -> Iterator[Finding]:
    import tempfile

    try:
        temporary = Path(tempfile.gettempdir())
    except FileNotFoundError as exc:
        way_out = "set TMPDIR to a directory that can be written"
        yield Finding(status="fail", check="temporary files", found=str(exc), way_out=way_out)
    else:
        yield writable("temporary files", temporary, "set TMPDIR to a directory that can be written")
    yield writable("sandbox_root", config.sandbox_root, "set sandbox_root to a directory that can be written")


def _directories(config: ExecutorConfig) -> Iterator[Finding]:
    check = "allowed directory"
    if not config.allowed_directories:
        yield Finding(status="ok", check="allowed directories", found="none are set; each file tool decides")
    for folder in config.allowed_directories:
        if not folder.is_dir():
            problem = f"{folder} is no directory" if folder.exists() else f"{folder} does not exist"
        elif not os.access(folder, os.R_OK | os.X_OK):
            problem = f"{folder} cannot be read"
        else:
            yield Finding(status="ok", check=check, found=str(folder))
            continue
        way_out = "make it, let it be read, or take it out of allowed_directories"
        yield Finding(status="fail", check=check, found=problem, way_out=way_out)


def _sandboxes(config: ExecutorConfig) -> Iterator[Finding]:
    """What each back end can hold programs to. That none can is a failure only where tools need it."""
    from toolpost.calls.errors import ConfigurationError
    from toolpost.engine.sandboxes import examined

    try:
        found = examined(config)
    except ConfigurationError as exc:
        yield Finding(status="fail", check="sandbox", found=exc.message, way_out="set sandbox_backend to auto")
        return
    taken = next((one for one in found if not one.lacks), None)
    for one in found:
        check = f"sandbox {one.backend}"
        if not one.lacks:
            first = "runs programs" if one is taken else "could run programs"
            yield Finding(status="ok", check=check, found=f"{first}; {_held(one)}")
            continue
        lacks = f"lacks {_controls(one.lacks, 0, one.lacks_all)}"
        if taken is not None:
            yield Finding(status="ok", check=check, found=f"is not needed; {lacks}")
        else:
            status: Status = "fail" if config.sandbox_tools else "warn"
            yield Finding(status=status, check=check, found=lacks, way_out=_controls(one.lacks, 1, one.lacks_all))


def _held(one: Examined) -> str:
    """By what each control is held, those held by the same together; and what is not."""
    by: dict[str, list[str]] = {}
    for control, what in one.held.items():
        by.setdefault(what, []).append(f"{control} (best effort)" if control in one.best_effort else control)
    said = "; ".join(f"{', '.join(controls)} by {what}" for what, controls in by.items())
    return f"{said}; without {_controls(one.missing, 0)}" if one.missing else said


def _controls(missing: Mapping[str, tuple[str, str]], which: int, are_all: bool = False) -> str:
    """Controls that are missing for the same reason (0), or have the same way out (1), together with that."""
    by: dict[str, list[str]] = {}
    for control, told in missing.items():
        by.setdefault(told[which], []).append(control)
    if are_all and len(by) == 1:
        return f"everything: {next(iter(by))}"
    return "; ".join(f"{', '.join(controls)}: {what}" for what, controls in by.items())


def _tools(setup: Setup, config: ExecutorConfig) -> Iterator[Finding]:
    """Load each reference by itself, so that one that fails does not hide another."""
    from contextlib import redirect_stdout

    from toolpost.calls.errors import ToolExecutionError
    from toolpost.engine.executor import ToolExecutor
    from toolpost.engine.registry import ToolRegistry

    setup.import_from_here()
    without = {"plugins": (), "cache_backend": "memory", "metrics_backend": "none", "lock_file": None}
    bare = config.model_copy(update=without)
    references = [*config.plugins, *dict.fromkeys(setup.tools), *([TOOLBOX] if setup.toolbox else [])]
    with redirect_stdout(sys.stderr), ToolExecutor(bare, registry=ToolRegistry()) as executor:
        for reference in references:
            check = "standard tools" if reference == TOOLBOX else f"tools {reference}"
            try:
                added = add_tools(executor, reference)
            except ToolExecutionError as exc:
                way_out = "mend the module or the reference: module:attribute or path/to/file.py:attribute"
                found = exc.message.removeprefix(f"--tools {reference}: ")
                yield Finding(status="fail", check=check, found=found, way_out=way_out)
            else:
                yield Finding(status="ok", check=check, found=f"{len(added)} load")
        yield from _lock(config, executor)
    if not references:
        way_out = "name some with --tools, or leave --no-toolbox out"
        yield Finding(status="warn", check="tools", found="none are asked for", way_out=way_out)


def _lock(config: ExecutorConfig, executor: ToolExecutor) -> Iterator[Finding]:
    """Whether the tools that load are those of the lock in force."""
    from toolpost.calls.errors import ConfigurationError
    from toolpost.engine.lock import compare
    from toolpost.security.pins import Pins

    if config.lock_file is None:
        return
    try:
        report = compare(Pins.read(config.lock_file), executor.registry)
    except ConfigurationError as exc:
        yield Finding(status="fail", check="lock", found=exc.message, way_out="write it with `toolpost lock`")
        return
    if report.fits:
        yield Finding(status="ok", check="lock", found=f"every tool is as {config.lock_file} has it")
        return
    counts = {"drifted": len(report.drifted), "unknown": len(report.unknown), "absent": len(report.absent)}
    found = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
    refused = bool(report.drifted or report.unknown)
    way_out = "`toolpost lock --check` shows what differs; after a review `toolpost lock` takes it over"
    yield Finding(status="fail" if refused else "warn", check="lock", found=f"tools are {found}", way_out=way_out)


def _attempt(check: str, works: Callable[[], str], way_out: str) -> Finding:
    try:
        return Finding(status="ok", check=check, found=works())
    except Exception as exc:
        return Finding(status="fail", check=check, found=f"{type(exc).__name__}: {exc}", way_out=way_out)


def _loop_works() -> str:
    import asyncio

    async def turn() -> str:
        async with asyncio.timeout(5):
            await asyncio.sleep(0)
            await asyncio.to_thread(lambda: None)
        return type(asyncio.get_running_loop()).__name__

    return asyncio.run(turn())


def _threads_work() -> str:
    import threading

    done = threading.Event()
    threading.Thread(target=done.set, daemon=True).start()
    if not done.wait(5):
        raise TimeoutError("a thread did not run within 5 s")
    return f"work, on {os.cpu_count() or 1} processors"


def _stores(config: ExecutorConfig | None) -> Iterator[Finding]:
    """Whether each store that is not in memory can be opened and answers."""
    if config is None:
        return
    from toolpost.engine.stores import who_answers

    for name, shown, error in who_answers(config):
        if error is None:
            yield Finding(status="ok", check=name, found=f"{shown} answers")
        else:
            way_out = f"start it, or name another in {name}_url"
            yield Finding(status="fail", check=name, found=error.message, way_out=way_out)


def _clock() -> Finding:
    """Logs and tokens need a right clock: it cannot be earlier than our own files."""
    import time
    from datetime import UTC, datetime

    now, installed = time.time(), Path(__file__).stat().st_mtime
    shown = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    if now < installed - 86_400:
        way_out = "set the clock, by NTP if it can be had"
        found = f"{shown}, which is before toolpost was installed"
        return Finding(status="warn", check="clock", found=found, way_out=way_out)
    return Finding(status="ok", check="clock", found=shown)
