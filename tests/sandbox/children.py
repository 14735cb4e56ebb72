"""Runs a piece of a test in a forked process, for what cannot be undone: namespaces, filters, privileges."""

import errno
import json
import os
import resource
import select
import signal
import socket
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from tests.conftest import miss
from toolpost.sandbox import kernel, seccomp


class Killed(Exception):
    """The process was ended by this signal."""


def in_child(body: Callable[[], Any], *, flags: int = 0) -> Any:
    """What body returns (JSON), from a child in new namespaces, as root of its own in one of users.

    An OSError of body is raised here again, and so is a failed assertion.
    """
    read, write = os.pipe()
    user, group = os.getuid(), os.getgid()
    pid = forked()
    if pid == 0:
        try:
            inner = kernel.clone(flags)
        except OSError as error:
            failed = error
            _run(lambda: _raise(failed), write)
        if inner == 0:
            if flags & kernel.CLONE_NEWUSER:
                for name, line in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
                    with open(f"/proc/self/{name}", "w") as table:
                        table.write(line)
            _run(body, write)
        os.close(write)
        _end_as(inner)
    os.close(write)
    return _outcome(pid, read)


def forked() -> int:
    """A child with one thread, in which the C library's locks are free: that is what clone needs to be called in.

    Tests run beside threads of others, any of which may hold a lock of the C library just now.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of threads from 3.12 on
        return os.fork()


def _raise(error: OSError) -> None:
    raise error


def _end_as(pid: int) -> NoReturn:
    """End as a child ends."""
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL) if os.WTERMSIG(status) != signal.SIGKILL else None
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(0)


def under_filter(program: bytes, body: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What body returns under a filter with a listener, and the calls that were denied."""
    ours, theirs = socket.socketpair()
    read, write = os.pipe()
    pid = forked()
    if pid == 0:
        ours.close()
        hand_over(program, theirs)
        _run(body, write)
    os.close(write)
    theirs.close()
    with ours:
        denied = taken(ours)
    names = []
    poll = select.poll()
    poll.register(denied.fileno(), select.POLLIN)
    while not (event := poll.poll()[0][1]) & select.POLLHUP or event & select.POLLIN:
        names.append(denied.answer())
    denied.close()
    return _outcome(pid, read), names


def hand_over(program: bytes, channel: socket.socket) -> None:
    """Load a filter with a listener, and give that away."""
    kernel.no_new_privileges()
    listener = seccomp.load(program, notify=True)
    assert listener is not None
    socket.send_fds(channel, [b"l"], [listener])
    os.close(listener)
    channel.close()


def taken(channel: socket.socket) -> seccomp.Denied:
    """The listener that hand_over gave."""
    _, fds, _, _ = socket.recv_fds(channel, 1, 1)
    return seccomp.Denied(fds[0])


def needs_user_namespaces(config: pytest.Config) -> None:
    """Leave the test where an ordinary process cannot make namespaces, and this one is not root."""
    try:
        in_child(lambda: None, flags=kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
    except OSError as error:
        way_out = "set sysctl user.max_user_namespaces and kernel.apparmor_restrict_unprivileged_userns"
        miss("user_namespaces", f"{error}; {way_out}", config)


def _run(body: Callable[[], Any], write: int) -> None:
    try:
        said = {"value": body()}
    except OSError as error:
        said = {"errno": error.errno, "text": error.strerror}
    except BaseException as error:
        said = {"failure": f"{type(error).__name__}: {error}"}
    finally:
        os.write(write, json.dumps(said).encode())
        os._exit(0)


def _outcome(pid: int, read: int) -> Any:
    with open(read, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        raise Killed(signal.Signals(os.WTERMSIG(status)).name)
    said = json.loads(text)
    if "errno" in said:
        raise OSError(said["errno"], said["text"])
    if "failure" in said:
        raise AssertionError(said["failure"])
    return said["value"]


def errno_of(call: Callable[[], Any]) -> str:
    """The errno's name that a call fails with; "" when it does not."""
    try:
        call()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    return ""
