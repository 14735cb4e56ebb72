"""`toolpost doctor` says what is wrong, and the way out."""

import os
import re
import time
import tomllib
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.sandbox.played import Played
from tests.transports.cli_shop import HERE, invoke
from toolpost.sandbox import backends
from toolpost.sandbox.outcome import Missing
from toolpost.sandbox.profile import Control
from toolpost.transports import cli_doctor, cli_doctor_serving, cli_findings
from toolpost.transports.serve_defaults import key_in

ROOT = Path(__file__).resolve().parent.parent.parent


def findings(*arguments: str, exit_code: int, **more: Any) -> dict[str, dict[str, Any]]:
    ended = invoke("doctor", "--json", *arguments, **more)
    assert ended.exit_code == exit_code, ended.stdout + ended.stderr
    return {finding["check"]: finding for finding in orjson.loads(ended.stdout)}


def test_all_is_well_here(tmp_path: Path) -> None:
    found = findings("--set", f"allowed_directories={tmp_path}", exit_code=0)

    others = {check: finding for check, finding in found.items() if not check.startswith("sandbox ")}
    assert {finding["status"] for finding in others.values()} == {"ok"}
    assert {"python", "pydantic", "configuration", "sandbox_root", "allowed directory", "event loop"} <= set(found)
    assert {"threads", "clock", "temporary files"} <= set(found)
    assert found[f"tools {HERE}"]["found"] == "8 load"


def test_people_get_a_line_a_check() -> None:
    lines = [line for line in invoke("doctor").stdout.splitlines() if "sandbox" not in line and line[0] != " "]

    assert [line for line in lines if not re.match(r"ok    \S.*: \S", line)] == []
    assert len(lines) > 10


def test_the_packages_checked_are_those_toolpost_depends_on() -> None:
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]

    assert stated == [f"{name}>={lowest}" for name, lowest in cli_doctor.REQUIRED.items()]


@pytest.mark.parametrize(
    ("arguments", "check", "said"),
    [
        (["--set", "cache_size=x"], "configuration", "cache_size must be a whole number"),
        (["--set", "cache_backend=redis"], "configuration", "no Redis is named"),
        (["--set", "sandbox_root=/proc/nowhere"], "sandbox_root", "cannot be written"),
        (["--set", "allowed_directories=/nowhere/at/all"], "allowed directory", "does not exist"),
        (["--set", "allowed_directories=/etc/passwd"], "allowed directory", "is no directory"),
        (["--tools", "nope:x"], "tools nope:x", "No module named 'nope'"),
    ],
)
def test_what_is_wrong_is_found_with_a_way_out_and_the_rest_is_checked_all_the_same(
    arguments: list[str], check: str, said: str
) -> None:
    found = findings(*arguments, exit_code=1)

    assert found[check]["status"] == "fail"
    assert said in found[check]["found"]
    assert found[check]["way_out"]
    assert found["clock"]["status"] == "ok"
    assert found[f"tools {HERE}"]["status"] == "ok"


def test_a_missing_and_an_old_package_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_doctor, "REQUIRED", {"no-such-package": "1.0", "click": "99.0"})

    found = findings(exit_code=1)

    assert found["no-such-package"]["way_out"] == "pip install 'no-such-package>=1.0'"
    assert "99.0 or newer is needed" in found["click"]["found"]


def test_an_old_python_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_doctor, "MIN_PYTHON", (99, 0))

    assert findings(exit_code=1)["python"]["way_out"] == "install Python 99.0 or newer"


def test_little_space_and_no_tools_are_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_findings, "MIN_FREE_BYTES", 10**18)

    found = findings(exit_code=0, tools=False)

    assert found["temporary files"]["status"] == found["tools"]["status"] == "warn"


def test_a_clock_before_the_installation_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_000_000_000.0)

    assert cli_doctor._clock().status == "warn"


def test_a_loop_that_does_not_work_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise OSError("too many open files")

    monkeypatch.setattr(cli_doctor, "_loop_works", broken)

    assert findings(exit_code=1)["event loop"]["found"] == "OSError: too many open files"


def test_a_way_out_is_shown_below_its_finding() -> None:
    shown = invoke("doctor", "--set", "sandbox_root=/proc/nowhere").stdout

    assert "fail  sandbox_root: /proc cannot be written" in shown
    assert "      set sandbox_root to a directory that can be written" in shown


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_directory_that_cannot_be_read_is_found(tmp_path: Path) -> None:
    tmp_path.chmod(0)

    found = findings("--set", f"allowed_directories={tmp_path}", exit_code=1)

    assert "cannot be read" in found["allowed directory"]["found"]


