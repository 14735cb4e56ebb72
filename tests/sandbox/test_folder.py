"""The folder for sandboxes is refused where another user can change what is in it, or on the way to it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from toolpost.calls.errors import SandboxError
from toolpost.sandbox import folder, reaper
from toolpost.sandbox.native import NativeBackend
from toolpost.sandbox.profile import Sandbox

STRANGER = 54321
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what belongs to others")


def test_it_is_made_for_this_user_only(tmp_path: Path) -> None:
    made = folder.make(tmp_path / "a" / "b")

    assert made == tmp_path.resolve() / "a" / "b"
    assert made.stat().st_mode & 0o777 == 0o700


def test_links_of_this_user_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("./gone/../real")
    (tmp_path / "gone").mkdir()

    assert folder.make(tmp_path / "link" / "run") == tmp_path.resolve() / "real" / "run"


def of_a_stranger(at: Path) -> Path:
    os.chown(at, STRANGER, STRANGER)
    return at


def in_a_folder_of_a_stranger(at: Path) -> Path:
    of_a_stranger(at)
    return at / "run"


def by_a_link_of_a_stranger(at: Path) -> Path:
    link = at / "link"
    (at / "real").mkdir()
    link.symlink_to("real")
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    return link


def by_a_link_to_a_link_of_a_stranger(at: Path) -> Path:
    (at / "first").symlink_to(by_a_link_of_a_stranger(at))
    return at / "first"


def in_a_folder_that_others_may_write(at: Path) -> Path:
    at.chmod(0o777)
    return at / "run"


def with_a_link_where_its_own_folder_is(at: Path) -> Path:
    at.chmod(0o1777)
    (at / "elsewhere").mkdir()
    (at / f"user-{os.geteuid()}").symlink_to("elsewhere")
    return at


def by_links_in_a_circle(at: Path) -> Path:
    (at / "a").symlink_to("b")
    (at / "b").symlink_to("a")
    return at / "a"


def that_is_a_file(at: Path) -> Path:
    (at / "file").write_text("")
    return at / "file"


@pytest.mark.parametrize(
    "where",
    [
        pytest.param(of_a_stranger, marks=root_only),
        pytest.param(in_a_folder_of_a_stranger, marks=root_only),
        pytest.param(by_a_link_of_a_stranger, marks=root_only),
        pytest.param(by_a_link_to_a_link_of_a_stranger, marks=root_only),
        with_a_link_where_its_own_folder_is,
        in_a_folder_that_others_may_write,
        by_links_in_a_circle,
        that_is_a_file,
    ],
)
def test_an_unsafe_folder_is_refused(tmp_path: Path, where: Callable[[Path], Path]) -> None:
    top = tmp_path / "top"
    top.mkdir()
    backend = NativeBackend(Sandbox(), where(top), 0)

    with pytest.raises(SandboxError, match="SANDBOX_ROOT") as caught:
        backend.start()
    backend.close()
    assert caught.value.outcome == "not_run"


def test_in_a_folder_like_tmp_it_is_safe(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)

    assert folder.make(tmp_path / "run") == tmp_path.resolve() / "run"


def test_of_a_folder_like_tmp_a_part_is_this_users(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    made = folder.make(tmp_path)

    assert made == tmp_path.resolve() / f"user-{os.geteuid()}"
    assert made.stat().st_mode & 0o777 == 0o700
    assert folder.make(made) == made


def test_a_folder_of_this_users_is_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)

    assert folder.make(tmp_path / "run").stat().st_mode & 0o777 == 0o700


@root_only
@pytest.mark.parametrize(
    ("mode", "mounted", "safe"),
    [(0o777, True, True), (0o777, False, False), (0o1777, False, True), (0o755, False, False)],
)
def test_what_an_ordinary_user_is_given(tmp_path: Path, mode: int, mounted: bool, safe: bool) -> None:
    """A volume of Kubernetes belongs to root and is open to all; so is Docker's --tmpfs, but as /tmp is."""
    volume = tmp_path / "volume"
    volume.mkdir()
    for above in (tmp_path, *tmp_path.parents[:-2]):
        above.chmod(above.stat().st_mode | 0o011)
    code = """
import os, sys
from pathlib import Path
from toolpost.calls.errors import SandboxError
from toolpost.sandbox import folder, kernel
volume, mode, mounted, user = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "True", int(sys.argv[4])
if mounted:
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount("tmpfs", volume, "tmpfs")
os.chmod(volume, mode)
os.setresuid(user, user, user)
try:
    print(folder.make(Path(volume)))
except SandboxError as error:
    print(error)
"""
    command = [sys.executable, "-c", code, str(volume), str(mode), str(mounted), str(STRANGER)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()

    assert (said == f"{volume.resolve()}/user-{STRANGER}") is safe, said
    assert safe or "SANDBOX_ROOT" in said


@root_only
def test_the_reaper_takes_no_run_folder_of_a_stranger_for_one(tmp_path: Path) -> None:
    for name in ("l-1", "l-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").write_text("")
    of_a_stranger(tmp_path / "l-1")
    (tmp_path / "l-3").symlink_to("l-2")

    assert [name for name in ("l-1", "l-2", "l-3") if reaper.is_dead(tmp_path / name)] == ["l-2"]
