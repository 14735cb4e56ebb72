"""The first process of a container, from the start of its interpreter on: it becomes the warden, with a tunnel out."""

from __future__ import annotations

import _thread
import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
from typing import Any, Final, NoReturn

from toolpost.sandbox import frames, group, kernel, landlock, program, seccomp, tunnel, warden

OLDEST: Final = (3, 11)
_GET_NO_NEW_PRIVS: Final = 39
_GROUPS: Final = "/sys/fs/cgroup"


def main(config: dict[str, Any]) -> NoReturn:
    """config is the launcher's. On a trial it only says what there is; else it serves through stdin and stdout."""
    if sys.version_info[:2] < OLDEST:
        _say({"fatal": f"the image's Python is {sys.version.split()[0]}, and must be 3.11 or later"})
        os._exit(1)
    config["landlock"] = landlock.abi() if config["use_landlock"] else 0
    config["notify"] = bool(config["notify"]) and seccomp.available(notify=True) and _can_take_descriptors()
    if config["trial"]:
        _say(_facts(config))
        os._exit(0)
    far_in, far_out = os.dup(0), os.dup(1)
    nothing = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1):  # what goes wrong is still said on the third
        os.dup2(nothing, fd)
    os.close(nothing)
    ours, theirs = socket.socketpair()
    _thread.start_new_thread(_carry, (far_in, far_out, ours))
    try:
        _become_warden(config, theirs.fileno())
    except BaseException as error:
        with contextlib.suppress(OSError):
            theirs.sendall(frames.packed({"error": str(error) or type(error).__name__}))
            os.read(theirs.fileno(), 1)  # the tunnel ends the process, when this is through it
    os._exit(1)


def _say(facts: dict[str, Any]) -> None:
    os.write(1, json.dumps(facts).encode() + b"\n")


def _carry(far_in: int, far_out: int, channel: socket.socket) -> NoReturn:
    """Be the tunnel's inner end, in a thread; with it the container ends."""
    try:
        tunnel.Tunnel(far_in, far_out, channel, inside=True).run()
    except BaseException as error:
        os.write(2, f"the tunnel broke: {type(error).__name__}: {error}\n".encode("utf-8", "replace"))
    finally:
        os._exit(0)


def _facts(config: dict[str, Any]) -> dict[str, Any]:
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file if ":" in line)
    return {
        "landlock": config["landlock"],
        "notify": config["notify"],
        "seccomp": _filters(),
        "engine_seccomp": status.get("Seccomp", "").strip() == "2",
        "no_new_privileges": kernel.syscall("prctl", _GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1,
        "capabilities": status.get("CapBnd", "").strip(),
        "counts": _group() is not None,
        "uid": os.getuid(),
        "python": sys.version.split()[0],
    }


def _become_warden(config: dict[str, Any], channel: int) -> NoReturn:
    with contextlib.suppress(OSError):
        kernel.no_new_privileges()
        kernel.drop_capabilities()
    config["filter"] = seccomp.program(config["syscalls"], network=False, notify=config["notify"])
    config["paths"]["read_execute"].append(os.path.realpath(sys.base_prefix))
    before = list(sys.path)
    config["path"] = sys.path[:] = [*before, *config["package_paths"]]
    for name in config["preload"]:
        importlib.import_module(name)
    sys.path[:] = before
    program.prepare(config)
    gc.collect()
    gc.freeze()
    gc.disable()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    score: int | None = None
    with contextlib.suppress(OSError):
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    kernel.not_dumpable()
    warden.keep(config, channel, _group(), score)


def _filters() -> bool:
    """Whether filters of system calls can be loaded: tried, as gVisor takes them and does not tell."""
    if seccomp.available(notify=False):
        return True
    pid = os.fork()
    if pid == 0:
        try:
            kernel.no_new_privileges()
            seccomp.load(seccomp.program("default", network=False, notify=False), notify=False)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _can_take_descriptors() -> bool:
    """Whether the warden can get the listener of the program's filter: the engine's own filter may forbid it."""
    try:
        pidfd = kernel.pidfd_open(os.getpid())
    except OSError:
        return False
    try:
        os.close(kernel.syscall("pidfd_getfd", pidfd, pidfd, 0))
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def _group() -> group.Group | None:
    """The container's own control group as it shows, to count by; None where the engine shows none."""
    version = 2 if os.path.exists(f"{_GROUPS}/memory.events") else 1
    places = {"memory": _GROUPS, "process_count": _GROUPS}
    if version == 1:
        places = {"memory": f"{_GROUPS}/memory", "process_count": f"{_GROUPS}/pids"}
        if not os.path.exists(f"{_GROUPS}/memory/memory.oom_control"):
            return None
    told = {"version": version, "name": ".", "places": places, "limits": (0, 0, 1.0), "before": (), "held": {}}
    found = group.heard(told)
    found.hold()
    return found
