"""Runs the suite in a process of its own: python -m tests.sandbox.escapes BACK_END [--warm N] [--user UID] [--only …].

Prints one JSON object: the findings by case, and what is left after the back end was closed.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.sandbox.escapes.case import PROFILE
from tests.sandbox.escapes.harness import Harness, describe, wait_for
from tests.sandbox.escapes.plain import NoSandbox
from tests.sandbox.escapes.suite import CASES
from tests.sandbox.escapes.world import World, cgroups, descendants
from toolpost.sandbox.backend import Backend

LONGEST_S = 120
"""A run that takes longer ends, and says where it hung."""


def back_end(name: str, root: Path, warm: int, without: set[str]) -> Backend:
    if name == "none":
        return NoSandbox()
    if name == "native":
        from toolpost.sandbox.native import NativeBackend

        class Lacking(NativeBackend):
            """As on a kernel that lacks something."""

            def _config(self) -> dict[str, Any]:
                return super()._config() | dict.fromkeys(without, False)

        return Lacking(PROFILE, root, warm)
    if name == "bubblewrap":
        from toolpost.sandbox.bubblewrap import BubblewrapBackend

        return BubblewrapBackend(PROFILE, root, warm)
    if name in ("podman", "gvisor"):
        from tests.sandbox import images
        from toolpost.sandbox.containers import ContainerBackend

        runtime = images.podman(*(["runsc"] if name == "gvisor" else []))
        return ContainerBackend(PROFILE, root, warm, image=images.NAME, runtime=runtime, arguments=images.SHOWN)
    raise SystemExit(f"no back end is called {name}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("back_end")
    parser.add_argument("--warm", type=int, default=0)
    parser.add_argument("--only", default="", help="beginnings of ids, by commas")
    parser.add_argument("--say", action="store_true", help="a line for each case that is not contained, on stderr")
    parser.add_argument("--without", default="", help="what the kernel is to lack: cgroups, use_landlock, notify, …")
    parser.add_argument("--quick", action="store_true", help="leave out what waits for a limit")
    options = parser.parse_args()
    wanted = tuple(filter(None, options.only.split(",")))
    cases = [case for case in CASES if not wanted or case.id.startswith(wanted)]
    cases = [case for case in cases if not (options.quick and case.slow)]

    faulthandler.dump_traceback_later(LONGEST_S, exit=True)
    began = time.monotonic()
    world = World()
    root = Path(tempfile.mkdtemp(prefix="escapes-root-"))
    backend = back_end(options.back_end, root, options.warm, set(filter(None, options.without.split(","))))
    try:
        backend.start()
        harness = Harness(backend, world, control=options.back_end == "none")
        findings = harness.run(cases)
    finally:
        backend.close()
    victims = {victim.pid for victim in world.victims}
    left = []
    if not wait_for(lambda: descendants(os.getpid()) <= victims):
        left = [describe(pid) for pid in sorted(descendants(os.getpid()) - victims)]
    left += [str(path) for path in root.rglob("*") if path.name != "lock"] if options.back_end != "none" else []
    left += cgroups()
    world.close()
    shutil.rmtree(root, ignore_errors=True)
    told = {
        "findings": {one.id: one.complaints for one in findings},
        "got": sorted(one.id for one in findings if one.got),
        "left": left,
        "seconds": round(time.monotonic() - began, 1),
        "slowest": sorted(((round(one.seconds, 2), one.id) for one in findings), reverse=True)[:12],
        "statuses": {one.id: one.status for one in findings},
    }
    if options.say:
        for one in findings:
            if one.complaints:
                print(one.id, *one.complaints, sep="\n    ", file=sys.stderr)
        print({key: told[key] for key in ("got", "left", "seconds", "slowest")}, file=sys.stderr)
    print(json.dumps(told), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
