"""The back end of bubblewrap keeps the contract and holds what the native one holds."""

from __future__ import annotations

import contextlib
import http.server
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import miss
from tests.sandbox.escape_runs import Run, Runs
from tests.sandbox.escapes.suite import GROUPS
from tests.sandbox.escapes.world import descendants
from tests.services.bubblewrap import Bubblewrap
from tests.services.server import Missing
from toolpost import EgressGuard, Sandboxes
from toolpost.calls.errors import SandboxError
from toolpost.sandbox.backend import BackendFactory, Job
from toolpost.sandbox.bubblewrap import BubblewrapBackend
from toolpost.sandbox.profile import Control, Sandbox, SandboxNetwork
from toolpost.testing.sandbox_contract import SandboxContract

pytestmark = pytest.mark.timeout(240)

ROOT = os.geteuid() == 0


@pytest.fixture(scope="module", autouse=True)
def bwrap(pytestconfig: pytest.Config) -> None:
    """bwrap is here, or the tests are left in the way that the run wants."""
    try:
        Bubblewrap.find()
    except Missing as error:
        miss(Bubblewrap.name, str(error), pytestconfig)


class TestWarm(SandboxContract):
    warm = 2

    @pytest.fixture
    def factory(self) -> BackendFactory:
        return BubblewrapBackend


class TestCold(SandboxContract):
    @pytest.fixture
    def factory(self) -> BackendFactory:
        return BubblewrapBackend


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[BubblewrapBackend]:
    made = BubblewrapBackend(SandboxContract.profile, tmp_path, 1)
    yield made
    made.close()


class AsOneUser(BubblewrapBackend):
    """As without root: bwrap builds the root file system too."""

    def _config(self) -> dict[str, Any]:
        return super()._config() | {"distinct": False}


def job(script: str, **more: Any) -> Job:
    return Job(argv=("/bin/sh", "-c", script), limits=SandboxContract.profile.limits, **more)


# what there has to be


def test_without_bwrap_nothing_is_held_and_the_report_says_what_to_install(tmp_path: Path) -> None:
    backend = BubblewrapBackend(SandboxContract.profile, tmp_path, 0, program="no-such-bwrap")
    report = backend.report()

    assert set(report.missing) == set(Control)
    assert "no-such-bwrap" in report.missing[Control.FILES].why
    assert "install bubblewrap" in report.missing[Control.FILES].way_out
    with pytest.raises(SandboxError, match="install bubblewrap") as refused:
        backend.run(job("echo ran"))
    assert refused.value.outcome == "not_run"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo bubblewrap 0.4.1", "0.4.1, which is too old"),
        ("echo something else", "does not tell its version"),
        ("exit 1", "does not tell its version"),
        (
            'test "$1" = --version && exec echo bubblewrap 0.8.0\necho bwrap: No permissions to create >&2\nexit 1',
            "bwrap: No permissions to create",
        ),
    ],
)
def test_a_bwrap_that_does_not_work_is_named_with_what_it_says(tmp_path: Path, script: str, said: str) -> None:
    """Stand-ins for other versions, and for hosts that let bwrap make no namespaces."""
    program = tmp_path / "bwrap"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    report = AsOneUser(SandboxContract.profile, tmp_path / "root", 0, program=str(program)).report()

    assert said in report.missing[Control.FILES].why
    assert report.lacks(SandboxContract.profile.require)


def test_the_report_says_that_bubblewrap_made_it(backend: BubblewrapBackend) -> None:
    enforced = backend.report().enforced

    for control in (Control.FILES, Control.PROCESSES, Control.IPC, Control.HOSTNAME):
        assert "bubblewrap" in enforced[control].by


def test_a_profile_with_hosts_reaches_them_through_the_proxy_and_no_others(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sunny) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"127.0.0.1:{server.server_port}"
        profile = Sandbox(network=SandboxNetwork(allow=(here,)))
        guard = EgressGuard(private=(here,))
        with Sandboxes(profile, egress=guard, backend="bubblewrap", root=tmp_path) as sandboxes:
            result = sandboxes.run_python_blocking(REACHES.replace("HERE", here))
        server.shutdown()

    assert result.stdout.whole == b"sunny\nrefused\n", result.stderr.whole


