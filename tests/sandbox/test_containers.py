"""The back end of container engines: the contract and hostile programs on podman where it runs, and what it tells."""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import miss
from tests.sandbox import images
from tests.sandbox.escape_runs import Run, Runs
from tests.sandbox.escapes.suite import GROUPS
from tests.services import Bubblewrap, Missing
from toolpost.calls.errors import ConfigurationError, SandboxError
from toolpost.sandbox import container_launcher, containers, link
from toolpost.sandbox.backend import BackendFactory, Job
from toolpost.sandbox.containers import ContainerBackend
from toolpost.sandbox.ending import result_of
from toolpost.sandbox.profile import Control, Sandbox, SandboxMount, SandboxNetwork
from toolpost.testing.sandbox_contract import SandboxContract

pytestmark = pytest.mark.timeout(240)

STAND_IN = Path(__file__).with_name("stand_in_engine.py")
LIMITS = SandboxContract.profile.limits


@pytest.fixture(scope="module")
def runtime() -> str:
    """What runs containers of podman here. No service brings it: not every machine that runs the tests lets it."""
    found = images.podman()
    if not found:
        pytest.skip("NOT TESTED without podman: install podman and runc or crun, where containers can be run")
    return found


class TestPodman(SandboxContract):
    warm = 1

    @pytest.fixture
    def factory(self, runtime: str) -> BackendFactory:
        return on_podman(runtime)


class TestGvisor(SandboxContract):
    @pytest.fixture
    def factory(self) -> BackendFactory:
        found = images.podman("runsc")
        if not found:
            pytest.skip("NOT TESTED without gvisor: install runsc and podman, where containers can be run")
        return on_podman(found)


class TestStandIn(SandboxContract):
    """The back end's own part, with a stand-in for the engine, where no container can be run."""

    @pytest.fixture
    def factory(self, stand_in: None) -> BackendFactory:
        return functools.partial(ContainerBackend, engine="podman", image="stand-in")


def on_podman(runtime: str) -> BackendFactory:
    return functools.partial(
        ContainerBackend, engine="podman", image=images.NAME, runtime=runtime, arguments=images.SHOWN
    )


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> None:
    try:
        Bubblewrap.find()
    except Missing as error:
        miss(Bubblewrap.name, str(error), pytestconfig)
    engine(tmp_path, monkeypatch, f'exec {sys.executable} -I {STAND_IN} "$@"')


def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, name: str = "podman") -> None:
    """Put a program of this name before all others."""
    folder = tmp_path.parent / f"{tmp_path.name}-bin"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


# hostile programs, on podman

OF_ENGINES = {
    "files-devices": "an engine makes more devices, which Landlock closes",
    "information-identity": "an engine that runs as root makes no user namespace",
    "artifacts-large": "the work folder has half of the disk's limit",
    "artifacts-no-rights": "the work folder is not the program's to close",
}
"""What other back ends do not show, and containers do."""


@pytest.fixture(scope="module")
def runs(runtime: str) -> Iterator[Runs]:
    made = Runs({"podman": Run(arguments=("podman", "--quick"))})
    yield made
    made.close()


@pytest.mark.parametrize("group", [group.name for group in GROUPS])
def test_hostile_programs_are_contained(runs: Runs, group: str) -> None:
    findings = runs["podman"]["findings"]
    wrong = {
        name: said
        for name, said in findings.items()
        if said and name.startswith(f"{group}-") and name not in OF_ENGINES
    }

    assert not wrong, "\n".join(f"{name}: {'; '.join(said)}" for name, said in wrong.items())


def test_nothing_is_left_when_it_is_closed(runs: Runs) -> None:
    assert len(runs["podman"]["findings"]) > 50
    assert runs["podman"]["left"] == []


def left(root: Path) -> list[str]:
    """Containers that began at this root."""
    words = ["podman", "ps", "--all", "--quiet", "--filter", f"label=toolpost.root={root.resolve()}"]
    return subprocess.run(words, capture_output=True, check=True, text=True).stdout.split()


def gone(root: Path) -> bool:
    until = time.monotonic() + 30
    while left(root) and time.monotonic() < until:
        time.sleep(0.1)
    return left(root) == []


def test_containers_end_with_a_launcher_that_is_killed(runtime: str, tmp_path: Path) -> None:
    backend = on_podman(runtime)(SandboxContract.profile, tmp_path, 1)
    backend.start()
    try:
        session = backend.open_session()
        backend.run(Job(argv=("true",), limits=LIMITS, session=session))
        assert left(tmp_path)
        os.kill(backend._link.pid, signal.SIGKILL)  # type: ignore[attr-defined]

        assert gone(tmp_path)
    finally:
        backend.close()