def test_stores_that_answer_are_said_to_and_those_that_do_not_fail(tmp_path: Path, redis_url: str) -> None:
    good = ["--set", f"records_url=sqlite:///{tmp_path}/r.db", "--set", f"state_url={redis_url}"]
    gone = ["--set", "records_url=postgresql://u:hunter2@127.0.0.1:1/d", "--set", f"blobs_url=file://{tmp_path}/blobs"]

    well, ill = findings(*good, exit_code=0), findings(*gone, exit_code=1)

    assert (well["records"]["status"], well["state"]["status"]) == ("ok", "ok")
    assert well["records"]["found"] == f"sqlite:///{tmp_path}/r.db answers"
    assert (ill["records"]["status"], ill["blobs"]["status"]) == ("fail", "ok")
    assert "127.0.0.1:1" in ill["records"]["found"]
    assert "hunter2" not in str(ill)


# -- sandboxes --------------------------------------------------------------------------------------------------------

NO_NAMESPACES = {
    control: Missing("user namespaces are off", "sysctl kernel.unprivileged_userns_clone=1")
    for control in (Control.FILES, Control.NETWORK)
}


def with_back_ends(monkeypatch: pytest.MonkeyPatch, **played: Played) -> None:
    """Has other back ends stand for our own: what machines lack cannot be had here."""
    monkeypatch.setattr(backends, "BUILT_IN", {name: f"stand_in:{name}" for name in played})
    monkeypatch.setattr(backends, "import_module", lambda module: type("M", (), played))


def test_each_back_end_tells_what_is_held_by_what(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Played(name="native", missing={Control.LANDLOCK: Missing("the kernel has none", "boot with lsm=landlock")})
    without = Played(name="bubblewrap", missing=NO_NAMESPACES)
    with_back_ends(monkeypatch, native=held, bubblewrap=without)

    found = findings(exit_code=0)

    assert found["sandbox native"]["status"] == found["sandbox bubblewrap"]["status"] == "ok"
    assert "runs programs; files, processes, network" in found["sandbox native"]["found"]
    assert "by play; without landlock: the kernel has none" in found["sandbox native"]["found"]
    assert found["sandbox bubblewrap"]["found"] == "is not needed; lacks files, network: user namespaces are off"
    assert (held.starts, without.starts) == (0, 0)


def test_where_no_back_end_holds_it_is_a_warning_and_a_failure_once_tools_need_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_back_ends(monkeypatch, native=Played(name="native", missing=NO_NAMESPACES))

    unasked = findings(exit_code=0)["sandbox native"]
    needed = findings("--set", "sandbox_tools=true", exit_code=1)["sandbox native"]

    assert (unasked["status"], needed["status"]) == ("warn", "fail")
    assert needed["found"] == "lacks files, network: user namespaces are off"
    assert needed["way_out"] == "files, network: sysctl kernel.unprivileged_userns_clone=1"


def test_a_back_end_that_lacks_everything_says_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = dict.fromkeys(Control, Missing("there are no namespaces", "run Linux"))
    with_back_ends(monkeypatch, native=Played(name="native", missing=nothing))

    found = findings(exit_code=0)["sandbox native"]

    assert found["found"] == "lacks everything: there are no namespaces"
    assert found["way_out"] == "everything: run Linux"


def test_a_back_end_that_nobody_has_is_found() -> None:
    found = findings("--set", "sandbox_backend=nativ", exit_code=1)["sandbox"]

    assert "did you mean 'native'" in found["found"]


def test_the_back_ends_of_this_machine_are_examined_and_nothing_is_left(tmp_path: Path) -> None:
    found = findings("--set", f"sandbox_root={tmp_path}/boxes", exit_code=0)["sandbox native"]

    assert re.match(r"(runs programs; .*files.* by |lacks )", found["found"])
    assert list(tmp_path.glob("boxes/*")) == []


def test_the_packages_of_gateways_are_those_of_their_extras() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    for extra, packages in cli_doctor_serving.EXTRAS.items():
        stated = {re.split(r"[,;]", one)[0].strip() for one in extras[extra]}
        assert {f"{name}>={lowest}" for name, lowest in packages.items()} <= stated


@pytest.mark.parametrize(
    ("settings", "exit_code", "status", "said"),
    [
        ((), 0, "ok", "is not installed; serve_server=granian needs it: pip install 'toolpost[granian]'"),
        (("--set", "serve_server=granian"), 1, "fail", "no-such-package missing"),
    ],
)
def test_an_extra_that_is_missing_is_a_failure_only_where_it_is_asked_for(
    settings: tuple[str, ...], exit_code: int, status: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cli_doctor_serving.EXTRAS, "granian", {"no-such-package": "1"})

    found = findings(*settings, exit_code=exit_code)

    assert (found["extra granian"]["status"], found["extra granian"]["found"]) == (status, said)
    assert found["extra serve"]["status"] == "ok"


def test_a_data_directory_and_its_key_are_looked_at(tmp_path: Path) -> None:
    key_in(tmp_path)
    well = findings("--data", f"{tmp_path}", exit_code=0)
    (tmp_path / "secret.key").chmod(0o644)
    ill = findings("--data", f"{tmp_path}", exit_code=1)

    assert well["data directory"]["status"] == well["secret key"]["status"] == "ok"
    assert "others can read the key" in ill["secret key"]["found"]
    assert "data directory" not in findings(exit_code=0)
