"""A stand-in for podman where it is not installed: it runs what it is told in a bwrap, without image or control groups.

It shows that the back end's own part works. What podman itself does is only shown where that is.
"""

import json
import os
import sys

INFO = {
    "host": {
        "cgroupControllers": [],
        "cgroupManager": "cgroupfs",
        "cgroupVersion": "v2",
        "ociRuntime": {"name": "crun"},
        "security": {"rootless": True},
    },
    "version": {"Version": "0.0 (a stand-in)"},
}
TAKES_NO_VALUE = ("--rm", "--interactive", "--read-only", "--read-only-tmpfs=false")


def main(words: list[str]) -> None:
    if words[0] == "info":
        print(json.dumps(INFO))
    if words[0] != "run":
        return
    options: list[tuple[str, str]] = []
    at = 1
    while words[at].startswith("-"):
        alone = words[at] in TAKES_NO_VALUE
        options.append((words[at], "" if alone else words[at + 1]))
        at += 1 if alone else 2
    command = [dict(options)["--entrypoint"], *words[at + 1 :]]
    bwrap = ["bwrap", "--die-with-parent", "--as-pid-1", "--uid", "1000", "--gid", "1000", "--hostname", "sandbox"]
    bwrap += ["--cap-drop", "ALL"]
    bwrap += [f"--unshare-{one}" for one in ("user", "pid", "net", "ipc", "uts")]
    bwrap += ["--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev", "--dir", "/var/tmp"]
    for link in ("bin", "sbin", "lib", "lib64"):
        bwrap += ["--symlink", f"usr/{link}", f"/{link}"]
    for place in (value for name, value in options if name == "--tmpfs"):
        folder, _, given = place.partition(":")
        size = dict(one.split("=") for one in given.split(",") if "=" in one)["size"]
        bwrap += ["--perms", "1777", "--size", size, "--tmpfs", folder]
    bwrap += ["--remount-ro", "/", "--chdir", "/box"]
    os.execvp("bwrap", [*bwrap, "--", *command])


if __name__ == "__main__":
    main(sys.argv[1:])