REACHES = """
from urllib.request import urlopen
print(urlopen("http://HERE/").read().decode())
try:
    urlopen("http://example.org/")
except OSError:
    print("refused")
"""


class Sunny(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"sunny")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing to tell."""


# what it leaves


def test_nothing_of_ours_is_seen_inside(backend: BubblewrapBackend) -> None:
    seen = backend.run(
        Job(
            code="import sys\ntry:\n  import toolpost\nexcept ImportError:\n  toolpost = None\n"
            "(toolpost, [n for n in sys.modules if 'toolpost' in n], [type(f).__name__ for f in sys.meta_path if "
            "type(f).__name__ == 'Carried'], len(__import__('os').listdir('/proc/self/fd')))",
            limits=SandboxContract.profile.limits,
        )
    )

    assert seen.value == "(None, [], [], 4)", seen.stderr.whole


def test_sandboxes_end_with_a_launcher_that_is_killed(tmp_path: Path) -> None:
    backend = BubblewrapBackend(SandboxContract.profile, tmp_path, 0)
    backend.start()
    try:
        session = backend.open_session()
        assert backend.run(job("echo ran", session=session)).status == "ok"
        ours = bwraps() & descendants(os.getpid())
        assert ours
        assert backend._link is not None
        os.kill(backend._link.pid, signal.SIGKILL)
        until = time.monotonic() + 20
        while bwraps() & ours and time.monotonic() < until:
            time.sleep(0.05)

        assert bwraps() & ours == set()
    finally:
        backend.close()


def test_a_start_in_whose_middle_the_launcher_is_killed_leaves_nothing(tmp_path: Path) -> None:
    """A stand-in for a bwrap that is told nothing any more; the one after it is real."""
    mark, begun = f"1{os.getpid()}", tmp_path / "begun"
    program = tmp_path / "bwrap"
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *--info-fd*) test -e {begun} || {{ : > {begun}; exec /bin/sleep {mark}; }};; esac\n'
        f'exec {shutil.which("bwrap")} "$@"\n'
    )
    program.chmod(0o755)
    backend = AsOneUser(SandboxContract.profile, tmp_path / "root", 0, program=str(program))

    def hanging() -> list[str]:
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if folder.name.isdigit() and (folder / "cmdline").read_bytes() == f"/bin/sleep\0{mark}\0".encode():
                    found.append(folder.name)
        return found

    try:
        backend.start()
        assert backend._link is not None
        held = backend._link.facts
        with ThreadPoolExecutor(1) as pool:
            ran = pool.submit(backend.run, job("echo ran"))
            until = time.monotonic() + 20
            while not hanging() and time.monotonic() < until:
                time.sleep(0.02)
            assert hanging()
            os.kill(backend._link.pid, signal.SIGKILL)
            assert ran.result().stdout.whole == b"ran\n"

        if held["cgroup"]:
            assert not hanging()
    finally:
        backend.close()
        for pid in hanging():
            os.kill(int(pid), signal.SIGKILL)


def bwraps() -> set[int]:
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if str(folder.joinpath("exe").readlink()).endswith("bwrap"):
                    found.add(int(folder.name))
            except OSError:
                continue
    return found


# hostile programs

WARM, COLD = ("bubblewrap", "--warm", "2"), ("bubblewrap", "--warm", "0", "--quick")
RUNS = {
    "warm": Run(arguments=WARM),
    **({"cold, ordinary user": Run(arguments=COLD, ordinary=True)} if ROOT else {}),
}


@pytest.fixture(scope="module")
def runs(bwrap: None) -> Iterator[Runs]:
    made = Runs(RUNS)
    yield made
    made.close()


@pytest.mark.parametrize("group", [group.name for group in GROUPS])
@pytest.mark.parametrize("how", RUNS)
def test_hostile_programs_are_contained(runs: Runs, how: str, group: str) -> None:
    findings = runs[how]["findings"]
    wrong = {name: said for name, said in findings.items() if said and name.startswith(f"{group}-")}

    assert not wrong, "\n".join(f"{name}: {'; '.join(said)}" for name, said in wrong.items())


@pytest.mark.parametrize("how", RUNS)
def test_nothing_is_left_when_it_is_closed(runs: Runs, how: str) -> None:
    assert len(runs[how]["findings"]) > 50
    assert runs[how]["left"] == []
