"""Installs Debian packages without letting them start anything: the servers of the tests are the tests' own."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLICY = Path("/usr/sbin/policy-rc.d")
FORBIDDEN = "#!/bin/sh\nexit 101\n"


def installable() -> bool:
    """Whether this process may install Debian packages."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def apt_install(packages: list[str]) -> None:
    """Install packages. Raises CalledProcessError, its output on the standard error."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with nothing_started():
        for words in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            subprocess.run(["apt-get", "-qq", *words], check=True, env=environment, stdout=subprocess.DEVNULL)


@contextmanager
def nothing_started() -> Iterator[None]:
    """Forbid packages to start their services, then put back what was there before."""
    kept = POLICY.with_name(f"{POLICY.name}.toolpost")
    had = POLICY.exists()
    if had:
        shutil.copy2(POLICY, kept)
    try:
        POLICY.write_text(FORBIDDEN)
        POLICY.chmod(0o755)
        yield
    finally:
        kept.replace(POLICY) if had else POLICY.unlink(missing_ok=True)
