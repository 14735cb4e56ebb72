"""The first process of a sandbox that bwrap has made, from the start of its interpreter on: it becomes the warden."""

from __future__ import annotations

import gc
import importlib
import marshal
import os
import socket
import sys
from typing import Any, NoReturn

from toolpost.sandbox import frames, group, program, warden


def main(told: str, channel: str, go: str, life: str) -> NoReturn:
    """told holds the configuration and the control group; the others are as the warden wants them."""
    fd = int(told)
    config, of_group = marshal.loads(os.pread(fd, os.fstat(fd).st_size, 0))
    try:
        before = list(sys.path)
        config["path"] = sys.path[:] = [*before, *config["package_paths"]]
        for name in config["preload"]:
            importlib.import_module(name)
        sys.path[:] = before
        program.prepare(config)
    except BaseException as error:
        with socket.socket(fileno=int(channel)) as engine:
            engine.sendall(frames.packed({"error": f"import what is preloaded: {error}"}))
        os._exit(1)
    gc.collect()
    gc.freeze()
    gc.disable()
    warden.main(config, int(channel), _group(of_group), int(go), int(life))


def _group(told: dict[str, Any] | None) -> group.Group | None:
    return None if told is None else group.heard(told)
