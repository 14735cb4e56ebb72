"""A launcher whose sandboxes a container engine makes: podman or docker, with whatever runs containers for them.

Each container has a relay beside it, a process that starts the engine's client and carries what goes in and out. Who
kills the relay closes the container's stdin, with which its first process ends, and so all that runs in it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import select
import signal
import socket
import time
from typing import Any, Final, NoReturn

from toolpost.sandbox import bpf, carried, container_box, frames, kernel, launcher, seccomp, template, tunnel
from toolpost.sandbox.template import step

_FIRST_UID: Final = 1_000_000_000
_UIDS: Final = 4096
_BLOCKS: Final = 65536
_CLONE_NEW_ANY: Final = 0x7E020000
_GVISOR_BYTES: Final = 256 << 20
"""What gVisor's kernel takes for itself, at most."""
_TRIAL_S: Final = 20.0
"""The engine waits for all of a launcher's start a little longer."""
_END_S: Final = 4.0
"""How long a container may take to end by itself, and then to be removed: together less than the engine waits."""
_SAID: Final = 4000
FROM_STDIN: Final = """
import json
def exactly(size):
    got = b""
    while len(got) < size:
        piece = os.read(0, size - len(got))
        if not piece:
            os._exit(1)
        got += piece
    return got
told = json.loads(exactly(int.from_bytes(exactly(4), "big")))
carried = told["carried"]
boot(told["module"], told["config"])
"""
WARDEN_CALLS: Final = (
    *("capget", "capset", "close_range", "kill", "landlock_add_rule", "landlock_create_ruleset"),
    *("landlock_restrict_self", "openat2", "pidfd_getfd", "pidfd_open", "prctl", "seccomp", "setgid", "setgroups"),
    *("setresgid", "setresuid", "setsid", "setuid", "socketpair", "recvmsg", "sendmsg", "fchdir", "chdir", "execve"),
)
"""What the warden, and who starts it, calls beside what programs may."""
MASKED: Final = (
    *("/proc/bus", "/proc/cmdline", "/proc/config.gz", "/proc/diskstats", "/proc/interrupts", "/proc/iomem"),
    *("/proc/ioports", "/proc/kallsyms", "/proc/key-users", "/proc/modules", "/proc/partitions", "/proc/pressure"),
    *("/proc/slabinfo", "/proc/softirqs", "/proc/vmallocinfo", "/proc/zoneinfo", "/proc/fs", "/proc/driver"),
)
"""What podman hides of the machine beside what it hides anyway; docker has no option for it."""
SHARES: Final = (("work", 8), ("/tmp", 7), ("/dev/shm", 1))
"""Which sixteenths of the disk's limit each place gets: an engine cannot give several places one file system."""


def main(fd: int) -> NoReturn:
    """Serve the engine at the other end of the socket fd."""
    launcher.main(fd, ContainerLauncher)