def test_a_start_removes_what_a_launcher_of_before_left(runtime: str, tmp_path: Path) -> None:
    words = ["podman", "--runtime", runtime, "run", "--detach", "--network", "none", "--pull", "never", *images.SHOWN]
    words += ["--ulimit", "nofile=256:256", "--ulimit", "nproc=4096:4096"]
    words += ["--label", f"toolpost.root={tmp_path.resolve()}", "--label", "toolpost.launcher=l-1-dead"]
    subprocess.run([*words, images.NAME, "/usr/bin/sleep", "300"], check=True, capture_output=True)
    assert len(left(tmp_path)) == 1

    backend = on_podman(runtime)(SandboxContract.profile, tmp_path, 0)
    backend.start()
    backend.close()

    assert left(tmp_path) == []


# what is told, and what the engine is told


def config(**more: Any) -> dict[str, Any]:
    limits = {name: getattr(LIMITS, name) for name in LIMITS.__dataclass_fields__}
    return {
        "container_engine": "podman",
        "engine_path": "/usr/bin/podman",
        "image": "the/image",
        "runtime": "",
        "python": "/usr/bin/python3",
        "arguments": [],
        "work": "/box",
        "mounts": [("/data", "/data")],
        "limited_by": {"memory": "", "process_count": "", "cpu": ""},
        "limits": limits,
        **more,
    }


def words_of(**more: Any) -> list[str]:
    labels = {"toolpost.launcher": "l-1-x"}
    return container_launcher.run_command(config(**more), name="one", user=64000, labels=labels, profile="/s.json")


def pairs(words: list[str]) -> set[tuple[str, str]]:
    return set(itertools.pairwise(words))


@pytest.mark.parametrize("name", ["podman", "docker"])
def test_an_engine_is_told_everything_that_holds_a_program(name: str) -> None:
    words = words_of(container_engine=name)
    image = words.index("the/image")

    assert {"--rm", "--read-only"} <= set(words[:image])
    assert pairs(words[:image]) >= {
        ("--network", "none"),
        ("--cap-drop", "ALL"),
        ("--security-opt", "no-new-privileges"),
        ("--security-opt", "seccomp=/s.json"),
        ("--ipc", "none"),
        ("--pull", "never"),
        ("--user", "64000:64000"),
        ("--memory", str(LIMITS.memory_bytes)),
        ("--memory-swap", str(LIMITS.memory_bytes)),
        ("--pids-limit", str(LIMITS.processes + 2)),
        ("--cpus", str(LIMITS.cpus)),
        ("--volume", "/data:/data:ro"),
        ("--label", "toolpost.launcher=l-1-x"),
        ("--entrypoint", "/usr/bin/python3"),
    }
    assert words[image + 1 : image + 6] == ["-I", "-S", "-E", "-B", "-c"]


@pytest.mark.parametrize("name", ["podman", "docker"])
def test_the_places_that_can_be_written_have_the_disks_limit_together(name: str) -> None:
    words = words_of(container_engine=name)
    places = dict(value.split(":") for option, value in pairs(words) if option == "--tmpfs")
    options = [dict(one.split("=") for one in value.split(",") if "=" in one) for value in places.values()]

    assert set(places) == {"/box", "/tmp", "/dev/shm"}
    assert sum(int(one["size"]) for one in options) <= LIMITS.disk_bytes
    if name == "docker":
        assert sum(int(one["nr_inodes"]) for one in options) <= LIMITS.inodes


def test_a_runtime_is_named_where_each_engine_wants_it() -> None:
    assert words_of(runtime="crun")[:4] == ["/usr/bin/podman", "--runtime", "crun", "run"]
    # Below podman gVisor takes the empty network namespace for the host's.
    assert words_of(runtime="runsc")[3:6] == ["--runtime-flag", "network=none", "run"]
    docker = words_of(runtime="runsc", container_engine="docker")
    assert docker[1] == "run"
    assert ("--runtime", "runsc") in pairs(docker)


def test_an_engine_without_control_groups_is_not_told_of_limits_that_it_would_refuse() -> None:
    assert not {"--memory", "--pids-limit", "--cpus"} & set(words_of(limited_by=None))


