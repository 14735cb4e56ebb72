"""The back end of container engines: podman, docker, and gVisor's runsc below either, from an image that is here.

The engine makes the container; inside, our own warden runs programs as in the native back end, with the same filter and
limits. Names of it are podman, docker and gvisor, as plugins of the group toolpost.sandboxes.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

from toolpost.calls.errors import ConfigurationError, SandboxError
from toolpost.sandbox import folder
from toolpost.sandbox.container_launcher import is_gvisor
from toolpost.sandbox.link import not_run
from toolpost.sandbox.native import NativeBackend
from toolpost.sandbox.outcome import BackendReport, Enforced, Missing
from toolpost.sandbox.profile import Control, Sandbox
from toolpost.sandbox.reaper import is_dead

logger = logging.getLogger("toolpost")

PYTHON: Final = "/usr/bin/python3"
_HANDED_ON: Final = (
    *("PATH", "HOME", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "DBUS_SESSION_BUS_ADDRESS"),
    *("DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY", "CONTAINER_HOST", "CONTAINERS_CONF"),
    "CONTAINERS_STORAGE_CONF",
)
"""What the engine's client gets of our environment; programs see nothing of it."""
_ASK_S: Final = 30.0


class ContainerBackend(NativeBackend):
    """Runs jobs in containers of an image.

    engine: podman or docker. image: one that the engine has, with Python 3.11 or later at python; nothing is pulled.
    runtime: what runs containers for the engine, as runsc. arguments: more options for the engine's run, which are the
    operator's to answer for. SANDBOX_IMAGE and SANDBOX_RUNTIME of the environment stand in for those not given.
    """

    name = "container"
    launcher = "container_launcher"

    def __init__(
        self,
        profile: Sandbox,
        root: Path,
        warm: int,
        *,
        engine: Literal["podman", "docker"] = "podman",
        image: str = "",
        runtime: str = "",
        python: str = PYTHON,
        arguments: Sequence[str] = (),
        name: str = "",
    ) -> None:
        super().__init__(profile, root, warm)
        self.name = name or engine
        self._engine = engine
        self._image = image or os.environ.get("SANDBOX_IMAGE", "")
        self._runtime = runtime or os.environ.get("SANDBOX_RUNTIME", "")
        self._python, self._arguments = python, tuple(arguments)
        if self._image.startswith("-"):
            raise ConfigurationError(f"{engine} would take the image {self._image!r} for an option; name an image")
        for source, target in [*self._packages, *((one.source, one.target) for one in profile.mounts)]:
            if ":" in source + target:
                raise ConfigurationError(f"{engine} cannot mount {source!r} at {target!r}: a path has a colon in it")

    def start(self) -> None:
        self._root = folder.make(self._root)
        self._reap()
        super().start()

    def close(self) -> None:
        began = self._link is not None
        super().close()
        if began:
            self._reap()  # what did not end with its relay

    def report(self) -> BackendReport:
        try:
            self._asked()
        except SandboxError as error:
            missing = Missing(error.message, self._way_out(error.message))
            return BackendReport(backend=self.name, missing=dict.fromkeys(Control, missing))
        return super().report()

    def _way_out(self, why: str) -> str:
        if not self._image:
            return f"set SANDBOX_IMAGE to an image with Python 3.11 or later that {self._engine} has"
        if "image" in why.lower():
            return f"load or pull the image {self._image}, as nothing is pulled without being told"
        return f"see what '{self._engine} info' and '{self._engine} run' say, or take another back end"

    def _reported(self, facts: dict[str, Any] | None, error: SandboxError | None = None) -> BackendReport:
        if error is not None or facts is None:
            why = error.message if error is not None else "no launcher"
            return BackendReport(backend=self.name, missing=dict.fromkeys(Control, Missing(why, self._way_out(why))))
        report = super()._reported(facts, error)
        enforced, missing = dict(report.enforced), dict(report.missing)
        enforced[Control.DISK] = Enforced("tmpfs size=: half for the work folder, the rest for /tmp and /dev/shm")
        if self._engine == "podman":
            enforced.pop(Control.INODES)
            missing[Control.INODES] = Missing("podman cannot bound a tmpfs's files", "count on memory_bytes, or docker")
        else:
            enforced[Control.INODES] = Enforced("tmpfs nr_inodes=: half for the work folder")
        if is_gvisor(self._runtime) and Control.PROCESS_COUNT in enforced:
            enforced[Control.PROCESS_COUNT] = Enforced("--pids-limit, over the threads of gVisor's kernel", hard=False)
        enforced[Control.NETWORK] = Enforced(f"--network none, made by {facts['made_by']}")
        filtered = "and the engine's by name" if facts["engine_seccomp"] else "the engine has none"
        enforced[Control.SYSCALLS] = Enforced(f"{report.enforced[Control.SYSCALLS].by}, {filtered}")
        user = "a user of the engine's user namespace" if facts["rootless"] else f"host user {facts['uid']}"
        if facts["capabilities"].strip("0") or not facts["no_new_privileges"]:
            del enforced[Control.PRIVILEGES]
            why = f"containers of {facts['made_by']} keep capabilities or may gain some"
            missing[Control.PRIVILEGES] = Missing(why, "leave out options that give them")
        else:
            enforced[Control.PRIVILEGES] = Enforced(f"no capabilities, no_new_privs, {user}")
        if not facts["seccomp"]:
            enforced.pop(Control.SYSCALLS)
            missing[Control.SYSCALLS] = Missing(f"{facts['made_by']} has no seccomp filters", "take another runtime")
        if self._profile.network.allow:
            enforced.pop(Control.NETWORK, None)
            why = "the allow-list proxy cannot be reached from containers"
            missing[Control.NETWORK] = Missing(why, "allow no hosts, or take the native back end")
        return BackendReport(backend=self.name, enforced=enforced, missing=missing)

    def _config(self) -> dict[str, Any]:
        path, about = self._asked()
        return (
            super()._config()
            | about
            | {
                "container_engine": self._engine,
                "engine_path": path,
                "engine_env": self._environment(),
                "image": self._image,
                "runtime": self._runtime,
                "python": self._python,
                "arguments": list(self._arguments),
                "cgroups": False,
                "distinct": False,
                "direct": False,
                "relayed": True,
                "network": 0,
                "prefix": "/usr",
                "trial": True,
            }
        )

    @staticmethod
    def _environment() -> dict[str, str]:
        return {name: os.environ[name] for name in _HANDED_ON if name in os.environ}

    def _asked(self) -> tuple[str, dict[str, Any]]:
        """The engine's client, and what it says of the engine. Raises SandboxError."""
        path = shutil.which(self._engine)
        if path is None:
            raise not_run(f"{self._engine} is not installed: there is none on the PATH")
        if not self._image:
            raise not_run(f"no image is set for containers of {self._engine}")
        said = self._ask(path, "info", "--format", "json" if self._engine == "podman" else "{{json .}}")
        try:
            about = json.loads(said)
            return path, (of_podman if self._engine == "podman" else of_docker)(about, self._runtime)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise not_run(f"'{self._engine} info' cannot be read: {type(error).__name__}: {error}") from error

    def _ask(self, path: str, *words: str) -> str:
        command = [path, *words]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_ASK_S,
                check=False,
                env=self._environment(),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise not_run(f"'{self._engine} {words[0]}' failed: {error}") from error
        if done.returncode:
            why = done.stderr.decode("utf-8", "replace").strip()[-500:]
            raise not_run(f"'{self._engine} {words[0]}' failed: {why or f'exit code {done.returncode}'}")
        return done.stdout.decode("utf-8", "replace")

    def _reap(self) -> None:
        """Remove containers of launchers that began at this root and are gone."""
        path = shutil.which(self._engine)
        if path is None:
            return
        root = self._root.resolve()
        label = 'index .Labels "toolpost.launcher"' if self._engine == "podman" else '.Label "toolpost.launcher"'
        wanted, form = f"label=toolpost.root={root}", f"{{{{.ID}}}} {{{{{label}}}}}"
        try:
            said = self._ask(path, "ps", "--all", "--filter", wanted, "--format", form)
        except SandboxError:
            return  # it cannot be asked, which start tells in its own words
        for line in said.splitlines():
            container, _, owner = line.partition(" ")
            if owner and is_gone(root / owner):
                try:
                    self._ask(path, "rm", "--force", container)
                except SandboxError as error:  # the engine may be removing it just now
                    logger.warning("a container of a sandbox launcher that ended may be left: %s", error)


