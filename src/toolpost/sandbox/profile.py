"""Sandbox: what a program from a model may see, reach and use up, as a value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any, Final, Literal

from toolpost.calls.errors import ConfigurationError
from toolpost.calls.references import references_in

KB: Final = 1 << 10
MB: Final = 1 << 20

WORK: Final = "/box"
"""The work folder inside a sandbox: the current folder of the program, its HOME, and where artifacts come from."""
PACKAGES: Final = "/opt/packages"
"""Where the packages that Python programs may import are mounted, read-only."""
PROXY_PORT: Final = 3128
"""Where a profile with a network has its proxy, on the sandbox's own loopback."""


class Control(StrEnum):
    """One thing that a sandbox can hold to. A profile requires some of them; a result says by what each was held."""

    FILES = "files"
    """A root of its own: a read-only view of the system's programs, and nothing of the host's data."""
    PROCESSES = "processes"
    """No other process is seen or signalled, and all of its own end with it."""
    NETWORK = "network"
    """No network, or what the allow-list proxy lets through."""
    IPC = "ipc"
    """No System V or POSIX shared memory, queues and semaphores of the host."""
    HOSTNAME = "hostname"
    PRIVILEGES = "privileges"
    """No capabilities, no way to gain any, and a user that owns nothing on the host."""
    SYSCALLS = "syscalls"
    """Only the system calls of an allow-list."""
    LANDLOCK = "landlock"
    """A second layer under files, network and signals, which shows only where another falls."""
    MEMORY = "memory"
    """All of a sandbox's memory together, files in its work folder included."""
    PROCESS_COUNT = "process_count"
    CPU = "cpu"
    """The share of processors."""
    CPU_TIME = "cpu_time"
    WALL = "wall"
    OUTPUT = "output"
    DISK = "disk"
    INODES = "inodes"
    FILE_SIZE = "file_size"
    OPEN_FILES = "open_files"


