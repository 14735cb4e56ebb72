"""What all services share: a private server on a free loopback port in a scratch folder, or one named by a URL.

A server is started, killed, frozen and restarted by pid, and never outlives the process that started it unless it is
told to. Each kind says in a file of its own how it is found, made, started and asked whether it answers.
"""

import atexit
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, Protocol, Self

from tests.services import processes

HOST = "127.0.0.1"
CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = CHECKOUT / ".cache" / "services"
LAUNCH = Path(__file__).with_name("launch.py")
# What a server sees of the caller's environment: settings of a developer's own servers (PGPORT, VGW_PORT) are none.
PASSED = ("HOME", "JAVA_HOME", "LD_LIBRARY_PATH", "PATH", "TMPDIR")

# Linux kills a server when the *thread* that started it ends, so all are started by one thread that stays.
_nursery = ThreadPoolExecutor(max_workers=1, thread_name_prefix="services")


class Missing(Exception):
    """This machine has no such server; the message says what to install or to set."""


class StartFailed(Exception):
    """The server is there but did not come up; the message has the end of its log."""


class Prepared(Protocol):
    """What tests need to be there: a service, or programs."""

    name: ClassVar[str]
    # The Debian package that brings it, where there is one.
    package: ClassVar[str | None]

    @classmethod
    def find(cls) -> Path:
        """Where it is. Raises Missing."""

    @classmethod
    def prepare(cls) -> object:
        """Do once what takes too long for a test: download and build. Raises Missing."""


