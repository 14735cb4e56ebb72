"""The command line of the test services: prepare them once, run them in the foreground, round a command, or detached.

python -m tests.services prepare|serve|up|env|run|down; with --help it says what each does.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack

from tests.services import KINDS, PREPARED, Missing, Prepared, detached, in_ci, packages

USUAL = ("postgres", "redis", "s3")


def main(arguments: list[str]) -> int:
    """Returns the exit code: 1 when a service that was asked for is missing."""
    options = parser().parse_args(arguments)
    match options.verb:
        case "prepare":
            return prepare(options.names or list(PREPARED), install=options.install)
        case "serve":
            return serve(options.names or USUAL)
        case "up":
            return up(options.names or USUAL)
        case "env":
            return env()
        case "run":
            return run(options.command[options.command[:1] == ["--"] :])
        case _:
            detached.down()
            return 0


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m tests.services")
    verbs = found.add_subparsers(dest="verb", required=True)
    for verb, text in {
        "prepare": "download and build what the services need; fails for a missing one only where CI is set",
        "serve": "start services, print their URLs, stop them at Ctrl-C",
        "up": "start services that go on by themselves, and print their environment",
    }.items():
        names = PREPARED if verb == "prepare" else KINDS
        verbs.add_parser(verb, help=text).add_argument("names", nargs="*", metavar="NAME", help=" ".join(names))
    verbs.choices["prepare"].add_argument("--install", action="store_true", help="as root, install Debian packages")
    verbs.add_parser("env", help="print the environment of what `up` has started")
    verbs.add_parser("down", help="stop what `up` has started")
    command = verbs.add_parser("run", help="run a command with the usual services: run -- COMMAND")
    command.add_argument("command", nargs=argparse.REMAINDER)
    return found


def prepare(names: list[str], *, install: bool) -> int:
    """Have everything there that no test has the time to wait for."""
    kinds = [PREPARED[name] for name in names if not os.environ.get(getattr(PREPARED[name], "variable", ""))]
    if install and packages.installable():
        wanted = [kind.package for kind in kinds if kind.package and not is_found(kind)]
        if wanted:
            print(f"installing {' and '.join(wanted)} for the tests, once", flush=True)
            try:
                packages.apt_install(wanted)
            except subprocess.CalledProcessError as error:
                print(f"{shlex.join(error.cmd)} ended with {error.returncode}", file=sys.stderr)
    missing = 0
    for kind in kinds:
        try:
            kind.prepare()
        except Missing as error:
            missing += 1
            print(f"tests that need {kind.name} cannot run here: {error}", file=sys.stderr)
    return int(missing > 0 and in_ci())


def is_found(kind: type[Prepared]) -> bool:
    try:
        kind.find()
    except Missing:
        return False
    return True


def serve(names: Sequence[str]) -> int:
    """Run in the foreground until a signal comes."""
    with ExitStack() as stack:
        for name in names:
            service = stack.enter_context(KINDS[name].shared())
            print(f"# {service.summary()}")
            print_exports(service.variables())
        print("# Ctrl-C stops them", flush=True)
        wait_for_signal()
    return 0


def wait_for_signal() -> None:
    """Return at SIGINT or SIGTERM."""
    told = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told.set())
    told.wait()


def up(names: Sequence[str]) -> int:
    """Start what does not run yet, leave it running, and print the environment of all that runs."""
    missing = 0
    for name in names:
        try:
            detached.up(KINDS[name].shared(outlives=True))
        except Missing as error:
            missing = 1
            print(f"{name} is missing: {error}", file=sys.stderr)
    return env() or missing


def env() -> int:
    for entry in detached.running().values():
        print_exports(entry["variables"])
    return 0


def print_exports(variables: dict[str, str]) -> None:
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(value)}", flush=True)


def run(command: list[str]) -> int:
    """Run a command with the usual services in its environment; its exit code is ours."""
    with ExitStack() as stack:
        environment = dict(os.environ)
        for name in USUAL:
            environment |= stack.enter_context(KINDS[name].shared()).variables()
        # A Ctrl-C reaches the command by itself; we wait for it and then clean up. Ignored, it would be so there too.
        before = [(one, signal.getsignal(one)) for one in (signal.SIGINT, signal.SIGTERM)]
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        try:
            return subprocess.call(command, env=environment)
        finally:
            for one, handler in before:
                signal.signal(one, handler)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