class ContainerLauncher(launcher.Launcher):
    """Each sandbox is a container."""

    def __init__(self, control: socket.socket, config: dict[str, Any]) -> None:
        self._carried = carried.sources() | dict.fromkeys(("toolpost", "toolpost.sandbox"), "")
        super().__init__(control, config)
        self.facts |= self._told | {"cgroup": config["limited_by"], "rootless": config["rootless"]}
        self.facts["distinct"] = not config["rootless"]

    def _enter_namespaces(self, config: dict[str, Any]) -> None:
        # The limit of a control group would end gVisor's kernel, and with it the report on the program.
        config["gvisor"] = is_gvisor(config["runtime"])
        config["watch"] = not config["limited_by"] or config["gvisor"]
        # To list the topmost folder would be to list all below it, /sys too.
        config["paths"] = launcher._paths(config) | {"look": ["/dev"]}
        self._profile = f"{config['folder']}/seccomp.json"
        with open(self._profile, "w") as file:
            json.dump(engine_profile(), file)
        self._order = 0
        self._first_user = _FIRST_UID + os.getpid() % _BLOCKS * _UIDS
        with step("start a container"):
            self._told = self._trial(config)

    def _preload(self, config: dict[str, Any]) -> None:
        """Every container has an interpreter of its own, which imports for itself."""
        config["path"] = []

    def _trial(self, config: dict[str, Any]) -> dict[str, Any]:
        """Start a container that says what there is in it."""
        complain = os.memfd_create("complaints", os.MFD_CLOEXEC)
        client, far_in, far_out = self._client(config, self._command(config, 0), complain)
        try:
            os.set_blocking(far_out, True)
            with contextlib.suppress(BrokenPipeError):
                _write(far_out, self._first(config | {"trial": True}))
            said = _read(far_in, _TRIAL_S)
        finally:
            os.close(far_in)
            os.close(far_out)
            if not _ended(client, _END_S):
                self._remove(config, self._name())
                os.kill(client, signal.SIGKILL)
                os.waitpid(client, 0)
        try:
            told: dict[str, Any] = json.loads(said)
        except ValueError:
            why = os.pread(complain, _SAID, 0).decode("utf-8", "replace").strip()
            raise OSError(why or "its first process said nothing") from None
        finally:
            os.close(complain)
        if "fatal" in told:
            raise OSError(told["fatal"])
        return told

    def _make(self, order: dict[str, Any]) -> list[int]:
        config = self._config | {"limits": self._config["limits"] | order["limits"], "trial": False}
        self._order += 1
        slot = self._free.pop() if self._free else 0
        ours, theirs = socket.socketpair()
        life, alive = os.pipe()
        try:
            with step("start a container"):
                pid = os.fork()
                if pid == 0:
                    self._relay(config, slot, theirs, life)
                pidfd = kernel.pidfd_open(pid)
        except BaseException:
            self._give_back(None, slot)
            os.close(alive)
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(life)
        self._alive[pid] = launcher._Made(None, slot, alive, bool(order["limits"]))
        return [ours.detach(), pidfd]

    # --- the relay

    def _relay(self, config: dict[str, Any], slot: int, channel: socket.socket, life: int) -> NoReturn:
        """In a process of its own: start a container and carry, until it or the engine ends."""
        client = 0
        try:
            kernel.close_all_but([0, 1, 2, channel.fileno(), life])
            kernel.death_signal(signal.SIGKILL)
            watched = select.poll()
            watched.register(life, select.POLLIN)
            if watched.poll(0):
                os._exit(1)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            complain = os.memfd_create("complaints", os.MFD_CLOEXEC)
            client, far_in, far_out = self._client(config, self._command(config, slot), complain)
            end = tunnel.Tunnel(far_in, far_out, channel, inside=False)
            end.start(self._first(config))
            end.run()
            os.close(far_out)
            if not end.spoken:
                why = os.pread(complain, _SAID, 0).decode("utf-8", "replace").strip()
                channel.sendall(frames.packed({"error": why or "its container ended"}))
        except BaseException as error:
            with contextlib.suppress(OSError):
                channel.sendall(frames.packed({"error": f"the container's relay failed: {error}"}))
        finally:
            with contextlib.suppress(BaseException):
                channel.close()
                if client and not _ended(client, _END_S):
                    self._remove(config, self._name())
                    os.kill(client, signal.SIGKILL)
            os._exit(0)

    def _remove(self, config: dict[str, Any], name: str) -> None:
        """Have the engine kill a container that did not end by itself."""
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(OSError):
                os.execve(config["engine_path"], [config["engine_path"], "rm", "--force", name], config["engine_env"])
            os._exit(1)
        _ended(pid, _END_S)

    def _client(self, config: dict[str, Any], command: list[str], complain: int) -> tuple[int, int, int]:
        """Start the engine's client; its process, and the pipes from and to the container."""
        from_there, to_there = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
                    signal.signal(number, signal.SIG_DFL)
                for fd, end in enumerate((to_there[0], from_there[1], complain)):
                    os.dup2(end, fd)
                kernel.close_all_but([0, 1, 2])
                os.execve(command[0], command, config["engine_env"])
            except BaseException as error:
                os.write(2, f"{command[0]} cannot be started: {error}".encode("utf-8", "replace"))
            finally:
                os._exit(127)
        os.close(from_there[1])
        os.close(to_there[0])
        return pid, from_there[0], to_there[1]

    def _first(self, config: dict[str, Any]) -> bytes:
        """What the container's first process reads first: our modules and the configuration."""
        given = {name: value for name, value in config.items() if name not in ("filter", "engine_env", "path")}
        told = {"carried": self._carried, "module": container_box.__name__, "config": given}
        said = json.dumps(told).encode()
        return len(said).to_bytes(4, "big") + said

    def _name(self) -> str:
        """That of the container which is made now; its relay, a fork, keeps to it."""
        return f"toolpost-{self._config['id']}-{self._order}"

    def _command(self, config: dict[str, Any], slot: int) -> list[str]:
        user = 0 if config["rootless"] else self._first_user + slot
        labels = {"toolpost.root": os.path.dirname(config["folder"]), "toolpost.launcher": config["id"]}
        return run_command(config, name=self._name(), user=user or template.USER, labels=labels, profile=self._profile)