def test_the_engines_filter_lets_programs_and_the_warden_work_and_nothing_else() -> None:
    profile = container_launcher.engine_profile()
    by_action = {
        (one["action"], one.get("errnoRet")): set(one["names"]) for one in profile["syscalls"] if "args" not in one
    }
    allowed = by_action["SCMP_ACT_ALLOW", None]

    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert allowed >= {"read", "execve", "seccomp", "pidfd_getfd", "openat2"}
    assert [one["names"] for one in profile["syscalls"] if "args" in one] == [["clone"]]
    assert "clone3" in by_action["SCMP_ACT_ERRNO", 38]
    for name in (
        "mount",
        "unshare",
        "setns",
        "ptrace",
        "clone",
        "bpf",
        "keyctl",
        "io_uring_setup",
        "init_module",
        "pivot_root",
    ):
        assert name not in allowed, name


PODMAN = {
    "host": {
        "cgroupControllers": ["cpu", "memory", "pids"],
        "cgroupManager": "systemd",
        "cgroupVersion": "v2",
        "ociRuntime": {"name": "crun"},
        "security": {"rootless": True},
    },
    "version": {"Version": "5.4.0"},
}
DOCKER = {
    "ServerVersion": "28.2.2",
    "DefaultRuntime": "runc",
    "CgroupVersion": "2",
    "MemoryLimit": True,
    "PidsLimit": True,
    "CpuCfsQuota": True,
    "SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"],
}


def test_what_an_engine_says_of_itself_is_read() -> None:
    assert containers.of_podman(PODMAN, "") == {
        "made_by": "podman 5.4.0 with crun",
        "rootless": True,
        "limited_by": {
            "memory": "--memory (podman's cgroup v2)",
            "process_count": "--pids-limit (podman's cgroup v2)",
            "cpu": "--cpus (podman's cgroup v2)",
        },
    }
    without = {**PODMAN, "host": {**PODMAN["host"], "cgroupControllers": ["cpu"]}}  # type: ignore[dict-item]
    assert containers.of_podman(without, "/opt/runsc")["limited_by"] is None
    assert containers.of_podman(without, "/opt/runsc")["made_by"] == "podman 5.4.0 with runsc"
    docker = containers.of_docker(DOCKER, "runsc")
    assert (docker["made_by"], docker["rootless"]) == ("docker 28.2.2 with runsc", True)
    assert docker["limited_by"]["memory"] == "--memory (docker's cgroup v2)"
    assert containers.of_docker({**DOCKER, "PidsLimit": False}, "")["limited_by"] is None
    with pytest.raises(SandboxError, match="docker has no server: Cannot connect"):
        containers.of_docker({"ServerErrors": ["Cannot connect"]}, "")


def refused(backend: ContainerBackend) -> str:
    """Why it holds nothing, which a call is told too."""
    report = backend.report()
    assert set(report.missing) == set(Control)
    with pytest.raises(SandboxError) as error:
        backend.run(Job(argv=("true",), limits=LIMITS))
    assert error.value.outcome == "not_run"
    missing = report.missing[Control.FILES]
    return f"{missing.why}; {missing.way_out}"


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for engines that do not work."""
    profile = SandboxContract.profile
    monkeypatch.setenv("SANDBOX_IMAGE", "an/image")
    monkeypatch.setenv("PATH", "/nowhere")
    assert "docker is not installed" in refused(containers.docker(profile, tmp_path, 0))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    engine(tmp_path, monkeypatch, "echo Cannot connect to the daemon >&2; exit 1", "docker")
    assert "Cannot connect to the daemon" in refused(containers.docker(profile, tmp_path, 0))
    engine(tmp_path, monkeypatch, "echo '[]'", "docker")
    assert "'docker info' cannot be read" in refused(containers.docker(profile, tmp_path, 0))
    engine(
        tmp_path,
        monkeypatch,
        f"test $1 = info && echo '{json.dumps(DOCKER)}' && exit\necho no such image >&2",
        "docker",
    )
    assert "no such image; load or pull the image an/image" in refused(containers.docker(profile, tmp_path, 0))
    monkeypatch.delenv("SANDBOX_IMAGE")
    assert "set SANDBOX_IMAGE to an image" in refused(containers.docker(profile, tmp_path, 0))


def test_the_three_names_are_factories_of_the_plugin_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine(tmp_path, monkeypatch, "exit 1", "docker")
    monkeypatch.setenv("SANDBOX_RUNTIME", "crun")
    made = {name: getattr(containers, name)(Sandbox(), tmp_path, 0) for name in ("podman", "docker", "gvisor")}

    assert {name: backend.name for name, backend in made.items()} == {name: name for name in made}
    assert made["gvisor"]._runtime == "runsc"
    assert made["podman"]._runtime == "crun"
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for name in made:
        assert f'{name} = "toolpost.sandbox.containers:{name}"' in pyproject


def test_a_path_with_a_colon_cannot_be_mounted(tmp_path: Path) -> None:
    profile = Sandbox(mounts=(SandboxMount(source="/a:b", target="/data"),))

    with pytest.raises(ConfigurationError, match="colon"):
        ContainerBackend(profile, tmp_path, 0)


def test_an_image_is_no_option(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="for an option"):
        ContainerBackend(SandboxContract.profile, tmp_path, 0, image="--privileged")


def test_a_start_goes_on_where_a_left_container_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A stand-in whose engine is removing it already, and says so."""
    script = "test $1 = ps && echo c0ffee l-1-dead && exit\necho removal is in progress >&2; exit 1"
    engine(tmp_path, monkeypatch, script)
    backend = ContainerBackend(SandboxContract.profile, tmp_path, 0, image="an/image")
    backend._reap()

    assert "removal is in progress" in caplog.text