def is_gone(folder: Path) -> bool:
    """Whether no launcher lives that has this run folder."""
    return not folder.exists() or is_dead(folder)


def of_podman(about: dict[str, Any], runtime: str) -> dict[str, Any]:
    """What podman's info says that we need."""
    host = about["host"]
    runs = runtime or host["ociRuntime"]["name"]
    version = host["cgroupVersion"]
    controllers = set(host.get("cgroupControllers") or ())
    return _about(
        f"podman {about['version']['Version']} with {os.path.basename(runs)}",
        rootless=bool(host["security"]["rootless"]),
        limited=controllers >= {"memory", "pids", "cpu"} and host.get("cgroupManager") != "disabled",
        cgroup=f"podman's cgroup {version}",
    )


def of_docker(about: dict[str, Any], runtime: str) -> dict[str, Any]:
    """What docker's info says that we need. Raises SandboxError where the client has no server."""
    if about.get("ServerErrors"):
        raise not_run(f"docker has no server: {'; '.join(map(str, about['ServerErrors']))}")
    options = [str(one) for one in about.get("SecurityOptions") or ()]
    return _about(
        f"docker {about['ServerVersion']} with {runtime or about['DefaultRuntime']}",
        rootless=any("rootless" in one for one in options),
        limited=all(about.get(name) for name in ("MemoryLimit", "PidsLimit", "CpuCfsQuota")),
        cgroup=f"docker's cgroup v{about.get('CgroupVersion', '?')}",
    )


def _about(made_by: str, *, rootless: bool, limited: bool, cgroup: str) -> dict[str, Any]:
    by = {"memory": "--memory", "process_count": "--pids-limit", "cpu": "--cpus"}
    return {
        "made_by": made_by,
        "rootless": rootless,
        "limited_by": {what: f"{option} ({cgroup})" for what, option in by.items()} if limited else None,
    }


def podman(profile: Sandbox, root: Path, warm: int) -> ContainerBackend:
    """The back end called podman: the image and runtime are those of the environment."""
    return ContainerBackend(profile, root, warm, engine="podman")


def docker(profile: Sandbox, root: Path, warm: int) -> ContainerBackend:
    """The back end called docker: the image and runtime are those of the environment."""
    return ContainerBackend(profile, root, warm, engine="docker")


def gvisor(profile: Sandbox, root: Path, warm: int) -> ContainerBackend:
    """The back end called gvisor: docker, or podman where there is no docker, with runsc below it."""
    engine: Literal["podman", "docker"] = "docker" if shutil.which("docker") else "podman"
    return ContainerBackend(profile, root, warm, engine=engine, runtime="runsc", name="gvisor")
