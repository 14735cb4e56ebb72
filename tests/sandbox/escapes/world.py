"""World: what is planted on the host for hostile programs to find, and how the host is looked at afterwards."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

C = ctypes.CDLL(None, use_errno=True)
C.syscall.restype = ctypes.c_long
C.shmat.restype = ctypes.c_void_p
C.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
C.shmdt.argtypes = [ctypes.c_void_p]
ADD_KEY, KEYCTL, SHMGET = (248, 250, 29) if platform.machine() == "x86_64" else (217, 219, 194)
SESSION_KEYRING, UNLINK = -3, 9
SHM_KEY = 0x70617370
SETTLE_S = 3.0
OWN_PLACES = frozenset(
    "/ /box /box/m /usr /etc /tmp /var/tmp /dev /dev/shm /proc /proc/sys /sys /root /home /old".split()
)


class World:
    """Canaries, listeners, shared memory, a key and victims. close() takes all of it away again.

    What belongs to the run has a random name, so that several worlds can be at once on a machine.
    """

    def __init__(self) -> None:
        self.token = f"canary-{secrets.token_hex(12)}"
        self.tag = secrets.token_hex(4)
        self.folder = Path(tempfile.mkdtemp(prefix="escapes-"))
        self.folder.chmod(0o755)
        self.hits: Counter[str] = Counter()
        self._open = contextlib.ExitStack()
        os.environ["TOOLPOST_TEST_CANARY"] = self.token
        # Orphans come to this process, so that none that leaves its sandbox is out of sight.
        C.prctl(36, 1, 0, 0, 0)
        self._plant_files()
        self._plant_listeners()
        self._plant_ipc()
        self.victims = [subprocess.Popen(["sleep", "1000"])]
        if os.geteuid() == 0:
            self.victims.append(subprocess.Popen(["sleep", "1000"], user=65533))
        self.leak = os.open(self.folder / "private", os.O_RDONLY)
        os.set_inheritable(self.leak, True)
        self.hostname = os.uname().nodename
        self.words = {
            "dir": str(self.folder),
            "port": str(self.port),
            "udp": str(self.udp_port),
            "lan": self.lan,
            "host": self.hostname,
            "victim": str(self.victims[0].pid),
            "victim2": str(self.victims[-1].pid),
            "engine": str(os.getpid()),
            "abstract": f"escapes-{self.tag}",
            "shm": f"/dev/shm/escapes-{self.tag}",
            "shmkey": str(self.shm_key),
            "queue": f"/escapes-{self.tag}",
            "key": f"escapes-{self.tag}",
            "tag": self.tag,
        }
        self.files = self._listing()
        self.mounts = self._mounts()
        self.offset = time.time() - time.monotonic()
        self.ipc = self._ipc()

    def _plant_files(self) -> None:
        for name, mode in (("world", 0o644), ("private", 0o600)):
            path = self.folder / name
            path.write_text(self.token)
            path.chmod(mode)
        self.shm_file = Path(f"/dev/shm/escapes-{self.tag}")
        self.shm_file.write_text(self.token)
        self.shm_file.chmod(0o666)

    def _plant_listeners(self) -> None:
        self.port = self._listen(socket.AF_INET, ("127.0.0.1", 0)).getsockname()[1]
        self.lan = next((one for one in self._own_addresses() if self._also_listens(one)), "127.0.0.1")
        with contextlib.suppress(OSError):
            self._listen(socket.AF_INET6, ("::1", self.port))
        self._listen(socket.AF_UNIX, f"\0escapes-{self.tag}")
        path = str(self.folder / "socket")
        self._listen(socket.AF_UNIX, path)
        os.chmod(path, 0o777)
        self.udp_port = self._receive(socket.AF_INET, ("127.0.0.1", 0)).getsockname()[1]
        self._receive(socket.AF_UNIX, f"\0escapes-{self.tag}-letters")

    @staticmethod
    def _own_addresses() -> list[str]:
        said = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout.split()
        return [one for one in said if ":" not in one]

    def _also_listens(self, address: str) -> bool:
        try:
            self._listen(socket.AF_INET, (address, self.port))
        except OSError:
            return False
        return True

    def _listen(self, family: int, address: object) -> socket.socket:
        listener = self._open.enter_context(socket.socket(family, socket.SOCK_STREAM))
        listener.bind(address)  # type: ignore[arg-type]
        listener.listen(16)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()
                    self.hits[f"{address!r}"] += 1

        threading.Thread(target=accept, daemon=True).start()
        return listener

    def _receive(self, family: int, address: object) -> socket.socket:
        receiver = self._open.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        receiver.bind(address)  # type: ignore[arg-type]

        def receive() -> None:
            with contextlib.suppress(OSError):
                while True:
                    receiver.recv(2048)
                    self.hits[f"datagram {address!r}"] += 1

        threading.Thread(target=receive, daemon=True).start()
        return receiver

    def _plant_ipc(self) -> None:
        self.shm_key = SHM_KEY + int(self.tag, 16) % 100_000
        self.shm_id = C.syscall(SHMGET, self.shm_key, ctypes.c_size_t(4096), 0o1666)
        place = C.shmat(self.shm_id, None, 0)
        ctypes.memmove(place, self.token.encode(), len(self.token))
        C.shmdt(place)
        self.queue = C.mq_open(f"/escapes-{self.tag}".encode(), os.O_CREAT | os.O_RDWR, 0o666, None)
        value = self.token.encode()
        ring = ctypes.c_int(SESSION_KEYRING)
        self.key = C.syscall(ADD_KEY, b"user", f"escapes-{self.tag}".encode(), value, ctypes.c_size_t(len(value)), ring)

    def complaints(self) -> Iterator[str]:
        """What the host shows that no program in a sandbox may cause. Counters begin anew."""
        hits, self.hits = self.hits, Counter()
        if hits:
            yield f"host listeners were reached: {dict(hits)}"
        for victim in self.victims:
            if victim.poll() is not None:
                yield f"a process of the host was killed: {victim.returncode}"
            elif state(victim.pid) == "T":
                os.kill(victim.pid, signal.SIGCONT)
                yield "a process of the host was stopped"
        if (now := self._listing()) != self.files:
            yield f"files of the host changed: {sorted(set(now.items()) ^ set(self.files.items()))[:4]}"
            self.files = now
        if (mounts := self._mounts()) != self.mounts:
            yield f"mounts of the host changed: {sorted(mounts ^ self.mounts)[:4]}"
            self.mounts = mounts
        if os.uname().nodename != self.hostname:
            yield "the host's name changed"
        if abs(time.time() - time.monotonic() - self.offset) > 5.0:
            yield "the host's clock was set"
        for path in ("/etc", "/tmp", "/dev/shm", "/root", "/home", "/usr", "/var/tmp"):
            if os.path.exists(f"{path}/escaped-{self.tag}"):
                yield f"{path}/escaped-{self.tag} was written on the host"
        if (ipc := self._ipc()) - self.ipc:
            yield f"shared memory, queues or semaphores were left: {sorted(ipc - self.ipc)[:4]}"
            self.ipc = ipc
        if self.shm_file.read_text() != self.token:
            yield "shared memory of the host was written"

    def _listing(self) -> dict[str, str]:
        return {
            path.name: f"{path.lstat().st_mode:o} {path.lstat().st_size} {path.lstat().st_nlink}"
            for path in self.folder.iterdir()
        }

    @staticmethod
    def _mounts() -> frozenset[str]:
        """Where the host has mounts, of the places that a program in a sandbox could have made them at."""
        points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
        return frozenset(point for point in points if point in OWN_PLACES or "escapes-" in point)

    def _ipc(self) -> frozenset[str]:
        """Names of what hostile programs make is known; others may come and go on a host."""
        found = [one for one in os.listdir("/dev/shm") if f"hostile-{self.tag}" in one]
        keys = {str(self.shm_key + one) for one in range(1, 20)}
        for kind in ("shm", "msg", "sem"):
            lines = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]
            found += [f"{kind} {line.split()[0]}" for line in lines if line.split()[0] in keys]
        return frozenset(found)

    def close(self) -> None:
        for victim in self.victims:
            victim.kill()
            victim.wait()
        os.close(self.leak)
        self._open.close()
        C.syscall(31 if SHMGET == 29 else 195, self.shm_id, 0, None)
        C.mq_unlink(f"/escapes-{self.tag}".encode())
        C.syscall(KEYCTL, UNLINK, ctypes.c_int(self.key), ctypes.c_int(SESSION_KEYRING))
        self.shm_file.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        os.environ.pop("TOOLPOST_TEST_CANARY", None)


def state(pid: int) -> str:
    """The state letter of a process, "" where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def descendants(root: int) -> set[int]:
    """Every live process below one; what waits for its parent to collect it does not count."""
    children: dict[int, list[int]] = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            fields = Path(path).read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] not in "ZX":
            children.setdefault(int(fields[1]), []).append(int(path.split("/")[2]))
    found: set[int] = set()
    todo = [root]
    while todo:
        for child in children.get(todo.pop(), []):
            found.add(child)
            todo.append(child)
    return found


def cgroups() -> list[str]:
    """Control groups of this process's sandboxes, in every hierarchy."""
    mine = f".l-{os.getpid()}-"
    return [f"{folder}/{name}" for folder, names, _ in os.walk("/sys/fs/cgroup") for name in names if mine in name]


def available_mb() -> int:
    """Memory that the host can give without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) // 1024


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