def run_command(config: dict[str, Any], *, name: str, user: int, labels: dict[str, str], profile: str) -> list[str]:
    """The engine's command line for one container."""
    limits, podman = config["limits"], config["container_engine"] == "podman"
    words = [config["engine_path"]]
    if config["runtime"] and podman:
        words += ["--runtime", config["runtime"]]
        # Below podman runsc finds no network namespace that it would take for none.
        words += ["--runtime-flag", "network=none"] if is_gvisor(config["runtime"]) else []
    words += ["run", "--rm", "--interactive", "--pull", "never", "--name", name]
    words += [] if podman or not config["runtime"] else ["--runtime", config["runtime"]]
    for label, value in labels.items():
        words += ["--label", f"{label}={value}"]
    words += ["--network", "none", "--ipc", "none", "--hostname", "sandbox", "--user", f"{user}:{user}"]
    words += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--security-opt", f"seccomp={profile}"]
    words += ["--read-only", "--workdir", config["work"], "--log-driver", "none"]
    words += ["--read-only-tmpfs=false", "--security-opt", f"mask={':'.join(MASKED)}"] if podman else []
    for place, share in SHARES:
        folder, size = config["work"] if place == "work" else place, limits["disk_bytes"] * share // 16
        # podman has no option for the number of files, and would take a folder's rights from the image.
        files = ",notmpcopyup" if podman else f",nr_inodes={max(16, limits['inodes'] * share // 16)}"
        words += ["--tmpfs", f"{folder}:rw,nosuid,nodev,size={size},mode=1777{files}"]
    if config["limited_by"]:
        # Below gVisor the host sees its threads, which are more than there are processes.
        gvisor = is_gvisor(config["runtime"])
        memory = str(limits["memory_bytes"] + (_GVISOR_BYTES if gvisor else 0))
        processes = str(4 * limits["processes"] + 400 if gvisor else limits["processes"] + 2)
        words += ["--memory", memory, "--memory-swap", memory, "--pids-limit", processes, "--cpus", str(limits["cpus"])]
    for limit, wanted in (("nofile", max(256, limits["open_files"])), ("core", 1), ("nproc", 4096)):
        # Without CAP_SYS_RESOURCE an engine cannot raise what it has.
        hardest = resource.getrlimit(getattr(resource, f"RLIMIT_{limit.upper()}"))[1]
        most = wanted if hardest == resource.RLIM_INFINITY else min(wanted, hardest)
        words += ["--ulimit", f"{limit}={most}:{most}"]
    for source, target in config["mounts"]:
        words += ["--volume", f"{source}:{target}:ro"]
    code = carried.BOOT.replace("import marshal, os", "import os") + FROM_STDIN
    words += [*config["arguments"], "--entrypoint", config["python"], config["image"]]
    return [*words, "-I", "-S", "-E", "-B", "-c", code]


def is_gvisor(runtime: str) -> bool:
    """Whether a runtime is gVisor's, whose kernel is its own."""
    return os.path.basename(runtime).startswith("runsc")


def engine_profile() -> dict[str, Any]:
    """A seccomp profile for the engine: by name, what programs may call in some way and what the warden needs.

    It holds the whole container, warden included. The program's own filter, which looks at arguments too and may be the
    strict one, is loaded inside.
    """
    rules = seccomp.rules("default", network=False)
    allowed = {name for name, clauses in rules.items() if any(one.verdict == bpf.ALLOW for one in clauses)}
    absent = {name for name, clauses in rules.items() if clauses[0].verdict == bpf.errno_verdict(errno.ENOSYS)}
    allowed = (allowed | set(WARDEN_CALLS)) - {"clone", "unshare"}
    no_namespaces = {"index": 0, "value": _CLONE_NEW_ANY, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": [f"SCMP_ARCH_{os.uname().machine.upper()}"],
        "syscalls": [
            {"names": sorted(allowed), "action": "SCMP_ACT_ALLOW"},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [no_namespaces]},
            # C libraries take another call instead.
            {"names": sorted(absent - allowed), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
        ],
    }


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data[: 1 << 16]) :]


def _read(fd: int, seconds: float) -> bytes:
    """All that comes until the end, or until the time is over."""
    got, until = b"", time.monotonic() + seconds
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while poll.poll(max(0.0, until - time.monotonic()) * 1000):
        piece = os.read(fd, 4096)
        if not piece:
            break
        got += piece
    return got


def _ended(pid: int, seconds: float) -> bool:
    """Whether a child has ended in so many seconds; it is taken in then."""
    fd = kernel.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return False
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        return True
    finally:
        os.close(fd)