@pytest.mark.parametrize("how", ["its sandbox is killed", "its launcher is killed"])
def test_a_container_that_hangs_is_removed_with_force(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for an engine whose containers end of nothing but rm, or the reaper's."""
    told = tmp_path / "told"
    start = f"test $1 = info && exec {sys.executable} -I {STAND_IN} info\ntest $1 = ps && cat {tmp_path}/lives && exit"
    served = f'test $1 = rm && echo "$@" >> {told} && exit\necho "$@" | grep -q -- "--name toolpost-.*-0 " && '
    run = f'exec {sys.executable} -I {STAND_IN} "$@"\ntrap "" TERM; sleep 60 &\nwait'
    engine(tmp_path, monkeypatch, f"{start}\n{served}{run}")
    (tmp_path / "lives").write_text("")
    monkeypatch.setattr(link, "START_S", 15.0)
    backend = ContainerBackend(SandboxContract.profile, tmp_path / "root", 0, image="stand-in")
    backend.start()
    assert backend._link is not None
    (folder,) = (tmp_path / "root").glob("l-*")
    name = folder.name
    box = backend._link.take({})
    if how == "its sandbox is killed":
        box.kill()
    else:
        (tmp_path / "lives").write_text(f"c0ffee {name}\n")
        os.kill(backend._link.pid, signal.SIGKILL)
    box.end()
    backend.close()

    removed = f"toolpost-{name}-1" if how == "its sandbox is killed" else "c0ffee"
    assert f"rm --force {removed}" in told.read_text()


def test_a_profile_with_hosts_is_not_held(stand_in: None, tmp_path: Path) -> None:
    profile = Sandbox(network=SandboxNetwork(allow=("example.com",)))
    report = ContainerBackend(profile, tmp_path, 0, image="stand-in").report()

    assert "proxy cannot be reached" in report.missing[Control.NETWORK].why
    assert Control.NETWORK in report.lacks(profile.require)


def test_times_of_another_clock_are_not_taken_for_ours() -> None:
    """gVisor's clock begins with its sandbox; a stand-in for a conversation with one."""
    report = {"status": 0, "began": 5.0, "ended": 6.0, "cpu_s": 0.1, "processes": 1, "disk": 0}
    talk: Any = SimpleNamespace(
        report=report,
        stopped=None,
        kept=[b"", b""],
        totals=[0, 0],
        artifacts=b"",
        traffic=None,
        began=1000.5,
        ended=1002.5,
    )
    result = result_of(talk, Job(argv=("true",), limits=LIMITS), backend="x", called=1000.0, warm=False, enforced={})

    assert (result.usage.start_s, result.usage.wall_s) == (0.5, 2.0)


def test_a_report_is_of_what_the_container_has(stand_in: None, tmp_path: Path) -> None:
    """The stand-in drops no capabilities from what a program may gain, and has no control groups."""
    report = ContainerBackend(SandboxContract.profile, tmp_path, 0, image="stand-in").report()

    assert "a stand-in" in report.enforced[Control.FILES].by
    assert not report.enforced[Control.MEMORY].hard
    assert Control.INODES in report.missing
    assert "the engine has none" in report.enforced[Control.SYSCALLS].by