class Server:
    """One service. Not safe to share between threads; its methods block until the server has done what they say."""

    name: ClassVar[str]
    variable: ClassVar[str]
    # The Debian package that brings it, where there is one.
    package: ClassVar[str | None] = None
    # Whether a restart finds what was written before.
    keeps_data: bool = True
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, given: str | None = None, *, outlives: bool = False) -> None:
        """given is the URL of a server that others run; outlives lets the server go on when this process ends."""
        self.given = given
        self.outlives = outlives
        self.port = 0
        self.folder: Path | None = None
        self.user = ""
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def shared(cls, *, outlives: bool = False) -> Self:
        """The server that the environment names, else one of our own."""
        return cls(os.environ.get(cls.variable) or None, outlives=outlives)

    # What a kind of server says about itself.

    @classmethod
    def find(cls) -> Path:
        """The program. Raises Missing."""
        raise NotImplementedError

    @classmethod
    def prepare(cls) -> None:
        """Do once what takes too long for a test: download and build. Raises Missing."""
        cls.find()

    def make(self, folder: Path) -> None:
        """Fill the empty scratch folder."""

    def command(self, folder: Path) -> list[str]:
        """What to execute."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """What the server is told by its environment, beside PASSED."""
        return {}

    def answers(self) -> bool:
        """Whether the server gives a real answer in its own protocol. May raise OSError."""
        raise NotImplementedError

    def own_url(self) -> str:
        """The URL of a server started here."""
        return f"http://{HOST}:{self.port}"

    def summary(self) -> str:
        """What runs where, for people."""
        return f"{self.name}: {self.url}" if self.given else f"{self.name}: {self.url} (pid {self.pid})"

    def variables(self) -> dict[str, str]:
        """The environment in which other processes find this server by `shared`."""
        return {self.variable: self.url}

    # What users do with it.

    @property
    def url(self) -> str:
        return self.given or self.own_url()

    @property
    def pid(self) -> int:
        """Of the server's first process. Raises RuntimeError when none was started here."""
        if self._process is None:
            raise RuntimeError(
                f"{self.name} has no process here: it is not started, or {self.variable} names another's"
            )
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start it empty and wait until it answers. Raises Missing, StartFailed."""
        if self.given:
            return self
        if self.folder is not None:
            raise RuntimeError(f"{self.name} is started already; to have it back after kill() call restart()")
        self.find()
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"toolpost-{self.name}-"))
        if not self.outlives:
            atexit.register(self._stop_in, os.getpid())
        try:
            self.make(self.folder)
            self._launch()
        except BaseException:
            self.stop()
            raise
        return self

    def halt(self) -> None:
        """Stop it gracefully and keep its data and port for restart()."""
        self._end(self.stop_signal, patience_s=20)

    def kill(self) -> None:
        """Kill all its processes at once, as when its machine dies; data and port are kept for restart()."""
        self._end(signal.SIGKILL, patience_s=10)

    def restart(self) -> None:
        """Start it again on the same port and data, after kill() or halt(), or stop it gracefully first."""
        self._refuse_unless_ours()
        self.halt()
        self._launch()

    def freeze(self) -> None:
        """Stop the clock of all its processes: connections stay open, and nothing answers."""
        processes.freeze(self.pid)

    def thaw(self) -> None:
        """Undo freeze()."""
        processes.thaw(self.pid)

    def stop(self) -> None:
        """End it for good: gracefully, then remove its folder. Does nothing for a server that others run."""
        if self.folder is None:
            return
        self.halt()
        shutil.rmtree(self.folder)
        self.folder = None
        atexit.unregister(self._stop_in)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def log(self) -> str:
        """The end of what the server and its preparation have printed."""
        path = self._refuse_unless_ours() / "log"
        return path.read_text(errors="replace")[-2000:] if path.exists() else ""

    def run(self, *command: str, timeout_s: float = 30) -> None:
        """Run a command of the preparation as the server's user. Raises StartFailed."""
        process = self._spawn(list(command))
        try:
            code = process.wait(timeout_s)
        except BaseException:
            processes.end(process.pid, signal.SIGKILL, patience_s=10)
            process.wait()
            raise
        if code:
            raise StartFailed(f"{command[0]} ended with {code}:\n{self.log()}")

    def _stop_in(self, pid: int) -> None:
        """Stop it at the exit of this process, but not of a fork of it."""
        if os.getpid() == pid:
            self.stop()

    def _launch(self) -> None:
        self._process = self._spawn(self.command(self._refuse_unless_ours()))
        process = self._process
        if not wait_until(lambda: process.poll() is not None or self.answers(), patience_s=30):
            self.kill()
            raise StartFailed(f"{self.name} does not answer on port {self.port}:\n{self.log()}")
        if not self.running:
            raise StartFailed(f"{self.name} ended with {process.returncode}:\n{self.log()}")

    def _spawn(self, command: list[str]) -> "subprocess.Popen[bytes]":
        parent = "0" if self.outlives else str(os.getpid())
        # -I -S: the launcher needs no site packages, and 20 ms of Python are enough.
        command = [sys.executable, "-I", "-S", str(LAUNCH), parent, self.user, *command]
        environment = {name: os.environ[name] for name in PASSED if name in os.environ} | self.environment()
        folder = self._refuse_unless_ours()
        with folder.joinpath("log").open("ab") as log:
            return _nursery.submit(
                subprocess.Popen[bytes],
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            ).result()

    def _end(self, number: signal.Signals, *, patience_s: float) -> None:
        self._refuse_unless_ours()
        if self._process is None:
            return
        if number != signal.SIGKILL:
            processes.thaw(self._process.pid)
        processes.end(self._process.pid, number, patience_s=patience_s)
        self._process.wait()
        self._process = None

    def _refuse_unless_ours(self) -> Path:
        if self.folder is None:
            raise RuntimeError(f"this {self.name} is not running here, so it is not ours to touch")
        return self.folder


def in_ci() -> bool:
    """Whether a missing service is an error."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def free_port() -> int:
    """A port that nobody listens on and that no outgoing connection is given, so it is still free at a restart."""
    while True:
        # Not from `random`: a test that seeds it would be given the port of its own killed server.
        port = 20000 + secrets.randbelow(12000)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port


def wait_until(holds: Callable[[], bool], *, patience_s: float) -> bool:
    """Poll until it holds, taking a refused or broken connection for "not yet"; False when the patience ran out."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            if holds():
                return True
        except OSError:
            pass
        time.sleep(0.01)
    return False


def ask(port: int, question: bytes, *, max_bytes: int = 64, timeout_s: float = 2) -> bytes:
    """The first bytes that a server answers to raw bytes."""
    with socket.create_connection((HOST, port), timeout=timeout_s) as connection:
        connection.sendall(question)
        return connection.recv(max_bytes)


def which(program: str, missing: str) -> Path:
    """A program on the search path. Raises Missing with this message."""
    path = shutil.which(program)
    if path is None:
        raise Missing(missing)
    return Path(path)
