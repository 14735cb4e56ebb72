"""Services that go on when the command that started them has ended: who they are is kept in a file, not in memory."""

import json
import shutil
import signal
from typing import Any

from tests.services import processes
from tests.services.server import CACHE, Server

STATE = CACHE / "up.json"


def up(service: Server) -> None:
    """Start it, unless one of its kind runs already, and leave it running. Raises Missing, StartFailed."""
    state = noted()
    if service.name in running():
        return
    service.start()
    process = None if service.given else processes.find(service.pid)
    state[service.name] = {
        "process": process and [process.pid, process.birth, service.stop_signal],
        "folder": service.folder and str(service.folder),
        "variables": service.variables(),
    }
    write(state)


def noted() -> dict[str, dict[str, Any]]:
    """Service -> what `up` has noted about it: process, folder, variables."""
    return json.loads(STATE.read_text()) if STATE.exists() else {}


def running() -> dict[str, dict[str, Any]]:
    """What is noted of those that still run."""
    return {name: entry for name, entry in noted().items() if not entry["process"] or still_runs(*entry["process"])}


def still_runs(pid: int, birth: str, _: int) -> bool:
    process = processes.find(pid)
    return process is not None and process.birth == birth


def write(state: dict[str, dict[str, Any]]) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    STATE.touch(mode=0o600)  # It holds passwords.
    STATE.write_text(json.dumps(state, indent=1))


def down() -> None:
    """Stop what `up` has started, by pid, and remove the folders, also of those that have died meanwhile."""
    for entry in noted().values():
        if entry["process"] and still_runs(*entry["process"]):
            pid, _, number = entry["process"]
            processes.thaw(pid)
            processes.end(pid, signal.Signals(number), patience_s=20)
        if entry["folder"]:
            shutil.rmtree(entry["folder"], ignore_errors=True)
    STATE.unlink(missing_ok=True)
