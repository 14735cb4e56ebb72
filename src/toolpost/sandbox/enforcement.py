"""What a native sandbox holds to on this machine, in the words of a report: by what, or why not and what would help."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from toolpost.calls.errors import SandboxError
from toolpost.sandbox.outcome import BackendReport, Enforced, Missing
from toolpost.sandbox.profile import Control, Sandbox

_NO_CGROUP: Final = Missing(
    "no control group (v1 or v2) can be made with memory, pids and cpu",
    "run as root with a writable cgroup file system, or delegate a group to this user "
    "(systemd: Delegate=yes with DelegateSubgroup=engine; containers: a private cgroup namespace, mounted writable)",
)
_NO_LANDLOCK: Final = Missing("this kernel has no Landlock", "boot it with landlock in lsm= (Linux 5.13 and later)")
_SYSCTLS: Final = (
    ("user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
    ("kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile that allows userns",
    ),
)


def report_of(
    backend: str, facts: Mapping[str, Any] | None, profile: Sandbox, error: SandboxError | None = None
) -> BackendReport:
    """The report from what the launcher found out, and from the error with which it could not make a sandbox."""
    if error is not None or facts is None:
        why = error.message if error is not None else "no launcher"
        missing = Missing(why, way_out(why))
        return BackendReport(backend=backend, missing=dict.fromkeys(Control, missing))
    enforced = _always(facts, profile)
    lacking: dict[Control, Missing] = {}
    groups = facts["cgroup"]
    if groups is None:
        enforced[Control.MEMORY] = Enforced("RLIMIT_AS and the warden's look at resident memory", hard=False)
        enforced[Control.PROCESS_COUNT] = Enforced("RLIMIT_NPROC", hard=False)
        lacking |= dict.fromkeys((Control.MEMORY, Control.PROCESS_COUNT, Control.CPU), _NO_CGROUP)
    else:
        enforced[Control.MEMORY] = Enforced(groups["memory"])
        enforced[Control.PROCESS_COUNT] = Enforced(groups["process_count"])
        enforced[Control.CPU] = Enforced(groups["cpu"])
    if facts["landlock"]:
        enforced[Control.LANDLOCK] = Enforced(f"Landlock ABI {facts['landlock']}")
    else:
        lacking[Control.LANDLOCK] = _NO_LANDLOCK
    return BackendReport(backend=backend, enforced=enforced, missing=lacking)


def _always(facts: Mapping[str, Any], profile: Sandbox) -> dict[Control, Enforced]:
    user = "a host user of its own" if facts["distinct"] else "the engine's own user, in a user namespace"
    told = "user notification" if facts["notify"] else "EPERM"
    maker = f", made by {facts['made_by']}" if facts.get("made_by") else ""
    return {
        Control.FILES: Enforced(f"mount namespace on a read-only root{maker}"),
        Control.PROCESSES: Enforced(f"pid namespace{maker}"),
        Control.NETWORK: Enforced(
            "network namespace with nothing but the allow-list proxy"
            if profile.network.allow
            else "empty network namespace"
        ),
        Control.IPC: Enforced(f"ipc namespace{maker}"),
        Control.HOSTNAME: Enforced(f"uts namespace{maker}"),
        Control.PRIVILEGES: Enforced(f"no capabilities, no_new_privs, {user}"),
        Control.SYSCALLS: Enforced(f"seccomp allow-list '{profile.syscalls}' ({told})"),
        Control.CPU_TIME: Enforced("RLIMIT_CPU"),
        Control.WALL: Enforced("the engine's clock and a pidfd"),
        Control.OUTPUT: Enforced("the engine, which counts"),
        Control.DISK: Enforced("tmpfs size="),
        Control.INODES: Enforced("tmpfs nr_inodes="),
        Control.FILE_SIZE: Enforced("RLIMIT_FSIZE"),
        Control.OPEN_FILES: Enforced("RLIMIT_NOFILE"),
    }


def way_out(why: str) -> str:
    """What would make sandboxes possible here, as far as the machine tells."""
    for name, bad, command in _SYSCTLS:
        try:
            with open(f"/proc/sys/{name}") as file:
                if file.read().strip() == bad:
                    return command
        except OSError:
            continue
    if os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv"):
        return (
            "this is a container whose seccomp or AppArmor profile forbids namespaces: run it with "
            "--security-opt seccomp=unconfined --security-opt apparmor=unconfined, or with --cap-add SYS_ADMIN"
        )
    if "/proc" in why:
        return "mount /proc without masks (containers: --security-opt systempaths=unconfined)"
    return "Linux 5.10 or later with user namespaces is needed"
