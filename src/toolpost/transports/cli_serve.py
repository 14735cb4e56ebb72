"""`toolpost serve`, `toolpost mcp` and `toolpost worker`: gateways and workers that run until they are told to stop."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from toolpost.transports.cli_options import Command, ExitCode, Setup, pass_setup
from toolpost.transports.cli_show import say, to_json
from toolpost.transports.cli_stores import check_shared

if TYPE_CHECKING:
    import socket

    from toolpost.engine.executor import ToolExecutor
    from toolpost.engine.settings import ExecutorConfig
    from toolpost.transports.serve_looks import Looks

F = TypeVar("F", bound="Callable[..., Any] | click.Command")

_ready_file = click.option(
    "--ready-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write where the gateway answers into this file once it does; it is removed in the end.",
)


def _as_setting(setting: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """What takes an option for a setting, as --set does."""

    def take(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value is not None:
            ctx.ensure_object(Setup).settings[setting] = str(value)

    return take


def _setting(option: str, setting: str, help: str, **more: Any) -> Callable[[F], F]:
    return click.option(option, expose_value=False, callback=_as_setting(setting), help=f"{help} [{setting}]", **more)


@click.command(cls=Command)
@_setting("--host", "serve_host", "The address to listen on.")
@_setting("--port", "serve_port", "The port; 0 takes a free one.", type=click.IntRange(0, 65535))
@_setting("--uds", "serve_uds", "A Unix socket, in place of address and port.", metavar="PATH")
@_setting("--workers", "serve_workers", "Processes that answer.", type=click.IntRange(min=1))
@_setting("--server", "serve_server", "The HTTP server.", type=click.Choice(("uvicorn", "granian")))
@_setting("--access-log", "access_log", "stdout, stderr, none, or a file.", metavar="WHERE")
@_ready_file
@pass_setup
def serve(setup: Setup, ready_file: Path | None) -> int:
    """Answer calls over HTTP and MCP until told to stop.

    With nothing else set up, records, blobs and a secret key are kept in the data directory (--data). SIGTERM and
    Ctrl-C let what runs end, a second one ends at once; SIGHUP reads the settings anew.
    """
    with setup.serving():
        config = _read(setup)
        if not setup.debug:
            logging.getLogger("toolpost.serve").setLevel(config.log_level)
        looks, one, out = _prepared(setup, config)
        told = _teller(setup, looks, ready_file)
        try:
            if config.serve_workers > 1:
                return _supervised(setup, config, one, out, looks, told)
            return _alone(setup, config, one, out, looks, told)
        finally:
            one.close()
            _forget(config, ready_file)


def _read(setup: Setup) -> ExecutorConfig:
    from toolpost.transports.serve_defaults import gateway_settings

    return gateway_settings(setup.load_config())


def _read_for_one(setup: Setup) -> ExecutorConfig:
    """The settings for one client, which may start us anywhere: nothing is kept unless a data directory is there."""
    from toolpost.transports.serve_defaults import gateway_settings, is_used

    config = setup.load_config()
    return gateway_settings(config, keeps=setup.data or is_used(config))


def _prepared(setup: Setup, config: ExecutorConfig) -> tuple[Looks, socket.socket, int]:
    """What can be refused is refused before anything listens, with an executor that is closed again."""
    from toolpost.transports.serve_checks import refuse_divided, refuse_open
    from toolpost.transports.serve_log import descriptor_of, open_access_log
    from toolpost.transports.serve_looks import Looks
    from toolpost.transports.serve_process import server_class
    from toolpost.transports.serve_sockets import address_of, listen

    server_class(config)  # which says so where it is not installed
    log = open_access_log(config.access_log, config.access_log_format)
    if log is not None:
        log.close()
    with setup.executor(config=config.model_copy()) as executor:
        warning = refuse_open(config, executor)
        refuse_divided(config, executor)
        if warning:
            say(f"warning: {warning}")
        one = listen(config)
        return Looks.of(executor, address_of(config, one)), one, descriptor_of(setup.out)


def _alone(
    setup: Setup, config: ExecutorConfig, one: socket.socket, out: int, looks: Looks, told: Callable[[str], None]
) -> int:
    from toolpost.transports.serve_process import Process, run

    async def answer(executor: ToolExecutor) -> None:
        await Process(executor, read=lambda: _read(setup), told=told).answer(one, out, looks.for_links)

    with setup.executor(config=config) as executor:
        run(answer(executor))
    return ExitCode.OK


def _supervised(
    setup: Setup, config: ExecutorConfig, one: socket.socket, out: int, looks: Looks, told: Callable[[str], None]
) -> int:
    from toolpost.transports.serve_process import run
    from toolpost.transports.serve_supervisor import Supervisor

    beginning = {"setup": _portable(setup), "base_url": looks.for_links}
    code = 0

    async def supervise() -> None:
        nonlocal code
        code = await Supervisor(config, beginning, one, out=out, read=lambda: _read(setup), told=told).run()

    run(supervise())
    return code


def _portable(setup: Setup) -> dict[str, Any]:
    """The options as another process can be told them."""
    return {one.name: getattr(setup, one.name) for one in fields(setup) if one.name not in ("out", "settings", "file")}


def _teller(setup: Setup, looks: Looks, ready_file: Path | None) -> Callable[[str], None]:
    """What tells people, files and service managers how the gateway stands."""
    from toolpost.transports.serve_notices import notify

    before = ""

    def told(state: str) -> None:
        nonlocal before
        if state == "ready" and before == "":
            if ready_file is not None:
                scratch = ready_file.with_name(f".{ready_file.name}.{os.getpid()}")
                scratch.write_text(f"{looks.base_url}\n")
                scratch.replace(ready_file)
            if setup.json:
                setup.out.write(to_json(looks.to_dict()).decode() + "\n")
                setup.out.flush()
            else:
                say(str(looks))
            notify("READY=1")
        elif state == "stopping":
            notify("STOPPING=1")
        before = state

    return told


def _forget(config: ExecutorConfig, ready_file: Path | None) -> None:
    from toolpost.transports.serve_sockets import forget

    forget(config)
    if ready_file is not None:
        ready_file.unlink(missing_ok=True)


@click.command(cls=Command)
@pass_setup
def mcp(setup: Setup) -> int:
    """Be an MCP server on standard input and output, until the input ends.

    Nothing but the protocol is written to standard output: what tools print goes to standard error. What it keeps is
    forgotten in the end, unless there is a data directory (--data).
    """
    from toolpost.transports.serve_process import Process, run

    with _protocol_alone(setup) as (given, taken), setup.serving():
        try:
            import mcp.server  # noqa: F401

            from toolpost.transports.mcp_stdio import serve_stdio
        except ModuleNotFoundError as missing:
            from toolpost.calls.errors import ConfigurationError

            raise ConfigurationError(
                f"an MCP server needs the package {missing.name}; install toolpost[mcp]"
            ) from missing

        async def answer(executor: ToolExecutor) -> None:
            process = Process(executor, read=lambda: _read_for_one(setup))
            await process.hand_to(lambda service: serve_stdio(service, given, taken))

        with setup.executor(config=_read_for_one(setup)) as executor:
            run(answer(executor))
    return ExitCode.OK


@click.command(cls=Command)
@pass_setup
def worker(setup: Setup) -> int:
    """Run accepted calls that gateways on the same records wrote down, and answer nobody."""
    from toolpost.transports.serve_notices import notify
    from toolpost.transports.serve_process import Process, run

    def told(state: str) -> None:
        if state == "ready":
            say("takes accepted calls; Ctrl-C ends it when what runs has ended")
            notify("READY=1")
        elif state == "stopping":
            notify("STOPPING=1")

    async def work(executor: ToolExecutor) -> None:
        await Process(executor, read=lambda: _read(setup), told=told).work()

    with setup.serving(), setup.executor(config=_read(setup)) as executor:
        check_shared(executor, "records")
        run(work(executor))
    return ExitCode.OK


@contextmanager
def _protocol_alone(setup: Setup) -> Iterator[tuple[Any, Any]]:
    """Standard input and output for a protocol; what else in this process uses them has the null device, and stderr.

    The descriptors are moved, so that not even a program that a tool starts, or C code that prints, meets them.
    """
    setup.out.flush()
    given, taken = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        os.dup2(null, 0)
        os.dup2(2, 1)
        with (
            open(given, "rb", buffering=0, closefd=False) as reading,
            open(taken, "wb", buffering=0, closefd=False) as writing,
        ):
            yield reading, writing
    finally:
        sys.stdout.flush()
        os.dup2(given, 0)
        os.dup2(taken, 1)
        for fd in (null, given, taken):
            os.close(fd)


__all__ = ["mcp", "serve", "worker"]
