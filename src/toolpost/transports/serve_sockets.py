"""The socket on which a gateway listens: bound once, shared by its processes; and how people are told where it is."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from toolpost.calls.errors import ConfigurationError

if TYPE_CHECKING:
    from toolpost.engine.settings import ExecutorConfig

BACKLOG = 2048
MOST_FILES = 65_536


def listen(config: ExecutorConfig) -> socket.socket:
    """A socket that listens as the settings say. Raises ConfigurationError where it cannot."""
    if config.serve_uds is not None:
        return _listen_unix(config.serve_uds)
    host, port = config.serve_host.strip("[]"), config.serve_port
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as exc:
        raise ConfigurationError(f"serve_host {host!r} is no address of this machine: {exc.strerror}") from exc
    one = socket.socket(family, kind, proto)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            with contextlib.suppress(OSError):  # :: is to mean both kinds of address where the system can
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        one.bind(address)
        one.listen(BACKLOG)
    except OSError as exc:
        one.close()
        raise ConfigurationError(
            f"cannot listen on {host} port {port} ({exc.strerror}); set serve_host and serve_port to others, "
            "port 0 takes a free one"
        ) from exc
    one.setblocking(False)
    return one


def _listen_unix(path: Path) -> socket.socket:
    """A Unix socket for the user and the group; one that nobody listens on any more gives way."""
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _is_left_over(path):
            path.unlink()
        one.bind(str(path))
        os.chmod(path, 0o660)  # before listen(): nobody can connect until then
        one.listen(BACKLOG)
    except OSError as exc:
        one.close()
        raise ConfigurationError(f"cannot listen on the socket {path} ({exc.strerror}); set another serve_uds") from exc
    one.setblocking(False)
    return one


def _is_left_over(path: Path) -> bool:
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
    return False


def allow_many_connections() -> None:
    """Let this process have as many open files as it may: each connection is one, and many systems begin with 1024."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def forget(config: ExecutorConfig) -> None:
    """Remove the file of a Unix socket that is not listened on any more."""
    if config.serve_uds is not None:
        with contextlib.suppress(OSError):
            config.serve_uds.unlink()


def address_of(config: ExecutorConfig, one: socket.socket) -> str:
    """The URL at which this machine reaches the gateway, without a slash at its end."""
    if config.serve_uds is not None:
        return "http://localhost"
    host, port = one.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


__all__ = ["address_of", "allow_many_connections", "forget", "listen"]
