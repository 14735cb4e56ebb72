"""A PostgreSQL server: durable, on loopback, with a password of its own; a superuser's COPY could run programs."""

import ctypes
import os
import pwd
import secrets
import shutil
import signal
import struct
from pathlib import Path

from tests.services.server import HOST, Missing, Server, ask


class Postgres(Server):
    """The newest PostgreSQL of this machine."""

    name = "postgres"
    variable = "TOOLPOST_TEST_POSTGRES"
    package = "postgresql"
    # Fast shutdown: open sessions are ended, the others of PostgreSQL's ways wait for them or skip the checkpoint.
    stop_signal = signal.SIGINT
    password: str

    @classmethod
    def find(cls) -> Path:
        """The folder of its programs; Debian keeps them off the search path."""
        debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
        found = debian[-1] if debian else shutil.which("initdb")
        if found is None:
            raise Missing(f"install PostgreSQL (Debian: {cls.package}), or set {cls.variable} to a server's URL")
        return Path(found).resolve().parent

    def make(self, folder: Path) -> None:
        self.password = secrets.token_hex(8)
        folder.joinpath("password").write_text(self.password)
        if os.geteuid() == 0:
            self.user = unprivileged_user()
            for path in (folder, folder / "password"):
                shutil.chown(path, self.user)
        self.run(
            f"{self.find()}/initdb",
            f"--pgdata={folder}/data",
            "--username=postgres",
            f"--pwfile={folder}/password",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            # Only the empty cluster is not flushed, which a power cut alone could show.
            "--no-sync",
        )

    def command(self, folder: Path) -> list[str]:
        settings = {
            "listen_addresses": HOST,
            "unix_socket_directories": str(folder),
            "max_connections": "100",
            "fsync": "on",
            "synchronous_commit": "on",
            # Kept inside the folder, so that a killed server leaves nothing in /dev/shm.
            "dynamic_shared_memory_type": "mmap",
        }
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        return [f"{self.find()}/postgres", "-D", f"{folder}/data", "-p", str(self.port), *options]

    def answers(self) -> bool:
        """Whether it asks for the password; while it starts or recovers, it answers with an error instead."""
        packet = struct.pack(">i", 196608) + b"user\0postgres\0database\0postgres\0\0"
        return ask(self.port, struct.pack(">i", len(packet) + 4) + packet, max_bytes=1) == b"R"

    def own_url(self) -> str:
        return f"postgresql://postgres:{self.password}@{HOST}:{self.port}/postgres"

    def stop(self) -> None:
        if self.folder is not None:
            self.halt()
            free_shared_memory(self.folder / "data" / "postmaster.pid")
        super().stop()


def unprivileged_user() -> str:
    """Whom to run as for root, whom PostgreSQL refuses."""
    for user in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(user).pw_name
        except KeyError:
            continue
    raise Missing("PostgreSQL does not run as root: run the tests as another user, or make a user called postgres")


def free_shared_memory(pid_file: Path) -> None:
    """Remove the segment that a killed server has left; its key and id are in the seventh line of the file it left."""
    lines = pid_file.read_text().splitlines() if pid_file.exists() else []
    if len(lines) > 6 and len(lines[6].split()) == 2:
        ctypes.CDLL(None).shmctl(int(lines[6].split()[1]), 0, None)