REQUIRED: Final = frozenset(
    {
        Control.FILES,
        Control.PROCESSES,
        Control.NETWORK,
        Control.IPC,
        Control.HOSTNAME,
        Control.PRIVILEGES,
        Control.SYSCALLS,
        Control.WALL,
        Control.OUTPUT,
        Control.DISK,
        Control.FILE_SIZE,
        Control.OPEN_FILES,
    }
)
"""What a profile requires unless it says otherwise. memory, process_count and cpu are not among them, because without
a delegated cgroup they are best effort; a profile that names them is refused there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLimits:
    """How much a program may use up. Bytes count in units of 1, times in seconds; each must be more than 0.

    wall_s: from its start to its end. cpu_s: seconds of processor time of each process. cpus: processors' worth of
    time, over all processes. memory_bytes: all processes together, with what they wrote to the work folder, which lies
    in memory. disk_bytes and inodes: of the work folder, /tmp and /dev/shm together. file_bytes: one file.
    output_bytes: stdout and stderr together, after which the program is ended. preview_bytes: how much of each of the
    two a result shows, half from the head and half from the tail. artifacts, artifact_bytes: number and total size of
    files that are taken out.
    """

    wall_s: float = 60.0
    cpu_s: float = 15.0
    cpus: float = 1.0
    memory_bytes: int = 512 * MB
    processes: int = 64
    open_files: int = 256
    file_bytes: int = 64 * MB
    disk_bytes: int = 128 * MB
    inodes: int = 8192
    output_bytes: int = 8 * MB
    preview_bytes: int = 64 * KB
    artifacts: int = 100
    artifact_bytes: int = 32 * MB

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            whole = item.type == "int"
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise ConfigurationError(
                    f"SandboxLimits.{item.name} must be {'a whole number' if whole else 'a number'}, got {value!r}"
                )
            if not 0 < value < float("inf"):
                raise ConfigurationError(f"SandboxLimits.{item.name} must be more than 0 and finite, got {value!r}")
        if self.memory_bytes < 16 * MB:
            raise ConfigurationError(
                f"SandboxLimits.memory_bytes must be at least {16 * MB}, which an interpreter needs to start, "
                f"got {self.memory_bytes}"
            )

    def tightened(self, **limits: float | None) -> SandboxLimits:
        """These limits with some of them lowered; None and what is larger than here change nothing."""
        lower = {name: min(value, getattr(self, name)) for name, value in limits.items() if value is not None}
        return replace(self, **lower)


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxMount:
    """A folder or file of the host that programs may read and never write.

    source is an absolute path of the host, target an absolute path inside. What the user of the engine cannot read,
    a program cannot either.
    """

    source: str
    target: str

    def __post_init__(self) -> None:
        for name in ("source", "target"):
            path = getattr(self, name)
            if not isinstance(path, str) or not path.startswith("/") or "\0" in path or ".." in path.split("/"):
                raise ConfigurationError(f"SandboxMount.{name} must be an absolute path without '..', got {path!r}")
        inside = PurePosixPath(self.target)
        taken = ("/", "/proc", "/dev", "/sys", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/tmp", "/run", WORK)
        if str(inside) in taken or inside.parts[1] in ("proc", "dev", "sys", "run"):
            raise ConfigurationError(f"SandboxMount.target cannot be {self.target}: the sandbox has its own there")


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxNetwork:
    """Which hosts a program may reach, through a proxy that runs outside of the sandbox. None by default.

    allow holds "host", "host:port" or "*.domain"; without a port the ports are 443, and 80 for plain http. Programs
    find the proxy in HTTP_PROXY and HTTPS_PROXY; it checks every address as the egress guard does. headers holds, by
    entry of allow, the headers that the proxy adds: a value may be a secret reference, or have some in braces, which
    are resolved outside and never seen inside. Such a host is asked by plain http:// inside; the proxy speaks https to
    it, at 443 unless the entry says otherwise.
    """

    allow: tuple[str, ...] = ()
    headers: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "allow", tuple(self.allow))
        for host in self.allow:
            if not isinstance(host, str) or not _HOST.match(host):
                raise ConfigurationError(
                    f"SandboxNetwork.allow: {host!r} is not a host, host:port or *.domain, as in 'api.example.com'"
                )
            port = host.partition(":")[2]
            if port and not 1 <= int(port) <= 65535:
                raise ConfigurationError(f"SandboxNetwork.allow: {host!r} has no port from 1 to 65535")
        for host, headers in self.headers.items():
            if host not in self.allow:
                raise ConfigurationError(f"SandboxNetwork.headers names {host!r}, which is not in allow")
            for name, value in headers.items():
                _check_header(host, name, value)


def _check_header(host: str, name: object, value: object) -> None:
    where = f"SandboxNetwork.headers of {host!r}"
    if not isinstance(name, str) or not _HEADER.match(name) or name.lower() in _FRAMING:
        raise ConfigurationError(f"{where}: {name!r:.100} is no header that can be added")
    if not isinstance(value, str) or not _HEADER_VALUE.match(value):
        raise ConfigurationError(f"{where}: {name} must be Latin text of one line, without spaces around it")
    for _ in references_in(value):
        pass


_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}\Z")
_HEADER_VALUE: Final = re.compile(r"[!-~\xa1-\xff](?:[ !-~\xa1-\xff]*[!-~\xa1-\xff])?\Z")
_FRAMING: Final = frozenset(
    "connection content-length expect host keep-alive proxy-authenticate proxy-authorization proxy-connection te "
    "trailer transfer-encoding upgrade".split()
)
_HOST: Final = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9.\-]*[A-Za-z0-9])?(:[0-9]{1,5})?\Z")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_LOADS: Final = re.compile(r"LD_|DYLD_|PYTHON(PATH|HOME|STARTUP|INSPECT)\Z|GCONV_PATH\Z|BASH_ENV\Z|ENV\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """What programs may see, reach and use up: a profile for Sandboxes.

    mounts: what of the host can be read, beside the system's programs. env: the environment besides PATH, HOME, TMPDIR
    and LANG; nothing of the engine's own is handed on. network: none unless it allows hosts. packages: distributions
    of the engine's own environment that Python programs may import, with what they depend on. preload: modules that
    warm interpreters have imported already. syscalls: "default", or "strict", which has no sockets at all and starts
    no other program. require: the controls without which a call is refused; landlock, memory, process_count and cpu
    may be added. Raises ConfigurationError for a value that is none.
    """

    limits: SandboxLimits = field(default_factory=SandboxLimits)
    mounts: tuple[SandboxMount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    network: SandboxNetwork = field(default_factory=SandboxNetwork)
    packages: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    syscalls: Literal["default", "strict"] = "default"
    require: frozenset[Control] = REQUIRED

    def __post_init__(self) -> None:
        for name in ("mounts", "packages", "preload"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.syscalls not in ("default", "strict"):
            raise ConfigurationError(f"Sandbox.syscalls must be 'default' or 'strict', got {self.syscalls!r}")
        if self.syscalls == "strict" and self.network.allow:
            raise ConfigurationError(
                "Sandbox.syscalls 'strict' has no sockets, so no host can be reached; take 'default', or allow no hosts"
            )
        try:
            object.__setattr__(self, "require", frozenset(Control(one) for one in self.require))
        except ValueError as error:
            raise ConfigurationError(f"Sandbox.require: {error}; known are {', '.join(Control)}") from None
        check_env(self.env)

    def with_limits(self, **limits: Any) -> Sandbox:
        """This profile with other limits, which may be higher."""
        return replace(self, limits=replace(self.limits, **limits))


def check_env(env: Mapping[str, str]) -> None:
    """Refuse names that are none, and those that make programs load other code. Raises ConfigurationError."""
    for name, value in env.items():
        if not isinstance(name, str) or not _NAME.match(name):
            raise ConfigurationError(f"Sandbox.env: {name!r} is no name of an environment variable")
        if _LOADS.match(name):
            raise ConfigurationError(f"Sandbox.env: {name} makes programs load other code and cannot be set")
        if not isinstance(value, str) or "\0" in value:
            raise ConfigurationError(f"Sandbox.env: {name} must be text without null characters")


CLOSED_ENV: Final[Mapping[str, str]] = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": WORK,
    "TMPDIR": "/tmp",
    "LANG": "C.UTF-8",
    "MPLBACKEND": "Agg",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONIOENCODING": "utf-8",
}
"""The environment of every program, before the profile's env."""
_PROXY: Final = f"http://127.0.0.1:{PROXY_PORT}"
PROXY_ENV: Final[Mapping[str, str]] = {
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), _PROXY),
    **dict.fromkeys(("NO_PROXY", "no_proxy"), ""),
}
"""What a profile that allows hosts adds to it."""
